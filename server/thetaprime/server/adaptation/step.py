"""One round's step: its inputs, then θ_{k+1}, its ONNX file and its report. Nothing is recorded here."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime import wire
from thetaprime.models import (
    ForwardPass,
    MetaPolicy,
    NonFiniteStepError,
    Parameters,
    TrajectoryBatch,
    trajectory_contributions,
)
from thetaprime.models.verdict import Caution, RoundMemory, SessionStep, StepOptions, next_step
from thetaprime.server.adaptation.verdicts import verdict_message
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry, policy_message
from thetaprime.server.errors import PreconditionError
from thetaprime.server.sessions.policies import PolicyRecord, current_parameters, find_policy
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch
from thetaprime.server.sessions.uploads import NewUpload, trajectory_batch
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.server.telemetry.tracing import traced
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

_CAUTIONS: Final = {
    service_pb.CAUTION_UNSPECIFIED: Caution.HOLD,
    service_pb.CAUTION_OFF: Caution.OFF,
    service_pb.CAUTION_WARN: Caution.WARN,
    service_pb.CAUTION_HOLD: Caution.HOLD,
}


@dataclasses.dataclass(frozen=True)
class PendingRound:
    """A round whose step may be taken.

    Attributes:
        session: the session, at round k.
        batch: the round's uploads.
        record: the step that made θ_k; None for θ.
        memories: what the session remembers of rounds 0 to k − 1; None for a round that is older than memories.
    """

    session: SessionRecord
    batch: UploadedBatch
    record: PolicyRecord | None = None
    memories: tuple[bytes | None, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class EarlierPolicies:
    """The policies of a session that a step may return to. They are read when they are asked for.

    Attributes:
        store: the store.
        entry: the session's meta-policy.
        pending: the round.
    """

    store: Store
    entry: CatalogEntry
    pending: PendingRound

    def record(self, number: int) -> PolicyRecord | None:
        """Returns the step that made a policy; None for θ."""
        session = self.pending.session
        if number == session.round:
            return self.pending.record
        if number == 0:
            return None
        return _read_record(self.store, session.session_id, number)

    def parameters(self, number: int) -> Parameters:
        """Returns a policy as tensors."""
        return current_parameters(self.store, self.entry, self.record(number))

    def parent_id(self, number: int) -> str:
        """Returns the id of the policy that a policy was adapted from; empty for θ."""
        record = self.record(number)
        return "" if record is None else record.description.parent_id


@retried
def _read_record(store: Store, session_id: str, number: int) -> PolicyRecord | None:
    with store.reading(snapshot=False) as connection:
        return find_policy(connection, session_id, number)


@dataclasses.dataclass(frozen=True, eq=False)
class StepInputs:
    """The inputs of one step.

    Attributes:
        parameters: θ_k.
        trajectories: all N trajectories of the round.
        counts: number of trajectories of each upload; N in all.
        earlier: the policies that the step may return to.
        forward: θ_k run over the trajectories, where that was done before; the step consumes it.
    """

    parameters: Parameters
    trajectories: TrajectoryBatch
    counts: tuple[int, ...]
    earlier: EarlierPolicies
    forward: ForwardPass | None = None

    @classmethod
    def read(cls, store: Store, entry: CatalogEntry, pending: PendingRound) -> "StepInputs":
        """Reads the round's uploads and θ_k from the store."""
        # Payloads are sorted by digest, so θ_{k+1} does not depend on the order in which they arrived.
        uploads = [list(wire.unpack(store.read(digest))) for digest in pending.batch.payloads]
        return cls(
            parameters=current_parameters(store, entry, pending.record),
            trajectories=trajectory_batch(list(itertools.chain.from_iterable(uploads))),
            counts=tuple(map(len, uploads)),
            earlier=EarlierPolicies(store, entry, pending),
        )

    @classmethod
    def of_upload(cls, store: Store, upload: NewUpload, pending: PendingRound) -> "StepInputs":
        """Takes over the arrays and the forward pass that verified a round's only upload."""
        verified = upload.verified
        counts = (len(verified.trajectories.lengths),)
        earlier = EarlierPolicies(store, upload.entry, pending)
        return cls(verified.parameters, verified.trajectories, counts, earlier, verified.forward)


@dataclasses.dataclass(frozen=True)
class StepResult:
    """A computed step, not yet recorded.

    Attributes:
        record: the row to insert.
        policy: θ_{k+1} as ONNX.
        parameters: θ_{k+1} as tensors.
    """

    record: PolicyRecord
    policy: policy_pb2.Policy
    parameters: Parameters


