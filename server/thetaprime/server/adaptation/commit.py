"""Takes one adaptation step of a session exactly once, as a compare-and-set. These functions block.

A call names its round and the digest of that round's batch. Both are compared again in the transaction that records the
step and θ_{k+1}, so several processes may share a store. A repeated call returns the recorded step.
"""

import dataclasses
import time
from typing import Final

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.adaptation.precompute import take_precomputed_step
from thetaprime.server.adaptation.step import PendingRound, StepInputs, StepResult, compute_step
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.errors import PreconditionError, RoundMismatchError, shown
from thetaprime.server.sessions.on_policy import require_plausible_round
from thetaprime.server.sessions.policies import (
    PolicyRecord,
    cache_parameters,
    find_policy,
    find_policy_id,
    read_memories,
    session_entry,
)
from thetaprime.server.sessions.rows import ADDED_KEPT, SessionRecord, find_round
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.server.store.tables import policies, sessions
from thetaprime.server.store.usage import row_bytes
from thetaprime.server.store.writes import Writes, insert_row, row_values
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

_NEXT: Final[dict[str, sa.BindParameter[object]]] = {
    name: sa.bindparam(f"next_{name}") for name in ("round", "policy_id", "best_round", "best_policy_id")
}
_RECORD: Final = Writes(
    (
        sessions.update()
        .where(sessions.c.session_id == sa.bindparam("session"), sessions.c.round == sa.bindparam("expected_round"))
        .values({**_NEXT, **ADDED_KEPT}),
        frozenset({"session", "expected_round", "more_bytes", "more_steps", *(f"next_{name}" for name in _NEXT)}),
    ),
    (insert_row(policies), frozenset(row_values(policies, {}))),
)


