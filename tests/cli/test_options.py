"""Options from a pydantic model."""

from pathlib import Path
from typing import Any, Literal

import click
import pydantic
import pytest
from click.testing import CliRunner

from thetaprime.cli._options import options_from


class Inner(pydantic.BaseModel, use_attribute_docstrings=True):
    rate: pydantic.PositiveFloat = 0.1
    """How fast."""
    sizes: tuple[pydantic.PositiveInt, ...] = (100, 100)
    """How large."""


class Config(pydantic.BaseModel, use_attribute_docstrings=True):
    """A configuration."""

    name: str
    """What it is called,
    in one word."""
    max_count: pydantic.PositiveInt = 10
    """How many."""
    seed: int | None = None
    """Where to start."""
    folders: tuple[Path, ...] = pydantic.Field(default_factory=lambda: (Path("here"),))
    """Where to look."""
    fast: bool = False
    """Hurry."""
    method: Literal["one", "two"] = "one"
    """Which way."""
    inner: Inner = Inner()
    """Within."""


def parse(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.command()
    @options_from(Config)
    @click.option("--extra", type=int, default=3)
    def command(given: dict[str, Any], extra: int) -> None:
        found.update(given, extra=extra)

    result = CliRunner().invoke(command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_only_what_was_typed_is_given() -> None:
    assert parse() == {"extra": 3}


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (("--name", "x"), "name", "x"),
        (("--max-count", "7"), "max_count", 7),
        (("--seed", "0"), "seed", 0),
        (("--folders", "a", "--folders", "b"), "folders", (Path("a"), Path("b"))),
        (("--fast",), "fast", True),
        (("--no-fast",), "fast", False),
        (("--method", "two"), "method", "two"),
        (("--inner-rate", "0.5"), "inner.rate", 0.5),
        (("--inner-sizes", "3"), "inner.sizes", (3,)),
        (("--extra", "4"), "extra", 4),
    ],
)
def test_every_kind_of_field(args: tuple[str, ...], field: str, value: object) -> None:
    assert parse(*args) == {"extra": 3, field: value}


def test_the_help_is_the_models() -> None:
    @click.command()
    @options_from(Config, exclude=frozenset({"inner.rate"}))
    def command(given: dict[str, Any]) -> None:
        """What it does."""

    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "What it does." in text
    assert "--name TEXT What it is called, in one word." in text
    assert "--max-count INTEGER How many. [default: 10]" in text
    assert "--folders PATH Where to look. May be given several times. [default: here]" in text
    assert "--inner-sizes INTEGER How large. May be given several times. [default: 100, 100]" in text
    assert "--method [one|two] Which way. [default: one]" in text
    assert "--inner-rate" not in text
    options = [word for word in text.split() if word.startswith("--")]
    assert options[:3] == ["--name", "--max-count", "--seed"]  # in the model's order


def test_what_click_can_read_the_wrong_way_it_refuses() -> None:
    @click.command()
    @options_from(Config)
    def command(given: dict[str, Any]) -> None: ...

    for args in (["--max-count", "many"], ["--method", "three"], ["--inner-sizes", "big"]):
        assert CliRunner().invoke(command, args).exit_code == 2
