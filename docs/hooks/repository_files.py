"""Lets the site have the repository's tree, so that a link that works there works on the site.

Pages live in docs/, and link to the README, to model cards and figures beside the weights, and to examples. On the site
every file is known by its path in the repository; what docs/ and the README link to, and what that links to, is taken
along. A linked program becomes a page that shows it.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_FIRST: Final = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
_PROGRAMS: Final = {".py": "python", ".toml": "toml", ".proto": "protobuf", ".yaml": "yaml"}
_PROGRAM_LINK: Final = re.compile(r"(\]\([^)\s#]+\.(?:py|toml|proto|yaml))\)")
_HTML_SOURCE: Final = re.compile(r'(\b(?:src|srcset)=")([^":\s]+)(")')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Gives every file its path in the repository, and adds those that are linked to."""
    root = Path(config.config_file_path).parent
    folder = Path(config.docs_dir).relative_to(root).as_posix()
    taken = Files([])
    pending = list(_FIRST)
    for file in files:
        if file.src_dir != config.docs_dir:
            taken.append(file)  # the theme's
        elif file.inclusion is not InclusionLevel.EXCLUDED:
            pending.append(f"{folder}/{file.src_uri}")
    while pending:
        path = pending.pop()
        if taken.get_file_from_path(path) is not None or taken.get_file_from_path(f"{path}.md") is not None:
            continue
        taken.append(_file(root, path, folder, config))
        if path.endswith(".md"):
            pending.extend(each for each in _links(root, path) if (root / each).is_file())
    return taken


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to programs to their pages, and HTML's pictures to where they are on the site."""
    markdown = _PROGRAM_LINK.sub(r"\1.md)", markdown)

    def on_the_site(match: re.Match[str]) -> str:
        found = files.get_file_from_path(_join(page.file.src_uri, match[2]))
        if found is None:
            raise PluginError(f"{page.file.src_uri} shows {match[2]}, which is not there")
        return f"{match[1]}{found.url_relative_to(page.file)}{match[3]}"

    return _HTML_SOURCE.sub(on_the_site, markdown)


def _file(root: Path, path: str, folder: str, config: MkDocsConfig) -> File:
    """A file by its path in the repository; docs/ is the site's root, and the README its first page."""
    language = _PROGRAMS.get(Path(path).suffix)
    if language is not None:
        content = f"# {path}\n\n```{language}\n{(root / path).read_text(encoding='utf-8')}```\n"
        return File.generated(config, f"{path}.md", content=content, inclusion=InclusionLevel.NOT_IN_NAV)
    made = File(path, str(root), config.site_dir, config.use_directory_urls)
    made.dest_uri = made.dest_uri.removeprefix(f"{folder}/")
    return made


def _links(root: Path, path: str) -> Iterator[str]:
    """Paths of the repository that a page links to or shows."""
    text = (root / path).read_text(encoding="utf-8")
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None and not urlsplit(str(target)).scheme and not str(target).startswith("#"):
                yield _join(path, str(target))
    for match in _HTML_SOURCE.finditer(text):
        yield _join(path, match[2])


def _join(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(urlsplit(target).path)))
