"""Reads the connection's settings from arguments, environment variables and a file."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._rpc.channel import check_address
from thetaprime.client._rpc.credentials import tls_credentials

DEFAULT_ADDRESS: Final = "localhost:50051"
DEFAULT_TIMEOUT: Final = 60.0
"""Timeout of a call, in seconds."""

_PREFIX: Final = "THETAPRIME_"
_FILE_VARIABLE: Final = "THETAPRIME_CONFIG"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """Settings of a connection.

    Attributes:
        address: the server's ``host:port``.
        timeout: timeout of a call, in seconds.
        token: the token that identifies the tenant.
        token_file: file that holds the token. One source must not set both `token` and `token_file`.
        tls: connect by TLS. Each file below implies TLS.
        tls_authority: PEM file of the certificate authorities that sign the server's certificate.
        tls_certificate: PEM file of the client's certificate.
        tls_key: PEM file of the certificate's private key.
        allow_plaintext: send the token to another machine without TLS.
    """

    address: str = DEFAULT_ADDRESS
    timeout: float = DEFAULT_TIMEOUT
    token: str | None = dataclasses.field(default=None, repr=False)
    token_file: Path | None = None
    tls: bool = False
    tls_authority: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allow_plaintext: bool = False

    @classmethod
    def read(cls, file: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Self:
        """Merges the settings: arguments override the environment, which overrides the file.

        Args:
            file: a TOML file; None uses ``THETAPRIME_CONFIG``, or the user's file if it exists.
            settings: settings by name; None leaves a setting unset.

        Raises:
            InvalidInputError: a setting is unknown or invalid, or the file cannot be read.
        """
        merged: dict[str, Any] = {}
        names = [field.name for field in dataclasses.fields(cls)]
        environment = {name: os.environ.get(_PREFIX + name.upper()) for name in names}
        for source, values, quote in (
            (*_file_settings(file), "{source}: {name}"),
            ("the environment", environment, f"{_PREFIX}{{upper}}"),
            ("arguments", settings, "{name}"),
        ):
            given = {name: value for name, value in values.items() if value is not None}
            for name in given:
                if name not in names:
                    field = quote.format(source=source, name=name, upper=name.upper())
                    raise InvalidInputError.at(field, f"no such setting; expected any of {', '.join(names)}")
            if {"token", "token_file"} & given.keys():
                # A source that sets either overrides both of another source.
                merged.pop("token", None)
                merged.pop("token_file", None)
            if {"token", "token_file"} <= given.keys():
                raise InvalidInputError.at("token", f"set beside token_file by {source}; expected one of them")
            for name, value in given.items():
                field = quote.format(source=source, name=name, upper=name.upper())
                merged[name] = _convert(name, value, field)
        return cls(**merged)

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of `Client`.

        Raises:
            InvalidInputError: a file cannot be read, or is malformed.
        """
        secure = self.tls or any((self.tls_authority, self.tls_certificate, self.tls_key))
        return {
            "address": self.address,
            "timeout": self.timeout,
            "credentials": tls_credentials(self.tls_authority, certificate=self.tls_certificate, key=self.tls_key)
            if secure
            else None,
            "token": self.token if self.token_file is None else _read(self.token_file, "token_file").strip(),
            "allow_plaintext": self.allow_plaintext,
        }


def _file_settings(file: str | os.PathLike[str] | None) -> tuple[str, dict[str, Any]]:
    named = file if file is not None else os.environ.get(_FILE_VARIABLE)
    if not named:
        path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "thetaprime" / "client.toml"
        if not path.is_file():
            return "", {}
    else:
        path = Path(named)
    try:
        values = tomllib.loads(_read(path, "config"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError.at("config", f"{path} is not TOML: {error}") from error
    # Relative paths start at the file's folder, not at the process's.
    for name in ("token_file", "tls_authority", "tls_certificate", "tls_key"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / Path(values[name]).expanduser()
    return os.fspath(path), values


def _read(path: Path, field: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInputError.at(field, f"{path} cannot be read: {error.strerror}") from error


def _convert(name: str, value: Any, field: str) -> Any:
    """Converts a value to the type of its setting. Errors do not quote a token."""
    if name in ("tls", "allow_plaintext"):
        if isinstance(value, bool):
            return value
        if str(value).lower() not in _TRUE | _FALSE:
            raise InvalidInputError.at(field, f"{value!r}; expected true or false")
        return str(value).lower() in _TRUE
    if name == "timeout":
        try:
            return float(value)
        except (TypeError, ValueError):
            raise InvalidInputError.at(field, f"{value!r}; expected a number of seconds") from None
    if name in ("address", "token"):
        if not isinstance(value, str):
            raise InvalidInputError.at(field, f"{type(value).__name__}; expected a string")
        if name == "address":
            check_address(value, field)
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidInputError.at(field, f"{value!r}; expected a path")
    return Path(value).expanduser()
