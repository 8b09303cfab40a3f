"""How to reach a server, from arguments, environment variables and a file."""

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
"""Seconds until a call is given up."""

_PREFIX: Final = "THETAPRIME_"
_FILE_VARIABLE: Final = "THETAPRIME_CONFIG"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """How to reach a server.

    Attributes:
        address: the server's, ``host:port``.
        timeout: seconds until a call is given up.
        token: says whose the calls are.
        token_file: a file with the token in it; not beside `token` in one place.
        tls: connect by TLS; each of the files below implies it.
        tls_authority: PEM file of those who sign the server's certificate.
        tls_certificate: PEM file of the client's own certificate.
        tls_key: PEM file of its private key.
        allow_plaintext: send the token to another machine even without TLS.
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
        """Settings that are given, above the environment's, above a file's.

        Args:
            file: a TOML file; None is that of ``THETAPRIME_CONFIG``, or the user's own where there is one.
            settings: by name; None is not given.

        Raises:
            InvalidInputError: a setting is unknown or does not fit, or the file cannot be read.
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
                # One place overrules another whichever of the two it names.
                merged.pop("token", None)
                merged.pop("token_file", None)
            if {"token", "token_file"} <= given.keys():
                raise InvalidInputError.at("token", f"given beside token_file by {source}; expected one of them")
            for name, value in given.items():
                field = quote.format(source=source, name=name, upper=name.upper())
                merged[name] = _converted(name, value, field)
        return cls(**merged)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a `Client`.

        Raises:
            InvalidInputError: a file cannot be read or is not what it should be.
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
    # Paths are meant from where they are written, not from where a program happens to start.
    for name in ("token_file", "tls_authority", "tls_certificate", "tls_key"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / Path(values[name]).expanduser()
    return os.fspath(path), values


def _read(path: Path, field: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInputError.at(field, f"{path} cannot be read: {error.strerror}") from error


def _converted(name: str, value: Any, field: str) -> Any:
    """A value in the type of its setting. A token is not quoted."""
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
