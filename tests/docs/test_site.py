"""The site: builds without a warning, shows every page, and loads nothing from another host."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.blocks import ROOT, pages

# Elements whose address a browser loads by itself.
_LOADED: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset", "audio": "src"}


class Page(HTMLParser):
    """The links, ids and text of one page.

    Attributes:
        loaded: addresses that a browser fetches with the page.
        linked: targets of its links.
        anchors: ids that a link can name.
        copied: texts that copy buttons put into the clipboard in place of the block.
        console_blocks: number of blocks with commands.
        text: everything between tags.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.copied: list[str] = []
        self.console_blocks = 0
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (target := given.get(_LOADED.get(tag, ""))) is not None:
            self.loaded.append(target)
        if tag == "a" and (target := given.get("href")) is not None:
            self.linked.append(target)
        if (commands := given.get("data-copy")) is not None:
            self.copied.append(commands)
        self.console_blocks += "language-console" in (given.get("class") or "").split()
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the site as `make docs` does. With --quiet, --strict would overlook warnings."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def site_pages(site: Path) -> dict[str, Page]:
    """Returns every page by its path in the site."""
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_of_the_repository_is_on_the_site(site_pages: dict[str, Page]) -> None:
    expected = {page.removeprefix("docs/").replace(".md", ".html") for page in pages()} - {"README.html"}
    assert expected | {"index.html", "CHANGELOG.html", "ARCHITECTURE.html"} <= set(site_pages)


def test_nothing_is_loaded_from_another_host(site: Path, site_pages: dict[str, Page]) -> None:
    foreign = {(name, each) for name, page in site_pages.items() for each in page.loaded if urlsplit(each).netloc}
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_no_page_names_the_build_machine(site_pages: dict[str, Page]) -> None:
    for name, page in site_pages.items():
        assert str(ROOT) not in page.text, name
        assert sys.prefix not in page.text, name
    assert "cores ÷ workers" in site_pages["reference/commands.html"].text


def test_every_link_has_a_target(site: Path, site_pages: dict[str, Page]) -> None:
    dead = set()
    for name, page in site_pages.items():
        if name == "404.html":  # its links start at the root of a host
            continue
        for target in page.linked + page.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target_page = site_pages.get(os.path.relpath(path, site))
            anchor = unquote(parts.fragment)
            if not path.exists() or (anchor and target_page is not None and anchor not in target_page.anchors):
                dead.add((name, target))
    assert not dead


def test_a_link_to_a_source_file_leads_to_its_page() -> None:
    spec = importlib.util.spec_from_file_location("repository_files", ROOT / "docs" / "hooks" / "repository_files.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    markdown = "[here](examples/a.py) [there](https://example.org/a.py)"
    linked = hook.on_page_markdown(markdown, page=None, config=None, files=None)
    assert linked == "[here](examples/a.py.md) [there](https://example.org/a.py)"


def test_equations_are_drawn(site: Path) -> None:
    text = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert text.count('class="equation"') > 20
    assert "arithmatex" not in text


def test_every_command_is_in_the_reference(site_pages: dict[str, Page]) -> None:
    from thetaprime.cli._main import SUBCOMMANDS

    page = site_pages["reference/commands.html"]
    assert {f"thetaprime-{name}" for name in SUBCOMMANDS} <= page.anchors
    assert "thetaprime-store-check" in page.anchors
    assert "--max-tenant-adaptations-per-second" in page.text
    assert "<name>/<version>/manifest.json" in page.text


@pytest.mark.parametrize("package", ["client", "client.aio", "wire", "models", "training"])
def test_every_public_name_is_in_the_reference(package: str, site_pages: dict[str, Page]) -> None:
    module = importlib.import_module(f"thetaprime.{package}")
    page = site_pages[f"reference/{package.rpartition('.')[2]}.html"]
    documented = {anchor.rpartition(".")[2] for anchor in page.anchors if anchor.startswith("thetaprime.")}
    assert set(module.__all__) <= documented


def test_a_console_block_is_copied_without_prompts_and_output(site_pages: dict[str, Page]) -> None:
    copied = site_pages["tutorial.html"].copied
    assert "thetaprime serve --store ./state" in copied  # its output is left out
    continued = next(each for each in copied if each.startswith("thetaprime adapt point-navigation"))
    assert continued.splitlines()[0].endswith("\\")
    assert continued.splitlines()[1].startswith("    --env-args")
    for name, page in site_pages.items():
        assert len(page.copied) == page.console_blocks, name
        assert all(each and not each.startswith("$") for each in page.copied), name


def test_every_name_of_the_reference_shows_its_source(site_pages: dict[str, Page]) -> None:
    for package in ("client", "aio", "wire", "models", "training"):
        assert "Source code in" in site_pages[f"reference/{package}.html"].text, package
    # The README links to the code that a newcomer looks for.
    home = set(site_pages["index.html"].linked)
    for source in ("models/thetaprime/models/inner_loop.py", "proto/thetaprime/v1/adaptation_service.proto"):
        assert f"{source}.html" in home
        assert f"{source}.html" in site_pages


def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("REINFORCE" in each["text"] for each in index["docs"])
    assert (site / "search" / "search_index.js").is_file()  # search without a server


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_it(scheme: str, width: int, browser: Any, site: Path) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        tab = context.new_page()
        tab.goto((site / "index.html").as_uri())
        # Links in prose differ from text by more than their color.
        link = tab.locator(".md-content p a:not(.headerlink)").first
        assert link.evaluate("each => getComputedStyle(each).textDecorationLine") == "underline"
        # Nothing is wider than the screen.
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        # Pictures are loaded.
        widths = tab.locator(".md-content img").evaluate_all("images => images.map(each => each.naturalWidth)")
        assert len(widths) == 2
        assert all(widths)
        # The button copies the command, without prompt and output.
        tab.evaluate("window.copied = []")
        tab.evaluate("document.addEventListener('copy', event => copied.push(document.activeElement.value), true)")
        block = tab.locator(".language-console", has_text="serving on").first
        block.locator("button[data-clipboard-target], .md-code__button").first.click()
        tab.wait_for_function("copied.length > 0")
        assert tab.evaluate("copied") == ["thetaprime serve --store ./state"]
