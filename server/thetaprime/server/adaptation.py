"""One adaptation step of a session, as a compare-and-set. Plain functions over the store; they block.

A call names the round it is to take and the digest of the batch to take it on. The step counts only if both are
still so when it is recorded, in one transaction with θ_{k+1}: several processes may share a store. A call that comes
again gets what the first one recorded.
"""

import contextvars
import dataclasses
import math
import time

import numpy as np
import sqlalchemy as sa

from thetaprime import wire
from thetaprime.models import (
    InnerStep,
    NonFiniteStepError,
    Parameters,
    adapt_step,
    check_finite,
    summarize_step,
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


@dataclasses.dataclass(frozen=True)
class AdaptCall:
    """What an `Adapt` asks for; equal calls have one outcome.

    Attributes:
        tenant: who asks.
        session_id: the session.
        expected_round: k, the round to take.
        batch_sha256: digest of the batch to take it on.
        context: what its logs and spans are bound to.
        began: when it came, by `time.perf_counter`.
    """

    tenant: str
    session_id: str
    expected_round: int
    batch_sha256: str
    context: contextvars.Context = dataclasses.field(
        default_factory=contextvars.copy_context, compare=False, repr=False
    )
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


@dataclasses.dataclass(frozen=True)
class _Round:
    """A round that may be taken: what it starts from."""

    session: SessionRecord
    batch: UploadedBatch
    record: PolicyRecord | None


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


def recorded_outcome(store: Store, call: AdaptCall) -> AdaptOutcome | None:
    """The outcome of an equal call that came before; None where the step is still to be taken.

    Raises:
        NotFoundError: there is no such session.
        RoundMismatchError: it is at another round.
        PreconditionError: it is closed, nothing was uploaded, or something else was.
    """
    with store.reading() as connection:
        found = _compare(connection, call, store.now())
    return None if isinstance(found, _Round) else _outcome(store, *found)


def take_round(store: Store, catalog: Catalog, call: AdaptCall) -> AdaptOutcome:
    """Takes one step and records it, or finds it recorded.

    Raises:
        NotFoundError: there is no such session.
        RoundMismatchError: it is at another round.
        PreconditionError: as in `recorded_outcome`; or the step left the finite numbers.
    """
    with store.reading() as connection:
        found = _compare(connection, call, store.now())
    if not isinstance(found, _Round):
        return _outcome(store, *found)
    failpoints.reach("adapt.begun")
    made = _step(store, session_entry(catalog, found.session), found)
    failpoints.reach("adapt.computed")

    record, blobs = made.record, {made.record.onnx_sha256: made.policy.onnx}
    store.prepare(blobs)
    failpoints.reach("adapt.blobs")
    with store.writing() as connection:
        found = _compare(connection, call, store.now())
        if not isinstance(found, _Round):
            return _outcome(store, *found)
        connection.execute(
            sessions.update()
            .where(sessions.c.session_id == call.session_id, sessions.c.round == call.expected_round)
            .values(round=record.round, policy_id=made.policy.policy_id)
        )
        connection.execute(policies.insert().values(dataclasses.asdict(record)))
        # Counted, and never refused: a step adds little, and what was uploaded for it was let in.
        count_as_kept(connection, call.session_id, size=sum(map(len, blobs.values())))
        store.keep(connection, blobs)
        failpoints.reach("adapt.rows")
    failpoints.reach("adapt.committed")
    hold_parameters(store, record.onnx_sha256, made.parameters)
    return _as_left(found.session, record, made.policy)


def _compare(connection: sa.Connection, call: AdaptCall, now: int) -> _Round | tuple[SessionRecord, PolicyRecord]:
    """The round as the call expects it, or the session and the record of the call that took it before."""
    session = find_session(connection, call.tenant, call.session_id, now)
    taken = find_policy(connection, call.session_id, call.expected_round + 1)
    if taken is not None and taken.batch_sha256 == call.batch_sha256:
        return session, taken
    if call.expected_round != session.round:
        raise RoundMismatchError(call.expected_round, session.round)
    session.require_open()
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
    return _Round(session, batch, find_policy(connection, call.session_id, session.round))


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a step computed, yet to be recorded."""

    record: PolicyRecord
    policy: policy_pb2.Policy
    parameters: Parameters


@traced("gradient")
def _step(store: Store, entry: CatalogEntry, taken: _Round) -> _Made:
    """Computes θ_{k+1}."""
    started = time.perf_counter()
    session, meta_policy = taken.session, entry.meta_policy
    start = round_start(store, entry, session, taken.record, taken.batch)
    step = adapt_step(
        meta_policy.policy,
        start.parameters,
        start.batch,
        meta_policy.manifest.adaptation,
        step=session.round,
        step_sizes=meta_policy.step_sizes,
        scale=1.0 if session.step_size_scale is None else session.step_size_scale,
        forward=start.forward,
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


def _report(entry: CatalogEntry, taken: _Round, start: RoundStart, step: InnerStep) -> service_pb.AdaptationReport:
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
    return convert.report_message(
        round_index=taken.session.round, batch=start.batch, batch_sha256=taken.batch.sha256, summary=summary
    )


def _outcome(store: Store, session: SessionRecord, record: PolicyRecord) -> AdaptOutcome:
    return _as_left(session, record, record.policy_message(store))


def _as_left(session: SessionRecord, record: PolicyRecord, policy: policy_pb2.Policy) -> AdaptOutcome:
    # As the step left it: later rounds, and its end, are not for this reply to tell.
    left = dataclasses.replace(session, round=record.round, policy_id=policy.policy_id, closed=False)
    return AdaptOutcome(left, policy, record.report_message())
