"""The policies of a session: θ from the catalog, every later θ_k from the store. These functions block."""

import dataclasses
from typing import Final

import sqlalchemy as sa

from thetaprime.models import Parameters
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry
from thetaprime.server.errors import NotFoundError, PreconditionError
from thetaprime.server.sessions.rows import SessionRecord, find_session
from thetaprime.server.store import Store
from thetaprime.server.store.tables import policies
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


def find_policy(connection: sa.Connection, session_id: str, round_index: int) -> PolicyRecord | None:
    """Returns θ_k of a session; None for θ, and for a later round than the session's."""
    row = connection.execute(_POLICY, {"session_id": session_id, "round": round_index}).mappings().one_or_none()
    return None if row is None else PolicyRecord(**row)


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
    with store.reading() as connection:
        session = find_session(connection, tenant, session_id, store.now())
        index = session.round if round_index is None else round_index
        record = find_policy(connection, session_id, index)
    if record is not None:
        return record.policy_message(store), record.report_message()
    if index == 0:
        return session_entry(catalog, session).theta, None
    raise NotFoundError("policy", f"round {index} of session {session_id}")


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
