"""Lets calls in: finds out whose they are, by a tokens file that may change while the server runs."""

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from thetaprime.server.auth.caller import DEFAULT_TENANT
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.auth.tokens import TokenFileError, TokenTable
from thetaprime.server.errors import StartupError, UnauthenticatedError

_HEADER: Final = "authorization"
_SCHEME: Final = "bearer"
_Stamp = tuple[int, int, int] | None

_log = structlog.get_logger()


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authenticator:
    """The tenants of a server. Without a tokens file there is one, and it needs no token.

    Args:
        path: the tokens file. It is read again when it changes; one that cannot be used leaves the last one in force.
        defaults: the limits of tenants that have none of their own.
        now: the time.

    Raises:
        StartupError: the tokens file cannot be used.
    """

    def __init__(self, path: Path | None, defaults: Quotas, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._path = path
        self._defaults = defaults
        self._now = now
        self._table = TokenTable()
        self._stamp: _Stamp = None
        if path is not None:
            self._stamp = _stamp(path)
            try:
                self._table = TokenTable.read(path)
            except TokenFileError as error:
                raise StartupError(str(error)) from error

    def tenant_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Whose a call is.

        Args:
            metadata: what came with the call.

        Raises:
            UnauthenticatedError: no token came, or one that is not valid. Whether it was valid once is not said.
        """
        if self._path is None:
            return DEFAULT_TENANT
        self._refresh(self._path)
        values = [value for key, value in metadata if key == _HEADER]
        if not values:
            raise UnauthenticatedError("TOKEN_MISSING", "no token came; expected authorization: Bearer <token>")
        value = values[0] if len(values) == 1 else ""
        scheme, _, token = (value if isinstance(value, str) else "").partition(" ")
        tenant = self._table.tenant_of(token.strip(), self._now()) if scheme.lower() == _SCHEME else None
        if tenant is None:
            raise UnauthenticatedError("TOKEN_REFUSED", "the authorization that came is not, or no longer, valid")
        return tenant

    def quotas_of(self, tenant: str) -> Quotas:
        """The limits of a tenant."""
        own = self._table.tenants.get(tenant)
        return self._defaults if own is None else self._defaults.extended_by(own)

    def _refresh(self, path: Path) -> None:
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        # Also where it cannot be used: said once, and tried again when it changes again.
        self._stamp = stamp
        try:
            self._table = TokenTable.read(path)
        except TokenFileError as error:
            _log.error("tokens not reloaded; the last ones stay in force", problem=str(error))
        else:
            _log.info("tokens reloaded", tokens=len(self._table.tokens))


def _stamp(path: Path) -> _Stamp:
    """What changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
