"""One adaptation step of a session, as a compare-and-set. Plain functions over the store; they block.

A call names the round it is to take and the digest of the batch to take it on. The step counts only if both are
still so when it is recorded, in one transaction with θ_{k+1}: several processes may share a store. A call that comes
again gets what the first one recorded.
"""

import contextvars
import dataclasses
import time
from typing import Final

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.adaptation.precompute import precomputed_step
from thetaprime.server.adaptation.step import PendingRound, StepResult, compute_step
from thetaprime.server.adaptation.step_inputs import step_inputs
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.errors import PreconditionError, RoundMismatchError, shown
from thetaprime.server.sessions.policies import (
    PolicyRecord,
    find_policy,
    hold_parameters,
    session_entry,
)
from thetaprime.server.sessions.rows import SessionRecord, count_as_kept, find_session, uploaded_batch
from thetaprime.server.store import Store
from thetaprime.server.store.tables import policies, sessions
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

_MOVE_ON: Final = (
    sessions.update()
    .where(sessions.c.session_id == sa.bindparam("session"), sessions.c.round == sa.bindparam("left"))
    .values(round=sa.bindparam("reached"), policy_id=sa.bindparam("made"))
)
_INSERT: Final = policies.insert()


@dataclasses.dataclass(frozen=True)
class AdaptCall:
    """What an `Adapt` asks for; equal calls have one outcome.

    Attributes:
        tenant: who asks.
        session_id: the session.
        expected_round: k, the round to take.
        batch_sha256: digest of the batch to take it on.
        context: what its logs and spans are bound to.
        found: the round as `look_up` found it, where it has.
        began: when it came, by `time.perf_counter`.
    """

    tenant: str
    session_id: str
    expected_round: int
    batch_sha256: str
    context: contextvars.Context = dataclasses.field(
        default_factory=contextvars.copy_context, compare=False, repr=False
    )
    found: PendingRound | None = dataclasses.field(default=None, compare=False, repr=False)
    began: float = dataclasses.field(default_factory=time.perf_counter, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class AdaptOutcome:
    """What a step made.

    Attributes:
        session: the session as the step left it: at round k + 1 with nothing uploaded.
        policy: θ_{k+1}.
        report: what the step saw and did.
    """

    session: SessionRecord
    policy: policy_pb2.Policy
    report: service_pb.AdaptationReport


def look_up(store: Store, call: AdaptCall) -> AdaptOutcome | PendingRound:
    """The outcome of an equal call that came before; what the step starts from where it is still to be taken.

    Raises:
        NotFoundError: there is no such session.
        RoundMismatchError: it is at another round.
        PreconditionError: it is closed, nothing was uploaded, or something else was.
    """
    with store.reading() as connection:
        found = _compare(connection, call, store.now())
        if isinstance(found, PendingRound):
            record = find_policy(connection, call.session_id, call.expected_round) if call.expected_round else None
            return dataclasses.replace(found, record=record)
    return _outcome(store, *found)


def take_round(store: Store, catalog: Catalog, call: AdaptCall) -> AdaptOutcome:
    """Takes one step and records it, or finds it recorded.

    Raises:
        NotFoundError: there is no such session.
        RoundMismatchError: it is at another round.
        PreconditionError: as in `look_up`; or the step left the finite numbers.
    """
    made = _made(store, catalog, call)
    if isinstance(made, AdaptOutcome):
        return made
    failpoints.reach("adapt.computed")

    record, blobs = made.record, {made.record.onnx_sha256: made.policy.onnx}
    store.prepare(blobs)
    failpoints.reach("adapt.blobs")
    with store.writing() as connection:
        found = _compare(connection, call, store.now())
        if not isinstance(found, PendingRound):
            return _outcome(store, *found)
        moved = {"session": call.session_id, "left": call.expected_round, "reached": record.round}
        connection.execute(_MOVE_ON, {**moved, "made": made.policy.policy_id})
        connection.execute(_INSERT, dataclasses.asdict(record))
        # Counted, and never refused: a step adds little, and what was uploaded for it was let in.
        count_as_kept(connection, call.session_id, size=sum(map(len, blobs.values())))
        store.keep(connection, blobs)
        failpoints.reach("adapt.rows")
    failpoints.reach("adapt.committed")
    hold_parameters(store, record.onnx_sha256, made.parameters)
    return _as_left(found.session, record, made.policy)


def _compare(connection: sa.Connection, call: AdaptCall, now: int) -> PendingRound | tuple[SessionRecord, PolicyRecord]:
    """The round as the call expects it, or the session and the record of the call that took it before."""
    session = find_session(connection, call.tenant, call.session_id, now)
    if call.expected_round != session.round:
        # A round that is still to be taken has no record; beyond it there may be no number to ask for one by.
        past = call.expected_round < session.round
        taken = find_policy(connection, call.session_id, call.expected_round + 1) if past else None
        if taken is not None and taken.batch_sha256 == call.batch_sha256:
            return session, taken
        raise RoundMismatchError(call.expected_round, session.round)
    session.require_open(now)
    batch = uploaded_batch(connection, session)
    if not batch.uploads:
        raise PreconditionError("EMPTY_BATCH", f"nothing was uploaded in round {session.round}")
    if batch.sha256 != call.batch_sha256:
        raise PreconditionError(
            "BATCH_CHANGED",
            f"batch_sha256 is {shown(call.batch_sha256)}; what was uploaded in round {session.round} has "
            f"{batch.sha256}",
            batch_sha256=batch.sha256,
        )
    return PendingRound(session, batch)


def _made(store: Store, catalog: Catalog, call: AdaptCall) -> StepResult | AdaptOutcome:
    """The step, which may have been computed when its batch arrived; what came of it if it is recorded."""
    made = precomputed_step(store, call.tenant, call.session_id, call.expected_round, call.batch_sha256)
    if made is not None:
        failpoints.reach("adapt.begun")
        return made
    taken = call.found or look_up(store, call)
    if isinstance(taken, AdaptOutcome):
        return taken
    failpoints.reach("adapt.begun")
    entry = session_entry(catalog, taken.session)
    return compute_step(entry, taken, step_inputs(store, entry, taken.record, taken.batch))


def _outcome(store: Store, session: SessionRecord, record: PolicyRecord) -> AdaptOutcome:
    return _as_left(session, record, record.policy_message(store))


def _as_left(session: SessionRecord, record: PolicyRecord, policy: policy_pb2.Policy) -> AdaptOutcome:
    # As the step left it: later rounds, and its end, are not for this reply to tell.
    left = dataclasses.replace(session, round=record.round, policy_id=policy.policy_id, closed=False)
    return AdaptOutcome(left, policy, record.report_message())
