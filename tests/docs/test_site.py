"""The site: it builds without a warning, shows every page, and needs nothing from elsewhere."""

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.blocks import ROOT, pages

# What a browser loads by itself; where an <a> leads is the reader's to choose.
_LOADED: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset", "audio": "src"}


class Page(HTMLParser):
    """What one page loads, leads to, and names.

    Attributes:
        loaded: what a browser fetches with it.
        linked: where it leads.
        anchors: places in it that can be led to.
        text: everything between tags.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (target := given.get(_LOADED.get(tag, ""))) is not None:
            self.loaded.append(target)
        if tag == "a" and (target := given.get("href")) is not None:
            self.linked.append(target)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; not with --quiet, which has --strict overlook warnings."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def site_pages(site: Path) -> dict[str, Page]:
    """Every page, by its path in the site."""
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_of_the_repository_is_on_the_site(site_pages: dict[str, Page]) -> None:
    expected = {page.removeprefix("docs/").replace(".md", ".html") for page in pages()} - {"README.html"}
    assert expected | {"index.html", "CHANGELOG.html", "ARCHITECTURE.html"} <= set(site_pages)


def test_nothing_is_loaded_from_elsewhere(site: Path, site_pages: dict[str, Page]) -> None:
    foreign = {(name, each) for name, page in site_pages.items() for each in page.loaded if urlsplit(each).netloc}
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_it_tells_nothing_of_where_it_was_built(site_pages: dict[str, Page]) -> None:
    for name, page in site_pages.items():
        assert str(ROOT) not in page.text, name
        assert sys.prefix not in page.text, name
    assert "cores ÷ workers" in site_pages["reference/commands.html"].text


def test_every_link_leads_somewhere(site: Path, site_pages: dict[str, Page]) -> None:
    dead = set()
    for name, page in site_pages.items():
        if name == "404.html":  # its links are meant from the root of a host
            continue
        for target in page.linked + page.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            leads_to = site_pages.get(os.path.relpath(path, site))
            anchor = unquote(parts.fragment)
            if not path.exists() or (anchor and leads_to is not None and anchor not in leads_to.anchors):
                dead.add((name, target))
    assert not dead


def test_equations_are_drawn(site: Path) -> None:
    text = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert text.count('class="equation"') > 20
    assert "arithmatex" not in text


def test_the_commands_are_all_there(site_pages: dict[str, Page]) -> None:
    from thetaprime.cli._main import SUBCOMMANDS

    page = site_pages["reference/commands.html"]
    assert {f"thetaprime-{name}" for name in SUBCOMMANDS} <= page.anchors
    assert "--max-tenant-adaptations-per-second" in page.text
    assert "laid out as <name>/<version>/manifest.json" in page.text


@pytest.mark.parametrize("package", ["client", "client.aio", "wire", "models", "training"])
def test_every_public_name_is_in_the_reference(package: str, site_pages: dict[str, Page]) -> None:
    module = importlib.import_module(f"thetaprime.{package}")
    page = site_pages[f"reference/{package.rpartition('.')[2]}.html"]
    documented = {anchor.rpartition(".")[2] for anchor in page.anchors if anchor.startswith("thetaprime.")}
    assert set(module.__all__) <= documented


def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("REINFORCE" in each["text"] for each in index["docs"])
    assert (site / "search" / "search_index.js").is_file()  # for who opens it as files
