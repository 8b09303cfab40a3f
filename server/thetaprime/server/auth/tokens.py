"""Bearer tokens: generated at random, stored as SHA-256 digests in a TOML file, compared in constant time."""

import datetime
import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic

from thetaprime.server.auth.quotas import Quotas

_PREFIX: Final = "theta_"
_TOKEN_BYTES: Final = 32

Tenant = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A tenant's name, as stored and logged."""


class TokenFileError(ValueError):
    """A tokens file is invalid; the message is one line and quotes only names from the file, never a token."""


class TokenEntry(pydantic.BaseModel):
    """One token of a tokens file.

    Attributes:
        tenant: the tenant that it authenticates.
        sha256: digest of the token. 256 random bits cannot be guessed, so they need neither salt nor a slow hash.
        expires: time from which the token is invalid; None for never.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    sha256: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    expires: pydantic.AwareDatetime | None = None


class TokenTable(pydantic.BaseModel):
    """The content of a tokens file: TOML with ``[[tokens]]`` and ``[tenants.<name>]``.

    Attributes:
        tokens: any number for each tenant, so that a new token can be issued before the old one is removed.
        tenants: quotas by tenant; other tenants have the server's defaults.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tokens: tuple[TokenEntry, ...] = ()
    tenants: Mapping[Tenant, Quotas] = {}

    @pydantic.model_validator(mode="after")
    def _check_duplicates(self) -> Self:
        first: dict[str, int] = {}
        for index, entry in enumerate(self.tokens):
            if first.setdefault(entry.sha256, index) != index:
                raise ValueError(f"tokens[{index}] is the same token as tokens[{first[entry.sha256]}]")
        return self

    @classmethod
    def read(cls, path: Path) -> "TokenTable":
        """Reads a tokens file.

        Raises:
            TokenFileError: the file cannot be read, is not TOML, or has an unknown or invalid entry.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise TokenFileError(f"tokens {path}: cannot be read ({error.strerror})") from error
        except pydantic.ValidationError as error:
            # The message leaves the values out: a token may stand where its digest belongs.
            problems = "; ".join(
                _format_problem(each["loc"], each["msg"]) for each in error.errors(include_input=False)
            )
            raise TokenFileError(f"tokens {path}: {problems}") from None
        except ValueError as error:
            raise TokenFileError(f"tokens {path}: is not TOML ({error})") from error

    def find_tenant(self, token: str, now: datetime.datetime) -> str | None:
        """Returns the tenant of a token; None if the token is unknown or has expired."""
        digest = token_digest(token)
        found: str | None = None
        # Compares every entry, also after a match: the time taken does not disclose which entry matched.
        for entry in self.tokens:
            if hmac.compare_digest(entry.sha256, digest) and (entry.expires is None or now < entry.expires):
                found = entry.tenant
        return found


def new_token() -> str:
    """Returns a new random token."""
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def token_digest(token: str) -> str:
    """Returns the SHA-256 of a token in hexadecimal digits, as a tokens file stores it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _format_problem(location: tuple[int | str, ...], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    return f"{path}: {message}" if path else message
