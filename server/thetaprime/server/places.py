"""Places of the store: folders and URLs."""

import re
from pathlib import Path
from typing import Annotated, Final

import pydantic


def is_url(place: str | Path) -> bool:
    """Returns whether a place is a URL, not a folder."""
    return "://" in str(place)


def without_password(place: str | Path) -> str:
    """Returns a place to be printed: the password of a URL becomes ``***``."""
    return re.sub(r"(?<=://)([^/@]*):[^/]*@", r"\1:***@", str(place))


PRINTED: Final = {"printed": True}
"""Context of a serialization that a person reads: it holds no password."""


def _folder_or_url(place: object) -> object:
    return place if isinstance(place, str) and is_url(place) else pydantic.TypeAdapter(Path).validate_python(place)


def _serialized(place: Path | str, info: pydantic.SerializationInfo) -> str:
    return without_password(place) if info.context == PRINTED else str(place)


Place = Annotated[
    Path | str,
    pydantic.BeforeValidator(_folder_or_url),
    pydantic.PlainSerializer(_serialized, return_type=str, when_used="json"),
]
"""A folder, as a path, or a URL, as a string."""
