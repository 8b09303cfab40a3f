"""The rows of sessions and rounds as plain data, their queries, and their messages on the wire.

The statements of a round are built once: building one takes as long as running it.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self

import sqlalchemy as sa
from google.protobuf import json_format, timestamp_pb2

from thetaprime import wire
from thetaprime.server.errors import InvalidRequestError, NotFoundError, PreconditionError
from thetaprime.server.store.tables import is_readable, sessions, uploads
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

MAX_ID_LENGTH: Final = 128
"""Longest id that a client may choose, in characters."""
_ROUND_UPLOADS: Final = (
    sa.select(
        uploads.c.upload_id,
        uploads.c.payload_sha256,
        uploads.c.trajectories,
        uploads.c.steps,
        uploads.c.counted,
        uploads.c.evidence,
    )
    .where(uploads.c.session_id == sa.bindparam("session_id"), uploads.c.round == sa.bindparam("round"))
    .order_by(uploads.c.payload_sha256, uploads.c.upload_id)
)
ADDED_KEPT: Final = {
    "kept_bytes": sessions.c.kept_bytes + sa.bindparam("more_bytes"),
    "kept_steps": sessions.c.kept_steps + sa.bindparam("more_steps"),
}
"""Values of an update that adds bytes and environment steps to a session's totals."""
_ADD_KEPT: Final = sessions.update().where(sessions.c.session_id == sa.bindparam("session")).values(ADDED_KEPT)
_SET_DOUBT: Final = (
    sessions.update().where(sessions.c.session_id == sa.bindparam("session")).values(doubt=sa.bindparam("new_doubt"))
)


@dataclasses.dataclass(frozen=True)
class UploadedBatch:
    """The uploads that count in one round.

    Attributes:
        payloads: SHA-256 (hex) of each upload's payload, sorted.
        trajectories: N over all uploads.
        steps: S over all uploads.
        upload_ids: id of each upload.
        evidence: what each upload's row keeps for the on-policy test; None where the row is older than the test.
        uncounted: number of uploads that do not count: discarded, or with the content of another one.
    """

    payloads: tuple[str, ...] = ()
    trajectories: int = 0
    steps: int = 0
    upload_ids: tuple[str, ...] = ()
    evidence: tuple[bytes | None, ...] = dataclasses.field(default=(), repr=False)
    uncounted: int = 0

    @property
    def uploads(self) -> int:
        """The number of uploads."""
        return len(self.payloads)

    def upload_with(self, digest: str) -> str | None:
        """Returns the id of an upload with this payload, or None."""
        return self.upload_ids[self.payloads.index(digest)] if digest in self.payloads else None

    @property
    def sha256(self) -> str:
        """The batch's digest; empty where it has no uploads."""
        return wire.batch_digest(self.payloads)

    def message(self) -> service_pb.UploadedBatch:
        """Returns the batch as a message."""
        return service_pb.UploadedBatch(
            uploads=self.uploads, trajectories=self.trajectories, steps=self.steps, sha256=self.sha256
        )


@dataclasses.dataclass(frozen=True)
class KnownUpload:
    """An upload that was accepted before.

    Attributes:
        payload_sha256: digest of its payload.
        round: its round.
        counted: whether the round's step uses it; None means that it does.
        acknowledgement: the reply that it got.
    """

    payload_sha256: str
    round: int
    counted: bool | None
    acknowledgement: bytes

    @classmethod
    def of(cls, row: Any) -> Self:
        """Returns the upload of a row that names its round ``upload_round``."""
        return cls(row.payload_sha256, row.upload_round, row.counted, row.acknowledgement)


