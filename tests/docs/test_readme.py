"""The README's picture and citation."""

import tomllib
from typing import Any

import yaml
from PIL import Image

from tests.docs.blocks import ROOT

PICTURE = ROOT / "docs" / "images" / "adaptation.webp"


def test_the_picture_moves_and_loads_fast() -> None:
    with Image.open(PICTURE) as picture:
        assert getattr(picture, "n_frames", 1) > 50
    assert PICTURE.stat().st_size < 1.5e6
    assert PICTURE.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
