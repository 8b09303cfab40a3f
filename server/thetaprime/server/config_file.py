"""Settings as a TOML file: read as one source of several, and printed so that the print can be read again."""

import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import pydantic
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

_NAME: Final = "config"
"""The setting that names the file. It does not stand in the file itself."""


class ConfigFileError(ValueError):
    """The file of settings cannot be read; the message is one line that names it."""


class ConfigFile(TomlConfigSettingsSource):
    """The settings that a TOML file gives.

    Args:
        settings: the model that is being filled.
        file: the file.

    Raises:
        ConfigFileError: it is not there, is no TOML, or names another file.
    """

    def __init__(self, settings: type[BaseSettings], file: Path) -> None:
        # The library takes a file that is not there for an empty one.
        if not file.is_file():
            raise ConfigFileError(f"config {file}: there is no such file")
        super().__init__(settings, file)

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            found = tomllib.loads(file_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigFileError(f"config {file_path}: {error}") from error
        if _NAME in found:
            raise ConfigFileError(f"config {file_path}: {_NAME} cannot be set in the file itself")
        return found


def as_toml(settings: pydantic.BaseModel) -> str:
    """Every setting with its value and what it means, as a file of settings; secrets are masked.

    A setting that has no value stands there as a comment.
    """
    # A server that starts has no use for it.
    import tomlkit

    document = tomlkit.document()
    for name, value in settings.model_dump(mode="json", exclude={_NAME}).items():
        description = type(settings).model_fields[name].description or ""
        document.add(tomlkit.comment(" ".join(description.split())))
        if value is None:
            document.add(tomlkit.comment(f"{name} ="))
        else:
            document.add(name, value)
    return tomlkit.dumps(document)