@dataclasses.dataclass(frozen=True)
class SessionRecord:
    """One session.

    Attributes:
        session_id: its id.
        tenant: the tenant that owns it.
        request_id: the id of the request that created it.
        request_sha256: digest of that request's arguments.
        meta_policy: name of the meta-policy.
        meta_policy_version: its version, never 0.
        theta_id: policy id of θ.
        step_size_scale: factor on every inner step size; None for 1.
        closed: whether it refuses further uploads and steps.
        round: k, the number of steps taken.
        policy_id: policy id of θ_k.
        create_time: microseconds since 1970.
        expire_time: when it begins to refuse uploads and steps; microseconds since 1970.
        delete_time: when its policies are deleted; microseconds since 1970.
        kept_bytes: bytes on the disk of its row, its uploads and its policies (`store.usage`).
        kept_steps: environment steps of its uploads, over all rounds.
        doubt: why the uploads of the current round are implausible together; None where they are not.
        policy_bytes: bytes of its next policy, which `kept_bytes` includes while the round has uploads.
        options: other options of its steps, as the JSON of a `SessionOptions` message; None for the defaults.
        best_round: number of the best verified policy; None for θ.
        best_policy_id: its policy id; None for θ's.
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
    doubt: str | None = None
    policy_bytes: int = 0
    options: str | None = None
    best_round: int | None = None
    best_policy_id: str | None = None

    @property
    def step_options(self) -> service_pb.SessionOptions:
        """The options of its steps, as a message."""
        options = service_pb.SessionOptions(step_size_scale=self.step_size_scale)
        return options if self.options is None else json_format.Parse(self.options, options)

    def require_open(self, now: int) -> None:
        """Checks that the session takes uploads and steps.

        Args:
            now: microseconds since 1970.

        Raises:
            PreconditionError: SESSION_CLOSED or SESSION_EXPIRED.
        """
        if self.closed:
            raise PreconditionError("SESSION_CLOSED", f"session {self.session_id} is closed")
        if self.expire_time <= now:
            raise PreconditionError(
                "SESSION_EXPIRED",
                f"session {self.session_id} expired at {_as_text(self.expire_time)}; its policies can be read until "
                f"{_as_text(self.delete_time)}",
            )

    def require_plausible(self) -> None:
        """Checks that the uploads of the current round are plausible together.

        Raises:
            PreconditionError: ROUND_DOUBTED.
        """
        if self.doubt is not None:
            raise PreconditionError("ROUND_DOUBTED", self.doubt, scope="round")

    def message(
        self, batch: UploadedBatch, meta_policy: policy_pb2.MetaPolicy, *, expired: bool = False
    ) -> service_pb.Session:
        """Returns the session as a message.

        Args:
            batch: the uploads of its current round.
            meta_policy: the description of its meta-policy.
            expired: whether it has expired.
        """
        state = service_pb.SESSION_STATE_CLOSED if self.closed else service_pb.SESSION_STATE_OPEN
        return service_pb.Session(
            session_id=self.session_id,
            meta_policy=meta_policy,
            state=service_pb.SESSION_STATE_EXPIRED if expired else state,
            round=self.round,
            policy_id=self.policy_id,
            batch=batch.message(),
            options=self.step_options,
            create_time=_timestamp(self.create_time),
            expire_time=_timestamp(self.expire_time),
            delete_time=_timestamp(self.delete_time),
            doubt=self.doubt or "",
            best_round=self.best_round or 0,
            best_policy_id=self.best_policy_id or self.theta_id,
        )


SESSION_COLUMNS: Final = tuple(sessions.c[field.name] for field in dataclasses.fields(SessionRecord))
"""The columns of a `SessionRecord`, in its order: ``SessionRecord(*row)``."""
SESSION_CONDITIONS: Final = (
    sessions.c.session_id == sa.bindparam("session_id"),
    sessions.c.tenant == sa.bindparam("tenant"),
    is_readable(sa.bindparam("now")),
)
"""Conditions of one session of a tenant; their values are ``session_id``, ``tenant`` and ``now``."""
_SESSION: Final = sa.select(*SESSION_COLUMNS).where(*SESSION_CONDITIONS)


_ROUND: Final = (
    sa.select(
        *SESSION_COLUMNS,
        uploads.c.upload_id,
        uploads.c.payload_sha256,
        uploads.c.trajectories,
        uploads.c.steps,
        uploads.c.counted,
        uploads.c.evidence,
        uploads.c.round.label("upload_round"),
        sa.case((uploads.c.upload_id == sa.bindparam("upload_id"), uploads.c.acknowledgement)).label("acknowledgement"),
    )
    .select_from(
        sessions.outerjoin(
            uploads,
            (uploads.c.session_id == sessions.c.session_id)
            & ((uploads.c.round == sessions.c.round) | (uploads.c.upload_id == sa.bindparam("upload_id"))),
        )
    )
    .where(*SESSION_CONDITIONS)
    .order_by(uploads.c.payload_sha256, uploads.c.upload_id)
)


def check_id(value: str, field: str) -> None:
    """Checks an id that a client chose.

    Raises:
        InvalidRequestError: the id is empty or too long.
    """
    if not 0 < len(value) <= MAX_ID_LENGTH:
        raise InvalidRequestError(field, f"{len(value)} characters; expected 1 to {MAX_ID_LENGTH}")


def find_session(connection: sa.Connection, tenant: str, session_id: str, now: int) -> SessionRecord:
    """Returns one session of a tenant.

    Raises:
        NotFoundError: the session does not exist, belongs to another tenant, or was deleted. The message is the same.
    """
    arguments = {"session_id": session_id, "tenant": tenant, "now": now}
    row = connection.execute(_SESSION, arguments).one_or_none()
    if row is None:
        raise NotFoundError("session", session_id)
    return SessionRecord(*row)


def find_round(
    connection: sa.Connection, tenant: str, session_id: str, now: int, upload_id: str | None = None
) -> "tuple[SessionRecord, UploadedBatch, KnownUpload | None]":
    """Returns one session of a tenant, the uploads of its current round, and an upload of any round, in one statement.

    Args:
        connection: a transaction.
        tenant: the tenant.
        session_id: the session.
        now: microseconds since 1970.
        upload_id: the upload; None for none.

    Raises:
        NotFoundError: as `find_session`.
    """
    arguments = {"session_id": session_id, "tenant": tenant, "now": now, "upload_id": upload_id}
    rows = connection.execute(_ROUND, arguments).all()
    if not rows:
        raise NotFoundError("session", session_id)
    session = SessionRecord(*rows[0][: len(SESSION_COLUMNS)])
    ours = [row for row in rows if row.upload_round == session.round]
    known = next((row for row in rows if row.acknowledgement is not None), None)
    return session, _batch_of(ours), None if known is None else KnownUpload.of(known)


def add_kept(connection: sa.Connection, session_id: str, *, size: int, steps: int = 0) -> None:
    """Adds bytes and environment steps to a session's totals, in the transaction that stores them."""
    connection.execute(_ADD_KEPT, {"session": session_id, "more_bytes": size, "more_steps": steps})


