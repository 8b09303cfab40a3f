"""The policies of a session: θ from the catalog, every later θ_k from the store. These functions block."""

import dataclasses
from typing import Final

import sqlalchemy as sa

from thetaprime.models import Parameters
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry
from thetaprime.server.errors import NotFoundError, PreconditionError
from thetaprime.server.sessions.rows import (
    SESSION_COLUMNS,
    SESSION_CONDITIONS,
    KnownUpload,
    SessionRecord,
    find_session,
)
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.server.store.tables import policies, sessions, uploads
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

_POLICY: Final = sa.select(policies).where(
    policies.c.session_id == sa.bindparam("session_id"), policies.c.round == sa.bindparam("round")
)

_MEMORIES: Final = (
    sa.select(policies.c.memory)
    .where(policies.c.session_id == sa.bindparam("session_id"), policies.c.round <= sa.bindparam("round"))
    .order_by(policies.c.round)
)


_UPLOAD_BASE: Final = (
    sa.select(
        *SESSION_COLUMNS,
        uploads.c.payload_sha256,
        uploads.c.counted,
        uploads.c.acknowledgement,
        uploads.c.round.label("upload_round"),
        policies.c.round.label("policy_round"),
        policies.c.batch_sha256,
        policies.c.onnx_sha256,
        # Of the last two steps.
        *(
            sa.case((policies.c.round >= sessions.c.round - 1, column)).label(column.name)
            for column in (policies.c.policy, policies.c.report)
        ),
        policies.c.memory,
    )
    .select_from(
        sessions.outerjoin(
            uploads,
            (uploads.c.session_id == sessions.c.session_id) & (uploads.c.upload_id == sa.bindparam("upload_id")),
        ).outerjoin(policies, (policies.c.session_id == sessions.c.session_id) & (policies.c.round <= sessions.c.round))
    )
    .where(*SESSION_CONDITIONS)
    .order_by(policies.c.round)
)


@dataclasses.dataclass(frozen=True)
class PolicyRecord:
    """θ_k of a session, k >= 1, with the step that made it.

    Attributes:
        session_id: the session.
        round: k.
        batch_sha256: digest of the step's batch.
        onnx_sha256: blob of the ONNX file, which holds the parameters.
        policy: the Policy message without the file.
        report: the step's AdaptationReport.
        memory: what later steps need to know of the step's round; None in a store that is older than it.
    """

    session_id: str
    round: int
    batch_sha256: str
    onnx_sha256: str
    policy: bytes
    report: bytes
    memory: bytes | None = None

    @property
    def description(self) -> policy_pb2.Policy:
        """The policy without its file."""
        return policy_pb2.Policy.FromString(self.policy)

    def policy_message(self, store: Store) -> policy_pb2.Policy:
        """Returns the policy as it was first sent."""
        message = self.description
        message.onnx = store.read(self.onnx_sha256)
        return message

    def report_message(self) -> service_pb.AdaptationReport:
        """Returns the report as it was first sent."""
        return service_pb.AdaptationReport.FromString(self.report)


@dataclasses.dataclass(frozen=True)
class UploadBase:
    """What an upload builds on.

    Attributes:
        session: its session.
        known: the upload, where it was accepted before.
        record: the step that made θ_k; None for θ.
        previous: the step that made θ_{k−1}; None for θ, and in round 0.
        memories: what the session remembers of each round before the current one, in order.
    """

    session: SessionRecord
    known: KnownUpload | None
    record: PolicyRecord | None
    previous: PolicyRecord | None
    memories: tuple[bytes | None, ...]


def find_policy(connection: sa.Connection, session_id: str, round_index: int) -> PolicyRecord | None:
    """Returns θ_k of a session; None for θ, and for a later round than the session's."""
    row = connection.execute(_POLICY, {"session_id": session_id, "round": round_index}).mappings().one_or_none()
    return None if row is None else PolicyRecord(**row)


