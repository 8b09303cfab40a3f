"""Authenticates calls by bearer token, and names the caller of the current call."""

import contextvars
import dataclasses
import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from thetaprime.server.address import client_network
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.auth.tokens import TokenFileError, TokenTable
from thetaprime.server.errors import StartupError, UnauthenticatedError

DEFAULT_TENANT: Final = ""
"""The only tenant of a server without a tokens file."""
_HEADER: Final = "authorization"
_SCHEME: Final = "bearer"
_FileStamp = tuple[int, int, int] | None

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Caller:
    """The caller of a call.

    Attributes:
        tenant: the tenant of its token.
        peer: its address, as gRPC gives it.
    """

    tenant: str
    peer: str

    @property
    def network(self) -> str:
        """Its IPv4 address or IPv6 network, without a port."""
        return client_network(self.peer)


_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Sets the caller of the current task's call."""
    _caller.set(caller)


def current_caller() -> Caller:
    """Returns the caller of the current task's call.

    Raises:
        LookupError: the call was not authenticated.
    """
    return _caller.get()


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authenticator:
    """Finds the tenant of a call, and the tenant's quotas.

    Args:
        path: the tokens file, read again whenever it changes. If the new file is invalid, the last valid one stays in
            force. None: every call belongs to `DEFAULT_TENANT`.
        defaults: the quotas of tenants for which the tokens file sets none.
        now: returns the current time.

    Raises:
        StartupError: the tokens file is invalid.
    """

    def __init__(self, path: Path | None, defaults: Quotas, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._path = path
        self._defaults = defaults
        self._now = now
        self._table = TokenTable()
        # Of authenticated tenants, until the file changes: every call asks for them.
        self._quotas: dict[str, Quotas] = {}
        self._stamp: _FileStamp = None
        if path is not None:
            self._stamp = _stamp(path)
            try:
                self._table = TokenTable.read(path)
            except TokenFileError as error:
                raise StartupError(str(error)) from error

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Returns the tenant of a call.

        Args:
            metadata: the call's metadata.

        Raises:
            UnauthenticatedError: the call has no token, or an invalid one. Unknown and expired tokens get the same
                message.
        """
        if self._path is None:
            return DEFAULT_TENANT
        self._reload_if_changed(self._path)
        values = [value for key, value in metadata if key == _HEADER]
        if not values:
            raise UnauthenticatedError("TOKEN_MISSING", "the call has no token; expected authorization: Bearer <token>")
        value = values[0] if len(values) == 1 else ""
        scheme, _, token = (value if isinstance(value, str) else "").partition(" ")
        tenant = self._table.find_tenant(token.strip(), self._now()) if scheme.lower() == _SCHEME else None
        if tenant is None:
            raise UnauthenticatedError("TOKEN_REFUSED", "the call's authorization is not valid, or no longer valid")
        return tenant

    def adaptation_rate(self, tenant: str) -> float | None:
        """Returns the adaptation steps per second that a tenant may take; None for no limit."""
        return self.quotas_of(tenant).max_adaptations_per_second

    def request_rate(self, tenant: str) -> float | None:
        """Returns the calls per second that a tenant may make; None for no limit."""
        return self.quotas_of(tenant).max_requests_per_second

    def quotas_of(self, tenant: str) -> Quotas:
        """Returns a tenant's quotas."""
        quotas = self._quotas.get(tenant)
        if quotas is None:
            own = self._table.tenants.get(tenant)
            quotas = self._quotas[tenant] = self._defaults if own is None else self._defaults.override(own)
        return quotas

    def _reload_if_changed(self, path: Path) -> None:
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        # An invalid file is logged once, and read again only after its next change.
        self._stamp = stamp
        try:
            self._table = TokenTable.read(path)
        except TokenFileError as error:
            _log.error("tokens not reloaded", problem=str(error))
        else:
            self._quotas.clear()
            _log.info("tokens reloaded", tokens=len(self._table.tokens))


def _stamp(path: Path) -> _FileStamp:
    """Returns a value that changes with the file; None if the file does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
