"""How much one tenant may have, and how often it may ask."""

import time
from collections.abc import Callable

import pydantic
import sqlalchemy as sa

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import BusyError, QuotaError
from thetaprime.server.sessions.rows import is_there
from thetaprime.server.store.tables import sessions


class Quotas(pydantic.BaseModel):
    """The limits of one tenant; None is no limit of its own beside the server's.

    Attributes:
        max_sessions: sessions that may be open at once.
        max_bytes: payloads and ONNX files of sessions; of those that have expired, the ONNX files that are kept.
        max_steps: environment steps of sessions that have not expired.
        max_adaptations_per_second: adaptation steps, in the mean; as many as of one second may come at once.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    max_sessions: pydantic.PositiveInt | None = None
    max_bytes: pydantic.PositiveInt | None = None
    max_steps: pydantic.PositiveInt | None = None
    max_adaptations_per_second: pydantic.PositiveFloat | None = pydantic.Field(default=None, allow_inf_nan=False)

    @classmethod
    def defaults(cls, config: ServerConfig) -> "Quotas":
        """What the settings give each tenant that has no limits of its own."""
        return cls(
            max_sessions=config.max_tenant_sessions,
            max_bytes=config.max_tenant_bytes,
            max_steps=config.max_tenant_steps,
            max_adaptations_per_second=config.max_tenant_adaptations_per_second,
        )

    def extended_by(self, own: "Quotas") -> "Quotas":
        """These limits, with those in their place that `own` was given."""
        return self.model_copy(update=own.model_dump(exclude_unset=True))

    def require_session(self, connection: sa.Connection, tenant: str, now: int) -> None:
        """Within the transaction that opens one more session.

        Raises:
            QuotaError: the tenant has as many open as it may.
        """
        if self.max_sessions is None:
            return
        mine = (sessions.c.tenant == tenant, sessions.c.closed.is_(False), sessions.c.expire_time > now)
        count = connection.scalar(sa.select(sa.func.count()).select_from(sessions).where(*mine)) or 0
        if count >= self.max_sessions:
            raise QuotaError("TENANT_SESSIONS", "the tenant's open sessions", count + 1, self.max_sessions)

    def require_room(self, connection: sa.Connection, tenant: str, now: int, *, size: int, steps: int = 0) -> None:
        """Within the transaction that keeps more for a tenant.

        What was sent is counted, whether or not the same bytes were there: a count that fell short would tell a tenant
        what others have.

        Args:
            connection: of the transaction.
            tenant: whose quota it is.
            now: microseconds since 1970.
            size: bytes to be kept.
            steps: environment steps to be kept.

        Raises:
            QuotaError: it would keep more than it may.
        """
        if self.max_bytes is None and self.max_steps is None:
            return
        kept = sa.select(
            sa.func.coalesce(sa.func.sum(sessions.c.kept_bytes), 0),
            sa.func.coalesce(sa.func.sum(sessions.c.kept_steps), 0),
        ).where(sessions.c.tenant == tenant, is_there(now))
        kept_bytes, kept_steps = connection.execute(kept).one()
        for reason, subject, came, limit in (
            ("TENANT_BYTES", "the tenant's stored bytes", kept_bytes + size, self.max_bytes),
            ("TENANT_STEPS", "the tenant's stored environment steps", kept_steps + steps, self.max_steps),
        ):
            if limit is not None and came > limit:
                raise QuotaError(reason, subject, came, limit)


class Pace:
    """How often each tenant may take a step: a bucket that fills with time. For use on one event loop.

    Args:
        quotas_of: the limits of a tenant.
        clock: seconds that only go forward.
    """

    def __init__(self, quotas_of: Callable[[str], Quotas], clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas_of = quotas_of
        self._clock = clock
        # What each had left, and when. Only tenants that a token stood for come here, so they are few.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str) -> None:
        """Takes one step's worth.

        Raises:
            BusyError: there is none left yet; it says how long that is going to be so.
        """
        rate = self._quotas_of(tenant).max_adaptations_per_second
        if rate is None:
            return
        now, capacity = self._clock(), max(1.0, rate)
        left, since = self._left.get(tenant, (capacity, now))
        left = min(capacity, left + (now - since) * rate)
        if left < 1.0:
            # Nothing is written down for a refused call: asking early does not make the wait longer.
            raise BusyError(f"the tenant may take {rate:g} adaptation steps a second", retry_after=(1.0 - left) / rate)
        self._left[tenant] = (left - 1.0, now)
