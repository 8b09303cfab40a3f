"""Reads settings from a TOML file, and prints settings as TOML that can be read again."""

import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import pydantic
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from thetaprime.server.places import PRINTED

_NAME: Final = "config"
"""The setting that names the file. The file itself must not contain it."""


class ConfigFileError(ValueError):
    """A config file is invalid; the message is one line that names the file."""


class ConfigFileSource(TomlConfigSettingsSource):
    """The settings of a TOML file, as a source for pydantic-settings.

    Args:
        settings: the settings model.
        file: the file.

    Raises:
        ConfigFileError: the file does not exist, is not TOML, or contains `config`.
    """

    def __init__(self, settings: type[BaseSettings], file: Path) -> None:
        # The library reads a missing file as an empty one.
        if not file.is_file():
            raise ConfigFileError(f"config {file}: no such file")
        super().__init__(settings, file)

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            found = tomllib.loads(file_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigFileError(f"config {file_path}: {error}") from error
        if _NAME in found:
            raise ConfigFileError(f"config {file_path}: the file itself cannot set {_NAME}")
        return found


def as_toml(settings: pydantic.BaseModel) -> str:
    """Returns every setting as TOML, with its value and its description; secrets are masked.

    A setting without a value is printed as a comment.
    """
    # Only --show-config needs it.
    import tomlkit

    document = tomlkit.document()
    for name, value in settings.model_dump(mode="json", exclude={_NAME}, context=PRINTED).items():
        description = type(settings).model_fields[name].description or ""
        document.add(tomlkit.comment(" ".join(description.split())))
        if value is None:
            document.add(tomlkit.comment(f"{name} ="))
        else:
            document.add(name, value)
    return tomlkit.dumps(document)