@traced("gradient")
def compute_step(entry: CatalogEntry, pending: PendingRound, inputs: StepInputs) -> StepResult:
    """Computes θ_{k+1}.

    Args:
        entry: the session's meta-policy.
        pending: the round.
        inputs: its trajectories and θ_k.

    Raises:
        PreconditionError: NON_FINITE_STEP.
    """
    started = time.perf_counter()
    session, meta_policy = pending.session, entry.meta_policy
    history = _history(pending)
    step = _finite_step(meta_policy, session, history, inputs)
    shares = trajectory_contributions(meta_policy.policy, inputs.parameters, inputs.trajectories, step.inner)
    # A policy that is handed out again has the same file again, and with it the same parent.
    number = step.memory.next_policy
    parent_id = session.policy_id if number > session.round else inputs.earlier.parent_id(number)
    exported = meta_policy.export(step.parameters, parent_id=parent_id)
    report = _report(pending, inputs, step, shares)
    usual = meta_policy.manifest.adaptation.discount
    report.discount = usual if step.memory.discount is None else step.memory.discount
    report.seconds = time.perf_counter() - started
    policy = policy_message(exported)
    policy.ClearField("onnx")
    record = PolicyRecord(
        session_id=session.session_id,
        round=session.round + 1,
        batch_sha256=pending.batch.sha256,
        onnx_sha256=exported.onnx_sha256,
        policy=policy.SerializeToString(),
        report=report.SerializeToString(),
        memory=None if len(history) < session.round else step.memory.to_bytes(),
    )
    policy.onnx = exported.onnx
    return StepResult(record, policy, step.parameters)


def _finite_step(
    meta_policy: MetaPolicy, session: SessionRecord, history: Sequence[RoundMemory], inputs: StepInputs
) -> SessionStep:
    """Computes the step, and refuses one that is not finite."""
    try:
        step = next_step(
            meta_policy,
            history,
            inputs.trajectories,
            inputs.parameters,
            inputs.earlier.parameters,
            _options(session),
            forward=inputs.forward,
            forgotten=session.round - len(history),
        )
    except NonFiniteStepError as error:
        raise PreconditionError("NON_FINITE_STEP", str(error)) from error
    # Finite parameters may still be so large that the policy's outputs are not finite.
    for name, value in vars(step.summary).items():
        if not math.isfinite(value):
            raise PreconditionError("NON_FINITE_STEP", f"{name} of the step is {value}")
    return step


def _history(pending: PendingRound) -> list[RoundMemory]:
    """Returns what the session remembers of its rounds; nothing where it began before rounds were remembered."""
    known = [RoundMemory.from_bytes(memory) for memory in pending.memories if memory is not None]
    return known if len(known) == pending.session.round else []


def _options(session: SessionRecord) -> StepOptions:
    options = session.step_options
    return StepOptions(
        step_size_scale=options.step_size_scale if options.HasField("step_size_scale") else 1.0,
        caution=_CAUTIONS[options.caution],
        reward_scale=options.reward_scale if options.HasField("reward_scale") else None,
        reward_offset=options.reward_offset if options.HasField("reward_offset") else None,
        max_kl=options.max_kl if options.HasField("max_kl") else None,
    )


def _report(
    pending: PendingRound, inputs: StepInputs, step: SessionStep, shares: npt.NDArray[np.float64]
) -> service_pb.AdaptationReport:
    """Returns the report of a step, but for its `seconds` and its `discount`."""
    trajectories = inputs.trajectories
    returns = trajectories.returns
    return service_pb.AdaptationReport(
        round=pending.session.round,
        trajectories=len(trajectories.lengths),
        steps=sum(trajectories.lengths),
        mean_return=float(returns.mean()),
        std_return=float(returns.std(correction=0)),
        kl_divergence=step.summary.kl_divergence,
        gradient_norm=step.summary.gradient_norm,
        entropy=step.summary.entropy,
        batch_sha256=pending.batch.sha256,
        uploads=_upload_shares(pending.batch.payloads, inputs.counts, returns, shares, step.verdict.influences),
        verdict=verdict_message(step.verdict, pending.batch.payloads, inputs.counts),
    )


def _upload_shares(
    payloads: Sequence[str],
    counts: Sequence[int],
    returns: torch.Tensor,
    shares: npt.NDArray[np.float64],
    influences: Sequence[float],
) -> Iterator[service_pb.UploadShare]:
    """Yields each upload's returns and shares of the step.

    Args:
        payloads: digest of each upload, in the order of the trajectories.
        counts: number of trajectories of each upload; N in all.
        returns: [N], undiscounted.
        shares: [N], from `trajectory_contributions`.
        influences: [N], or none.
    """
    ends = np.cumsum(counts)
    for digest, end, count in zip(payloads, ends.tolist(), counts, strict=True):
        rows = slice(end - count, end)
        yield service_pb.UploadShare(
            sha256=digest,
            returns=returns[rows].tolist(),
            shares=shares[rows].tolist(),
            influences=influences[rows],
        )


def warm_up(catalog: Catalog) -> None:
    """Computes one step on zeros: torch's first step imports modules for a second."""
    entry = next(iter(catalog), None)
    if entry is None:
        return
    contract, meta_policy = entry.contract, entry.meta_policy
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
    theta = meta_policy.parameters
    next_step(meta_policy, [], trajectory_batch([trajectory]), theta, lambda number: theta, StepOptions())