def set_doubt(connection: sa.Connection, session_id: str, doubt: str | None) -> None:
    """Records why the uploads of a session's current round are implausible together, or that they are not."""
    connection.execute(_SET_DOUBT, {"session": session_id, "new_doubt": doubt})


def uploaded_batch(connection: sa.Connection, session: SessionRecord, round_index: int | None = None) -> UploadedBatch:
    """Returns the uploads of a round of a session; None for the current round."""
    index = session.round if round_index is None else round_index
    return _batch_of(connection.execute(_ROUND_UPLOADS, {"session_id": session.session_id, "round": index}).all())


def _batch_of(rows: Sequence[Any]) -> UploadedBatch:
    counted = [row for row in rows if row.counted is not False]
    return UploadedBatch(
        payloads=tuple(row.payload_sha256 for row in counted),
        trajectories=sum(row.trajectories for row in counted),
        steps=sum(row.steps for row in counted),
        upload_ids=tuple(row.upload_id for row in counted),
        evidence=tuple(row.evidence for row in counted),
        uncounted=len(rows) - len(counted),
    )


def uploaded_batches(connection: sa.Connection, page: Iterable[SessionRecord]) -> Mapping[str, UploadedBatch]:
    """Returns the uploads of each session's current round, by session id."""
    batches = {session.session_id: UploadedBatch() for session in page}
    query = (
        sa.select(uploads.c.session_id, uploads.c.payload_sha256, uploads.c.trajectories, uploads.c.steps)
        .join(sessions, (sessions.c.session_id == uploads.c.session_id) & (sessions.c.round == uploads.c.round))
        .where(sessions.c.session_id.in_(batches), uploads.c.counted.is_not(False))
        .order_by(uploads.c.payload_sha256)
    )
    for session_id, payload, trajectories, steps in connection.execute(query):
        batch = batches[session_id]
        batches[session_id] = UploadedBatch(
            (*batch.payloads, payload), batch.trajectories + trajectories, batch.steps + steps
        )
    return batches


def _as_text(microseconds: int) -> str:
    return datetime.datetime.fromtimestamp(microseconds // 10**6, datetime.UTC).isoformat()


def _timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp
