"""One adaptation step of a session, as a compare-and-set. Plain functions over the store; they block.

A call names the round it is to take and the digest of the batch to take it on. The step counts only if both are
still so when it is recorded, in one transaction with θ_{k+1}: several processes may share a store. A call that comes
again gets what the first one recorded.
"""

import contextvars
import dataclasses
import math
import time
from typing import Final

import numpy as np
import sqlalchemy as sa

from thetaprime import wire
from thetaprime.models import (
    InnerStep,
    NonFiniteStepError,
    Parameters,
    adapt_step,
    check_finite,
    forward_pass,
    moving_parameters,
    summarize_step,
    trajectory_shares,
)
from thetaprime.server import convert, failpoints
from thetaprime.server.catalog import Catalog, CatalogEntry
from thetaprime.server.errors import PreconditionError, RoundMismatchError, shown
from thetaprime.server.policies import (
    PolicyRecord,
    find_policy,
    hold_parameters,
    session_entry,
)
from thetaprime.server.records import SessionRecord, UploadedBatch, count_as_kept, find_session, uploaded_batch
from thetaprime.server.rounds import RoundStart, round_start
from thetaprime.server.store import Store
from thetaprime.server.store.tables import policies, sessions
from thetaprime.server.telemetry.tracing import traced
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

_MOVE_ON: Final = (
    sessions.update()
    .where(sessions.c.session_id == sa.bindparam("session"), sessions.c.round == sa.bindparam("left"))
    .values(round=sa.bindparam("reached"), policy_id=sa.bindparam("made"))
)
_INSERT: Final = policies.insert()


@dataclasses.dataclass(frozen=True)
class RoundToTake:
    """A round that may be taken, by what it starts from.

    Attributes:
        session: the session, at round k.
        batch: what was uploaded in it.
        record: of the step that made θ_k; None for θ.
    """

    session: SessionRecord
    batch: UploadedBatch
    record: PolicyRecord | None = None


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
    found: RoundToTake | None = dataclasses.field(default=None, compare=False, repr=False)
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


def warm_up(catalog: Catalog) -> None:
    """Takes one step that nobody asked for: torch's first one loads a second's worth of modules."""
    for entry in catalog:
        contract = entry.contract
        box = contract.action_kind is wire.ActionKind.BOX
        trajectory = wire.Trajectory(
            observations=np.zeros((2, *contract.observation_shape), np.float32),
            actions=np.zeros((2, contract.action_size), np.float32) if box else np.zeros(2, np.int64),
            rewards=np.zeros(2, np.float32),
            terminated=False,
            truncated=True,
            final_observation=np.zeros(contract.observation_shape, np.float32),
            policy_id="",
        )
        meta_policy = entry.meta_policy
        batch = convert.trajectory_batch([trajectory])
        adapt_step(
            meta_policy.policy,
            meta_policy.parameters,
            batch,
            meta_policy.manifest.adaptation,
            step=0,
            step_sizes=meta_policy.step_sizes,
        )
        return


def look_up(store: Store, call: AdaptCall) -> AdaptOutcome | RoundToTake:
    """The outcome of an equal call that came before; what the step starts from where it is still to be taken.

    Raises:
        NotFoundError: there is no such session.
        RoundMismatchError: it is at another round.
        PreconditionError: it is closed, nothing was uploaded, or something else was.
    """
    with store.reading() as connection:
        found = _compare(connection, call, store.now())
        if isinstance(found, RoundToTake):
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
    start = call.found or look_up(store, call)
    if isinstance(start, AdaptOutcome):
        return start
    failpoints.reach("adapt.begun")
    made = _step(store, session_entry(catalog, start.session), start)
    failpoints.reach("adapt.computed")

    record, blobs = made.record, {made.record.onnx_sha256: made.policy.onnx}
    store.prepare(blobs)
    failpoints.reach("adapt.blobs")
    with store.writing() as connection:
        found = _compare(connection, call, store.now())
        if not isinstance(found, RoundToTake):
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


def _compare(connection: sa.Connection, call: AdaptCall, now: int) -> RoundToTake | tuple[SessionRecord, PolicyRecord]:
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
    return RoundToTake(session, batch)


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a step computed, yet to be recorded."""

    record: PolicyRecord
    policy: policy_pb2.Policy
    parameters: Parameters


@traced("gradient")
def _step(store: Store, entry: CatalogEntry, taken: RoundToTake) -> _Made:
    """Computes θ_{k+1}."""
    started = time.perf_counter()
    session, meta_policy = taken.session, entry.meta_policy
    start = round_start(store, entry, session, taken.record, taken.batch)
    adaptation, step_sizes = meta_policy.manifest.adaptation, meta_policy.step_sizes
    forward = start.forward or forward_pass(
        meta_policy.policy,
        start.parameters,
        start.batch,
        moving_parameters(start.parameters, adaptation, step_sizes),
        layers=True,
    )
    step = adapt_step(
        meta_policy.policy,
        start.parameters,
        start.batch,
        adaptation,
        step=session.round,
        step_sizes=step_sizes,
        scale=1.0 if session.step_size_scale is None else session.step_size_scale,
        forward=forward,
    )
    report = _report(entry, taken, start, step)
    exported = meta_policy.export(step.parameters, parent_id=session.policy_id)
    report.seconds = time.perf_counter() - started
    policy = convert.policy_message(exported)
    policy.ClearField("onnx")
    record = PolicyRecord(
        session_id=session.session_id,
        round=session.round + 1,
        batch_sha256=taken.batch.sha256,
        onnx_sha256=exported.onnx_sha256,
        policy=policy.SerializeToString(),
        report=report.SerializeToString(),
    )
    policy.onnx = exported.onnx
    return _Made(record, policy, step.parameters)


def _report(entry: CatalogEntry, taken: RoundToTake, start: RoundStart, step: InnerStep) -> service_pb.AdaptationReport:
    """Measures the step, and refuses one that left the finite numbers."""
    try:
        check_finite(step.parameters)
    except NonFiniteStepError as error:
        raise PreconditionError("NON_FINITE_STEP", str(error)) from error
    summary = summarize_step(entry.meta_policy.policy, start.parameters, step, start.batch)
    # Finite parameters may still be so large that the policy's outputs are not.
    for name, value in dataclasses.asdict(summary).items():
        if not math.isfinite(value):
            raise PreconditionError("NON_FINITE_STEP", f"{name} of the step is {value}")
    shares = trajectory_shares(entry.meta_policy.policy, start.parameters, start.batch, step)
    report = convert.report_message(
        round_index=taken.session.round, batch=start.batch, batch_sha256=taken.batch.sha256, summary=summary
    )
    report.uploads.extend(convert.share_messages(taken.batch.payloads, start.counts, start.batch.returns, shares))
    return report


def _outcome(store: Store, session: SessionRecord, record: PolicyRecord) -> AdaptOutcome:
    return _as_left(session, record, record.policy_message(store))


def _as_left(session: SessionRecord, record: PolicyRecord, policy: policy_pb2.Policy) -> AdaptOutcome:
    # As the step left it: later rounds, and its end, are not for this reply to tell.
    left = dataclasses.replace(session, round=record.round, policy_id=policy.policy_id, closed=False)
    return AdaptOutcome(left, policy, record.report_message())
