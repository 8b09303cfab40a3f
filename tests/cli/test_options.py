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
    """The rate."""
    sizes: tuple[pydantic.PositiveInt, ...] = (100, 100)
    """The sizes."""


class Config(pydantic.BaseModel, use_attribute_docstrings=True):
    """A configuration."""

    name: str
    """The name,
    in one word."""
    max_count: pydantic.PositiveInt = 10
    """The largest count."""
    seed: int | None = None
    """The start."""
    folders: tuple[Path, ...] = pydantic.Field(default_factory=lambda: (Path("here"),))
    """Folders to search."""
    fast: bool = False
    """Whether to hurry."""
    method: Literal["one", "two"] = "one"
    """The method."""
    inner: Inner = Inner()
    """The inner model."""
    part: Inner | None = None
    """A model that may be missing."""


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


def test_an_optional_model_has_options_too() -> None:
    assert parse("--part-rate", "0.5") == {"extra": 3, "part.rate": 0.5}


def test_only_typed_options_are_passed_on() -> None:
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


def test_the_help_comes_from_the_model() -> None:
    @click.command()
    @options_from(Config, exclude=frozenset({"inner.rate"}))
    def command(given: dict[str, Any]) -> None:
        """A command."""

    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "A command." in text
    assert "--name TEXT The name, in one word." in text
    assert "--max-count INTEGER The largest count. [default: 10]" in text
    assert "--folders PATH Folders to search. May be given several times. [default: here]" in text
    assert "--inner-sizes INTEGER The sizes. May be given several times. [default: 100, 100]" in text
    assert "--method [one|two] The method. [default: one]" in text
    assert "--inner-rate" not in text
    options = [word for word in text.split() if word.startswith("--")]
    assert options[:3] == ["--name", "--max-count", "--seed"]  # in the model's order


def test_values_of_the_wrong_type_are_refused() -> None:
    @click.command()
    @options_from(Config)
    def command(given: dict[str, Any]) -> None: ...

    for args in (["--max-count", "many"], ["--method", "three"], ["--inner-sizes", "big"]):
        assert CliRunner().invoke(command, args).exit_code == 2
