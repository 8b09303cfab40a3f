"""Bearer tokens: made here, kept as digests in a file, and held against it in constant time."""

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
"""A tenant's name, as it stands in the store and in logs."""


class TokenFileError(ValueError):
    """A tokens file cannot be used; the message is one line and quotes nothing of it but names."""


class TokenEntry(pydantic.BaseModel):
    """One token of a tokens file.

    Attributes:
        tenant: whom it stands for.
        sha256: its digest. 256 random bits need neither salt nor a slow hash: there is nothing to guess.
        expires: when it ceases to be valid; None is never.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    sha256: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    expires: pydantic.AwareDatetime | None = None


class TokenTable(pydantic.BaseModel):
    """A tokens file: TOML, with ``[[tokens]]`` and ``[tenants.<name>]``.

    Attributes:
        tokens: any number for each tenant, so that a new one can be handed out before the old one goes.
        tenants: the limits of those that have their own.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tokens: tuple[TokenEntry, ...] = ()
    tenants: Mapping[Tenant, Quotas] = {}

    @pydantic.model_validator(mode="after")
    def _one_tenant_each(self) -> Self:
        first: dict[str, int] = {}
        for index, entry in enumerate(self.tokens):
            if first.setdefault(entry.sha256, index) != index:
                raise ValueError(f"tokens[{index}] is the same token as tokens[{first[entry.sha256]}]")
        return self

    @classmethod
    def read(cls, path: Path) -> "TokenTable":
        """Reads a tokens file.

        Raises:
            TokenFileError: it cannot be read, is not TOML, or has something in it that it should not.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise TokenFileError(f"tokens {path}: cannot be read ({error.strerror})") from error
        except pydantic.ValidationError as error:
            # Never the input: a token may have been put where its digest belongs.
            problems = "; ".join(_problem(each["loc"], each["msg"]) for each in error.errors(include_input=False))
            raise TokenFileError(f"tokens {path}: {problems}") from None
        except ValueError as error:
            raise TokenFileError(f"tokens {path}: is not TOML ({error})") from error

    def tenant_of(self, token: str, now: datetime.datetime) -> str | None:
        """Whom a token stands for; None where nobody, or no longer."""
        digest = token_digest(token)
        found: str | None = None
        # All of them, whether or not one was found: how long it takes says nothing about which.
        for entry in self.tokens:
            if hmac.compare_digest(entry.sha256, digest) and (entry.expires is None or now < entry.expires):
                found = entry.tenant
        return found


def new_token() -> str:
    """A token that nobody has had before."""
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def token_digest(token: str) -> str:
    """What a tokens file keeps of a token: its SHA-256 (hex)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _problem(location: tuple[int | str, ...], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    return f"{path}: {message}" if path else message
