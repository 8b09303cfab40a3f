"""Command-line options from the fields of a pydantic model: a setting is described once, in the model."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import click
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from thetaprime.cli._command import OTHER_OPTIONS, Option

_Function = TypeVar("_Function", bound=Callable[..., Any])
_CLICK_TYPES: Final[dict[Any, Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.Path(path_type=Path),
}


def options_from(
    model: type[pydantic.BaseModel],
    *,
    exclude: frozenset[str] = frozenset(),
    sections: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Callable[[_Function], _Function]:
    """Returns a decorator that gives a click command one option for each field of a model.

    ``max_sessions: int = 10`` with a docstring becomes ``--max-sessions INTEGER``, the docstring and ``[default: 10]``.
    A bool becomes ``--x / --no-x``. A tuple may be given several times. The name of a nested model becomes a prefix.
    Click parses the values; the model validates them.

    The command is called with ``given``: the values that the user typed, by dotted field name
    (``adaptation.inner_lr``). Other fields are absent: files and environment variables set them.

    Args:
        model: the model, with ``use_attribute_docstrings``.
        exclude: dotted names of the fields that get no option.
        sections: headings of ``--help``, each with the fields or nested models under it, in order.
    """
    leaves = [(path, field) for path, field in _leaves(model, ()) if ".".join(path) not in exclude]
    section_of = {name: title for title, names in sections.items() for name in names}
    order = list(section_of)
    # Fields without a section come last, in the model's order.
    leaves.sort(key=lambda leaf: order.index(leaf[0][0]) if leaf[0][0] in section_of else len(order))
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
        # Keeps the options that were declared below this decorator.
        declared = list(getattr(function, "__click_params__", []))
        for parameter, (path, field) in reversed(fields.items()):
            declared.append(_option(parameter, path, field, section_of.get(path[0], OTHER_OPTIONS)))
        wrapped.__click_params__ = declared  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate


def _leaves(model: type[pydantic.BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        annotation, several = _element(field.annotation)  # a nested model may be optional
        if not several and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            yield from _leaves(annotation, (*path, name))
        else:
            yield (*path, name), field


def _option(parameter: str, path: tuple[str, ...], field: FieldInfo, section: str) -> Option:
    annotation, several = _element(field.annotation)
    flag = "-".join(path).replace("_", "-")
    is_bool = annotation is bool
    default = _default(field)
    notes = [
        " ".join((field.description or "").split()),
        "May be given several times." if several else "",
        # In click's own format, for a default that the model holds.
        f"[default: {default}]" if default else "",
    ]
    return Option(
        [parameter, f"--{flag}/--no-{flag}" if is_bool else f"--{flag}"],
        type=None if is_bool else _click_type(annotation),
        multiple=several,
        default=None,
        section=section,
        help="  ".join(note for note in notes if note),
    )


def _element(annotation: Any) -> tuple[Any, bool]:
    """Returns the type of one value, and whether the option may be repeated."""
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
