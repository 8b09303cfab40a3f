"""Quotas: limits of a tenant's sessions, stored bytes, environment steps and adaptation rate."""

import pydantic
import sqlalchemy as sa

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import QuotaError, TenantQuotaError
from thetaprime.server.store.tables import sessions
from thetaprime.server.store.usage import tenant_usage


class Quotas(pydantic.BaseModel):
    """The limits of one tenant; where a limit is None, only the server's own limit applies.

    Attributes:
        max_sessions: sessions open at once.
        max_bytes: bytes of all its sessions on the disk, with their uploads and policies, in any state.
        max_steps: environment steps of the uploads of these sessions.
        max_adaptations_per_second: mean rate of adaptation steps; the steps of one second may come in a burst.
        max_requests_per_second: mean rate of calls of any kind; the calls of one second may come in a burst.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    max_sessions: pydantic.PositiveInt | None = None
    max_bytes: pydantic.PositiveInt | None = None
    max_steps: pydantic.PositiveInt | None = None
    max_adaptations_per_second: pydantic.PositiveFloat | None = pydantic.Field(default=None, allow_inf_nan=False)
    max_requests_per_second: pydantic.PositiveFloat | None = pydantic.Field(default=None, allow_inf_nan=False)

    @classmethod
    def defaults(cls, config: ServerConfig) -> "Quotas":
        """Returns the quotas of tenants for which the tokens file sets none."""
        return cls(
            max_sessions=config.max_tenant_sessions,
            max_bytes=config.max_tenant_bytes,
            max_steps=config.max_tenant_steps,
            max_adaptations_per_second=config.max_tenant_adaptations_per_second,
            max_requests_per_second=config.max_tenant_requests_per_second,
        )

    def override(self, quotas: "Quotas") -> "Quotas":
        """Returns these quotas, replaced by those that were set in `quotas`."""
        return self.model_copy(update=quotas.model_dump(exclude_unset=True))

    def require_session(self, connection: sa.Connection, tenant: str, now: int) -> None:
        """Checks, in the transaction that creates a session, that the tenant may open one more.

        Raises:
            QuotaError: the tenant has `max_sessions` open sessions.
        """
        if self.max_sessions is None:
            return
        open_sessions = (sessions.c.tenant == tenant, sessions.c.closed.is_(False), sessions.c.expire_time > now)
        count = connection.scalar(sa.select(sa.func.count()).select_from(sessions).where(*open_sessions)) or 0
        if count >= self.max_sessions:
            raise QuotaError("TENANT_SESSIONS", "the tenant's open sessions", count + 1, self.max_sessions)

    @property
    def limit_storage(self) -> bool:
        """Whether they limit what a tenant stores."""
        return self.max_bytes is not None or self.max_steps is not None

    def require_room(self, connection: sa.Connection, tenant: str, *, size: int, steps: int = 0) -> None:
        """Checks, in the transaction that stores data of a tenant, that its quotas have room.

        Bytes count as they were sent, also if another tenant has stored the same blob: a smaller count would disclose
        the other tenant's data.

        Args:
            connection: of the transaction.
            tenant: the owner of the data.
            size: bytes to store, as `store.usage` counts them.
            steps: environment steps to store.

        Raises:
            TenantQuotaError: the data exceeds `max_bytes` or `max_steps`.
        """
        if not self.limit_storage:
            return
        kept = tenant_usage(connection, tenant)
        for reason, subject, came, limit in (
            ("TENANT_BYTES", "the tenant's stored bytes", kept.bytes + size, self.max_bytes),
            ("TENANT_STEPS", "the tenant's stored environment steps", kept.steps + steps, self.max_steps),
        ):
            if limit is not None and came > limit:
                raise TenantQuotaError(reason, subject, came, limit)