def find_upload_base(connection: sa.Connection, tenant: str, session_id: str, now: int, upload_id: str) -> UploadBase:
    """Returns what an upload of a session builds on, in one statement.

    Raises:
        NotFoundError: the session does not exist, belongs to another tenant, or was deleted.
    """
    arguments = {"session_id": session_id, "tenant": tenant, "now": now, "upload_id": upload_id}
    rows = connection.execute(_UPLOAD_BASE, arguments).all()
    if not rows:
        raise NotFoundError("session", session_id)
    session = SessionRecord(*rows[0][: len(SESSION_COLUMNS)])
    steps = [row for row in rows if row.policy_round is not None]
    records = {
        row.policy_round: PolicyRecord(
            session_id, row.policy_round, row.batch_sha256, row.onnx_sha256, row.policy, row.report, row.memory
        )
        for row in steps
        if row.policy is not None
    }
    return UploadBase(
        session=session,
        known=None if rows[0].acknowledgement is None else KnownUpload.of(rows[0]),
        record=records.get(session.round),
        previous=records.get(session.round - 1),
        memories=tuple(row.memory for row in steps),
    )


def read_memories(connection: sa.Connection, session: SessionRecord) -> tuple[bytes | None, ...]:
    """Returns what the session remembers of each round before the current one, in order."""
    if not session.round:
        return ()
    return tuple(connection.scalars(_MEMORIES, {"session_id": session.session_id, "round": session.round}))


def find_policy_id(connection: sa.Connection, session: SessionRecord, round_index: int) -> str:
    """Returns the policy id of θ_k of a session."""
    if round_index == session.round:
        return session.policy_id
    record = find_policy(connection, session.session_id, round_index) if round_index else None
    return session.theta_id if record is None else record.description.policy_id


def session_entry(catalog: Catalog, session: SessionRecord) -> CatalogEntry:
    """Returns the meta-policy that a session adapts. May scan the catalog's folders.

    Raises:
        PreconditionError: META_POLICY_GONE or META_POLICY_CHANGED.
    """
    name, version = session.meta_policy, session.meta_policy_version
    try:
        entry = catalog.recall(name, version)
    except NotFoundError as error:
        raise PreconditionError("META_POLICY_GONE", f"meta-policy {name}@{version} has left the catalog") from error
    if entry.message.policy_id != session.theta_id:
        raise PreconditionError(
            "META_POLICY_CHANGED",
            f"meta-policy {name}@{version} has policy id {entry.message.policy_id}; the session began from "
            f"{session.theta_id}",
        )
    return entry


def get_policy(
    store: Store, catalog: Catalog, tenant: str, session_id: str, round_index: int | None
) -> tuple[policy_pb2.Policy, service_pb.AdaptationReport | None]:
    """Returns θ_k of a session and the report of the step that made it (None for θ).

    Args:
        store: the store.
        catalog: the meta-policies.
        tenant: the caller's tenant.
        session_id: the session.
        round_index: k, or None for the current round.

    Raises:
        NotFoundError: the session does not exist, or is at an earlier round.
        PreconditionError: θ was asked for and has left the catalog.
    """
    session, index, record = _read_policy(store, tenant, session_id, round_index)
    if record is not None:
        return record.policy_message(store), record.report_message()
    if index == 0:
        return session_entry(catalog, session).theta, None
    raise NotFoundError("policy", f"round {index} of session {session_id}")


@retried
def _read_policy(
    store: Store, tenant: str, session_id: str, round_index: int | None
) -> tuple[SessionRecord, int, PolicyRecord | None]:
    with store.reading() as connection:
        session = find_session(connection, tenant, session_id, store.now())
        index = session.round if round_index is None else round_index
        return session, index, find_policy(connection, session_id, index)


def current_parameters(store: Store, entry: CatalogEntry, record: PolicyRecord | None) -> Parameters:
    """Returns θ_k as tensors, given the record of the step that made it (None for θ)."""
    if record is None:
        return entry.meta_policy.parameters
    cached: Parameters | None = store.recent.get(_key(record.onnx_sha256))
    if cached is not None:
        return cached
    parameters = entry.meta_policy.template.read(store.read(record.onnx_sha256))
    cache_parameters(store, record.onnx_sha256, parameters)
    return parameters


def cache_parameters(store: Store, onnx_sha256: str, parameters: Parameters) -> None:
    """Caches the parameters of an ONNX file."""
    store.recent.put(_key(onnx_sha256), parameters, sum(value.nbytes for value in parameters.values()))


def _key(onnx_sha256: str) -> tuple[str, ...]:
    return "parameters", onnx_sha256
