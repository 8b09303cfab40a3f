"""The rows of the store as plain data, and the queries that several calls share.

The statements of a round are built once: building one takes as long as running it.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa

from thetaprime import wire
from thetaprime.server.errors import NotFoundError, PreconditionError
from thetaprime.server.store.tables import sessions, uploads


def is_there(now: "int | sa.BindParameter[int]") -> sa.ColumnElement[bool]:
    """Of a session: it has not expired, or has made policies that are kept."""
    return sa.and_(sessions.c.delete_time > now, sa.or_(sessions.c.expire_time > now, sessions.c.round > 0))


_SESSION: Final = sa.select(sessions).where(
    sessions.c.session_id == sa.bindparam("session_id"),
    sessions.c.tenant == sa.bindparam("tenant"),
    is_there(sa.bindparam("now")),
)
_ROUND_UPLOADS: Final = (
    sa.select(uploads.c.payload_sha256, uploads.c.trajectories, uploads.c.steps)
    .where(uploads.c.session_id == sa.bindparam("session_id"), uploads.c.round == sa.bindparam("round"))
    .order_by(uploads.c.payload_sha256)
)
_KEEP_MORE: Final = (
    sessions.update()
    .where(sessions.c.session_id == sa.bindparam("session"))
    .values(
        kept_bytes=sessions.c.kept_bytes + sa.bindparam("more_bytes"),
        kept_steps=sessions.c.kept_steps + sa.bindparam("more_steps"),
    )
)


@dataclasses.dataclass(frozen=True)
class SessionRecord:
    """One session.

    Attributes:
        session_id: its name.
        tenant: whose it is.
        request_id: what its creator named the request.
        request_sha256: digest of the request's arguments.
        meta_policy: name of the meta-policy.
        meta_policy_version: its version, never 0.
        theta_id: policy id of θ.
        step_size_scale: factor on every inner step size; None stands for 1.
        closed: whether it takes no more uploads and steps.
        round: k, the rounds taken so far.
        policy_id: of θ_k.
        create_time: microseconds since 1970.
        expire_time: from when on it takes nothing more; microseconds since 1970.
        delete_time: when the policies that it made go; microseconds since 1970.
        kept_bytes: of its uploads' payloads, and of its policies.
        kept_steps: environment steps of its uploads, over all rounds.
    """

    session_id: str
    tenant: str
    request_id: str
    request_sha256: str
    meta_policy: str
    meta_policy_version: int
    theta_id: str
    step_size_scale: float | None
    closed: bool
    round: int
    policy_id: str
    create_time: int
    expire_time: int
    delete_time: int
    kept_bytes: int = 0
    kept_steps: int = 0

    def require_open(self, now: int) -> None:
        """Refuses what only an open session takes.

        Args:
            now: microseconds since 1970.

        Raises:
            PreconditionError: it is closed, or has expired.
        """
        if self.closed:
            raise PreconditionError("SESSION_CLOSED", f"session {self.session_id} is closed")
        if self.expire_time <= now:
            raise PreconditionError(
                "SESSION_EXPIRED",
                f"session {self.session_id} expired at {_as_text(self.expire_time)}; its policies can be read until "
                f"{_as_text(self.delete_time)}",
            )


@dataclasses.dataclass(frozen=True)
class UploadedBatch:
    """What was uploaded in one round.

    Attributes:
        payloads: SHA-256 (hex) of each upload's payload, sorted.
        trajectories: N over all uploads.
        steps: S over all uploads.
    """

    payloads: tuple[str, ...] = ()
    trajectories: int = 0
    steps: int = 0

    @property
    def uploads(self) -> int:
        """The number of uploads."""
        return len(self.payloads)

    @property
    def sha256(self) -> str:
        """The batch's digest; empty where it has no uploads."""
        return wire.batch_digest(self.payloads)


def find_session(connection: sa.Connection, tenant: str, session_id: str, now: int) -> SessionRecord:
    """One session of a tenant.

    Raises:
        NotFoundError: there is none, it is another tenant's, or nothing is left of it: all in the same words.
    """
    row = (
        connection.execute(_SESSION, {"session_id": session_id, "tenant": tenant, "now": now}).mappings().one_or_none()
    )
    if row is None:
        raise NotFoundError("session", session_id)
    return SessionRecord(**row)


def _as_text(microseconds: int) -> str:
    return datetime.datetime.fromtimestamp(microseconds // 10**6, datetime.UTC).isoformat()


def count_as_kept(connection: sa.Connection, session_id: str, *, size: int, steps: int = 0) -> None:
    """Adds to what a session keeps, within the transaction that keeps it."""
    connection.execute(_KEEP_MORE, {"session": session_id, "more_bytes": size, "more_steps": steps})


def uploaded_batch(connection: sa.Connection, session: SessionRecord) -> UploadedBatch:
    """What was uploaded in a session's current round."""
    rows = connection.execute(_ROUND_UPLOADS, {"session_id": session.session_id, "round": session.round}).all()
    return UploadedBatch(
        payloads=tuple(row.payload_sha256 for row in rows),
        trajectories=sum(row.trajectories for row in rows),
        steps=sum(row.steps for row in rows),
    )


def uploaded_batches(connection: sa.Connection, found: Iterable[SessionRecord]) -> Mapping[str, UploadedBatch]:
    """What was uploaded in the current round of each session, by session id."""
    batches = {session.session_id: UploadedBatch() for session in found}
    query = (
        sa.select(uploads.c.session_id, uploads.c.payload_sha256, uploads.c.trajectories, uploads.c.steps)
        .join(sessions, (sessions.c.session_id == uploads.c.session_id) & (sessions.c.round == uploads.c.round))
        .where(sessions.c.session_id.in_(batches))
        .order_by(uploads.c.payload_sha256)
    )
    for session_id, payload, trajectories, steps in connection.execute(query):
        batch = batches[session_id]
        batches[session_id] = UploadedBatch(
            (*batch.payloads, payload), batch.trajectories + trajectories, batch.steps + steps
        )
    return batches
