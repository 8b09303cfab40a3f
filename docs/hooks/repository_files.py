"""Gives the site the paths of the repository, so that a link that works in the repository works on the site.

Pages in docs/ link to the README, to model cards and figures beside the weights, and to source files. The site contains
every file that docs/ and the README link to, directly or through another page. A linked source file becomes a page that
shows the file.
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

_FIRST: Final = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_LANGUAGES: Final = {".py": "python", ".toml": "toml", ".proto": "protobuf", ".yaml": "yaml"}
_SOURCE_LINK: Final = re.compile(r"(\]\((?!https?:)[^)\s#]+\.(?:py|toml|proto|yaml))\)")
_HTML_PICTURE: Final = re.compile(r'(\b(?:src|srcset)=")([^":\s]+)(")')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the site: those of docs/ by their path in the repository, and every linked file."""
    root = Path(config.config_file_path).parent
    folder = Path(config.docs_dir).relative_to(root).as_posix()
    found = Files([])
    pending = list(_FIRST)
    for file in files:
        if file.src_dir != config.docs_dir:
            found.append(file)  # a file of the theme
        elif file.inclusion is not InclusionLevel.EXCLUDED:
            pending.append(f"{folder}/{file.src_uri}")
    while pending:
        path = pending.pop()
        if found.get_file_from_path(path) is not None or found.get_file_from_path(f"{path}.md") is not None:
            continue
        found.append(_file(root, path, folder, config))
        if path.endswith(".md"):
            pending.extend(each for each in _links(root, path) if (root / each).is_file())
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links to source files and the pictures in HTML to their addresses on the site."""
    markdown = _SOURCE_LINK.sub(r"\1.md)", markdown)

    def to_site(match: re.Match[str]) -> str:
        picture = files.get_file_from_path(_join(page.file.src_uri, match[2]))
        if picture is None:
            raise PluginError(f"{page.file.src_uri} shows {match[2]}, which does not exist")
        return f"{match[1]}{picture.url_relative_to(page.file)}{match[3]}"

    return _HTML_PICTURE.sub(to_site, markdown)


def _file(root: Path, path: str, folder: str, config: MkDocsConfig) -> File:
    """Returns a file of the site by its path in the repository. docs/ is the site's root, the README its first page."""
    language = _LANGUAGES.get(Path(path).suffix)
    if language is not None:
        content = f"# {path}\n\n```{language}\n{(root / path).read_text(encoding='utf-8')}```\n"
        return File.generated(config, f"{path}.md", content=content, inclusion=InclusionLevel.NOT_IN_NAV)
    file = File(path, str(root), config.site_dir, config.use_directory_urls)
    file.dest_uri = file.dest_uri.removeprefix(f"{folder}/")
    return file


def _links(root: Path, path: str) -> Iterator[str]:
    """Yields the paths in the repository that a page links to or shows."""
    text = (root / path).read_text(encoding="utf-8")
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None and not urlsplit(str(target)).scheme and not str(target).startswith("#"):
                yield _join(path, str(target))
    for match in _HTML_PICTURE.finditer(text):
        yield _join(path, match[2])


def _join(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(urlsplit(target).path)))
