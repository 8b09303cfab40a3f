"""Command-line options from a pydantic model, so that a configuration is described once: where it stands."""

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import click
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_Function = TypeVar("_Function", bound=Callable[..., Any])
_CLICK_TYPES: Final[dict[Any, Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.Path(path_type=Path),
}


def options_from(
    model: type[pydantic.BaseModel], *, exclude: frozenset[str] = frozenset()
) -> Callable[[_Function], _Function]:
    """A decorator that gives a click command one option for each field of a model.

    ``max_sessions: int = 10`` with a docstring becomes ``--max-sessions INTEGER``, that text and ``[default: 10]``;
    a bool becomes ``--x / --no-x``; a tuple may be given several times; a model within the model puts its name
    in front. Click only reads the values: whether they fit is the model's to say.

    The command is called with ``given``: what the user typed, by dotted field name (``adaptation.inner_lr``).
    Fields that were not typed are not in it, so files and environment variables can come in between.

    Args:
        model: the model, with ``use_attribute_docstrings``.
        exclude: dotted names of fields to leave out: those that the command takes in another way.
    """
    leaves = [(path, field) for path, field in _leaves(model, ()) if ".".join(path) not in exclude]
    fields = {"__".join(path): (path, field) for path, field in leaves}

    def decorate(function: _Function) -> _Function:
        def wrapped(**arguments: Any) -> Any:
            given = {}
            for parameter, (path, _) in fields.items():
                value = arguments.pop(parameter)
                if value is not None and value != ():
                    given[".".join(path)] = value
            return function(given=given, **arguments)

        wrapped.__doc__ = inspect.getdoc(function)
        wrapped.__name__ = function.__name__
        # Options that were declared below this decorator are kept.
        declared = list(getattr(function, "__click_params__", []))
        for parameter, (path, field) in reversed(fields.items()):
            declared.append(_option(parameter, path, field))
        wrapped.__click_params__ = declared  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate


def _leaves(model: type[pydantic.BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            yield from _leaves(annotation, (*path, name))
        else:
            yield (*path, name), field


def _option(parameter: str, path: tuple[str, ...], field: FieldInfo) -> click.Option:
    annotation, several = _element(field.annotation)
    flag = "-".join(path).replace("_", "-")
    is_bool = annotation is bool
    default = _default(field)
    notes = [
        " ".join((field.description or "").split()),
        "May be given several times." if several else "",
        # In click's own words, for a default that click does not know of.
        f"[default: {default}]" if default else "",
    ]
    return click.Option(
        [parameter, f"--{flag}/--no-{flag}" if is_bool else f"--{flag}"],
        type=None if is_bool else _click_type(annotation),
        multiple=several,
        default=None,
        help="  ".join(note for note in notes if note),
    )


def _element(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _element(arguments[0])
    if origin in (Union, types.UnionType):
        present = [argument for argument in arguments if argument is not type(None)]
        return _element(present[0]) if len(present) == 1 else (str, False)
    if origin in (tuple, list):
        return _element(arguments[0])[0], True
    return annotation, False


def _click_type(annotation: Any) -> click.ParamType[Any]:
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    kind: click.ParamType[Any] = _CLICK_TYPES.get(annotation, click.STRING)
    return kind


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value == ():
        return ""
    return ", ".join(str(each) for each in value) if isinstance(value, (tuple, list)) else str(value)
