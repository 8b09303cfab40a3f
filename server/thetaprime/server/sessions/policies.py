"""The policies of a session: θ from the catalog, every θ_k after it from the store. They block."""

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


@dataclasses.dataclass(frozen=True)
class PolicyRecord:
    """θ_k of a session, k >= 1, with the step that made it.

    Attributes:
        session_id: the session.
        round: k.
        batch_sha256: digest of the batch that the step was taken on.
        onnx_sha256: the blob of its ONNX file, which holds its parameters.
        policy: its Policy message without the file.
        report: the step's AdaptationReport.
    """

    session_id: str
    round: int
    batch_sha256: str
    onnx_sha256: str
    policy: bytes
    report: bytes

    def policy_message(self, store: Store) -> policy_pb2.Policy:
        """The policy as it was first sent."""
        message = policy_pb2.Policy.FromString(self.policy)
        message.onnx = store.read(self.onnx_sha256)
        return message

    def report_message(self) -> service_pb.AdaptationReport:
        """The report as it was first sent."""
        return service_pb.AdaptationReport.FromString(self.report)


def find_policy(connection: sa.Connection, session_id: str, round_index: int) -> PolicyRecord | None:
    """θ_k of a session; None for θ, and for a round that the session has not come to."""
    row = connection.execute(_POLICY, {"session_id": session_id, "round": round_index}).mappings().one_or_none()
    return None if row is None else PolicyRecord(**row)


def session_entry(catalog: Catalog, session: SessionRecord) -> CatalogEntry:
    """The meta-policy that a session adapts.

    Raises:
        PreconditionError: the catalog no longer has it, or has another θ under its name and version.
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
    """θ_k of a session and the report of the step that made it (None for θ).

    Args:
        store: the store.
        catalog: the meta-policies.
        tenant: who asks.
        session_id: the session.
        round_index: k, or None for the current round.

    Raises:
        NotFoundError: there is no such session, or it has not come to that round.
        PreconditionError: θ is asked for and has left the catalog.
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
    """θ_k, given the record of the step that made it (None for θ)."""
    if record is None:
        return entry.meta_policy.parameters
    held: Parameters | None = store.recent.get(_key(record.onnx_sha256))
    if held is None:
        held = entry.meta_policy.template.read(store.read(record.onnx_sha256))
        hold_parameters(store, record.onnx_sha256, held)
    return held


def hold_parameters(store: Store, onnx_sha256: str, parameters: Parameters) -> None:
    """Keeps at hand the parameters that an ONNX file holds."""
    store.recent.put(_key(onnx_sha256), parameters, sum(value.nbytes for value in parameters.values()))


def _key(onnx_sha256: str) -> tuple[str, ...]:
    return "parameters", onnx_sha256