@dataclasses.dataclass(frozen=True)
class AdaptCall:
    """The arguments of an `Adapt`. Equal calls have one outcome.

    Attributes:
        tenant: the caller's tenant.
        session_id: the session.
        expected_round: k, the round to take.
        batch_sha256: digest of the batch to take it on.
        pending: the round as `look_up` found it, where it was looked up.
        started: when the call arrived, by `time.perf_counter`.
    """

    tenant: str
    session_id: str
    expected_round: int
    batch_sha256: str
    pending: PendingRound | None = dataclasses.field(default=None, compare=False, repr=False)
    started: float = dataclasses.field(default_factory=time.perf_counter, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class AdaptOutcome:
    """The outcome of an `Adapt`.

    Attributes:
        session: the session right after the step: at round k + 1, with no uploads.
        policy: θ_{k+1}.
        report: the step's report.
    """

    session: SessionRecord
    policy: policy_pb2.Policy
    report: service_pb.AdaptationReport


@retried
def look_up(store: Store, call: AdaptCall) -> AdaptOutcome | PendingRound:
    """Returns the outcome of an equal earlier call, or the round to take.

    Raises:
        NotFoundError: the session does not exist.
        RoundMismatchError: the session is at another round.
        PreconditionError: the session is closed or expired, or its batch is empty, has another digest or is doubted.
    """
    with store.reading() as connection:
        found = _compare(connection, call, store.now())
        if isinstance(found, PendingRound):
            record = find_policy(connection, call.session_id, call.expected_round) if call.expected_round else None
            memories = read_memories(connection, found.session)
            return dataclasses.replace(found, record=record, memories=memories)
        best_policy_id = _best_policy_id(connection, *found)
    # A second connection, once the first is given back: servers whose calls held two could wait for each other.
    return _recorded_outcome(store, *found, best_policy_id)


def take_round(store: Store, catalog: Catalog, metrics: Metrics, call: AdaptCall) -> AdaptOutcome:
    """Takes one step and records it, or returns the recorded one.

    Raises:
        NotFoundError: the session does not exist.
        RoundMismatchError: the session is at another round.
        PreconditionError: as in `look_up`; or the step is not finite.
    """
    with metrics.track_step():
        result = _computed_step(store, catalog, call)
        outcome = result if isinstance(result, AdaptOutcome) else _commit(store, catalog, call, result)
    metrics.record_round(outcome.session.meta_policy, time.perf_counter() - call.started, outcome.report.seconds)
    if isinstance(result, StepResult):
        metrics.record_verdict(outcome.report.verdict)
    return outcome


def _computed_step(store: Store, catalog: Catalog, call: AdaptCall) -> StepResult | AdaptOutcome:
    """Returns the step, precomputed or computed now; its outcome where it is recorded already."""
    precomputed = take_precomputed_step(store, call.tenant, call.session_id, call.expected_round, call.batch_sha256)
    if precomputed is not None:
        failpoints.reach("adapt.begun")
        return precomputed
    pending = call.pending or look_up(store, call)
    if isinstance(pending, AdaptOutcome):
        return pending
    failpoints.reach("adapt.begun")
    entry = session_entry(catalog, pending.session)
    require_plausible_round(entry.meta_policy.policy, pending.session, pending.batch)
    return compute_step(entry, pending, StepInputs.read(store, entry, pending))


@retried
def _commit(store: Store, catalog: Catalog, call: AdaptCall, result: StepResult) -> AdaptOutcome:
    """Records a step, if the round is still at the call's round and batch, and plausible."""
    failpoints.reach("adapt.computed")
    record, blobs = result.record, {result.record.onnx_sha256: result.policy.onnx}
    with store.storing(blobs, call.tenant) as connection:
        failpoints.reach("adapt.blobs")
        found = _compare(connection, call, store.now())
        if isinstance(found, PendingRound):
            best_policy_id = _best_policy_id(connection, found.session, record)
            policy = session_entry(catalog, found.session).meta_policy.policy
            require_plausible_round(policy, found.session, found.batch)
            row, placed = vars(record), store.place(connection, blobs)
            values = {
                "session": call.session_id,
                "expected_round": call.expected_round,
                "next_round": record.round,
                "next_policy_id": result.policy.policy_id,
                "next_best_round": record.report_message().verdict.best_round,
                "next_best_policy_id": best_policy_id,
                # The first upload of the round has counted the policy, before its size was known.
                "more_bytes": row_bytes(policies, row) + placed.bytes - found.session.policy_bytes,
                "more_steps": 0,
            }
            _RECORD.execute(connection, {**values, **row_values(policies, row)}, next(iter(placed.rows), None))
            failpoints.reach("adapt.rows")
        else:
            best_policy_id = _best_policy_id(connection, *found)
    if not isinstance(found, PendingRound):
        # After the transaction, which holds a connection.
        return _recorded_outcome(store, *found, best_policy_id)
    failpoints.reach("adapt.committed")
    cache_parameters(store, record.onnx_sha256, result.parameters)
    return _outcome(found.session, record, result.policy, best_policy_id)


def _compare(connection: sa.Connection, call: AdaptCall, now: int) -> PendingRound | tuple[SessionRecord, PolicyRecord]:
    """Returns the round as the call expects it, or the session and the record of the equal call that took it."""
    session, batch, _ = find_round(connection, call.tenant, call.session_id, now)
    if call.expected_round != session.round:
        # A later round has no record, and its number may exceed the database's integers.
        is_past = call.expected_round < session.round
        record = find_policy(connection, call.session_id, call.expected_round + 1) if is_past else None
        if record is not None and record.batch_sha256 == call.batch_sha256:
            return session, record
        raise RoundMismatchError(call.expected_round, session.round)
    session.require_open(now)
    session.require_plausible()
    if not batch.uploads:
        raise PreconditionError("EMPTY_BATCH", f"round {session.round} has no uploads")
    if batch.sha256 != call.batch_sha256:
        raise PreconditionError(
            "BATCH_CHANGED",
            f"batch_sha256 is {shown(call.batch_sha256)}; the uploads of round {session.round} have {batch.sha256}",
            batch_sha256=batch.sha256,
        )
    return PendingRound(session, batch)


def _best_policy_id(connection: sa.Connection, session: SessionRecord, record: PolicyRecord) -> str:
    """Returns the policy id of the best policy after a recorded step."""
    best = record.report_message().verdict.best_round
    if best == session.best_round and session.best_policy_id is not None:
        return session.best_policy_id
    return find_policy_id(connection, session, best)


def _recorded_outcome(store: Store, session: SessionRecord, record: PolicyRecord, best_policy_id: str) -> AdaptOutcome:
    return _outcome(session, record, record.policy_message(store), best_policy_id)


def _outcome(
    session: SessionRecord, record: PolicyRecord, policy: policy_pb2.Policy, best_policy_id: str
) -> AdaptOutcome:
    report = record.report_message()
    # The session right after the step: a repeated call hides later rounds and the session's end.
    after = dataclasses.replace(
        session,
        round=record.round,
        policy_id=policy.policy_id,
        closed=False,
        best_round=report.verdict.best_round,
        best_policy_id=best_policy_id,
    )
    return AdaptOutcome(after, policy, report)
