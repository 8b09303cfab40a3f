"""One round's step: its inputs, then θ_{k+1}, its ONNX file and its report. Nothing is recorded here."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from thetaprime import wire
from thetaprime.models import (
    ForwardPass,
    InnerStep,
    NonFiniteStepError,
    Parameters,
    StepSummary,
    TrajectoryBatch,
    adapt_step,
    check_finite,
    forward_pass,
    moving_parameters,
    summarize_step,
    trajectory_contributions,
)
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry, policy_message
from thetaprime.server.errors import PreconditionError
from thetaprime.server.sessions.policies import PolicyRecord, current_parameters
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch
from thetaprime.server.sessions.uploads import NewUpload, trajectory_batch
from thetaprime.server.store import Store
from thetaprime.server.telemetry.tracing import traced
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2


@dataclasses.dataclass(frozen=True)
class PendingRound:
    """A round whose step may be taken.

    Attributes:
        session: the session, at round k.
        batch: the round's uploads.
        record: the step that made θ_k; None for θ.
    """

    session: SessionRecord
    batch: UploadedBatch
    record: PolicyRecord | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class StepInputs:
    """The inputs of one step.

    Attributes:
        parameters: θ_k.
        trajectories: all N trajectories of the round.
        counts: number of trajectories of each upload; N in all.
        forward: θ_k run over the trajectories, where that was done before; the step consumes it.
    """

    parameters: Parameters
    trajectories: TrajectoryBatch
    counts: tuple[int, ...]
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
        )

    @classmethod
    def of_upload(cls, upload: NewUpload) -> "StepInputs":
        """Takes over the arrays and the forward pass that verified a round's only upload."""
        verified = upload.verified
        counts = (len(verified.trajectories.lengths),)
        return cls(verified.parameters, verified.trajectories, counts, verified.forward)


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
    adaptation, step_sizes = meta_policy.manifest.adaptation, meta_policy.step_sizes
    forward = inputs.forward or forward_pass(
        meta_policy.policy,
        inputs.parameters,
        inputs.trajectories,
        moving_parameters(inputs.parameters, adaptation, step_sizes),
    )
    step = adapt_step(
        meta_policy.policy,
        inputs.parameters,
        inputs.trajectories,
        adaptation,
        step=session.round,
        step_sizes=step_sizes,
        scale=1.0 if session.step_size_scale is None else session.step_size_scale,
        forward=forward,
    )
    summary = _finite_summary(entry, inputs, step)
    shares = trajectory_contributions(meta_policy.policy, inputs.parameters, inputs.trajectories, step)
    exported = meta_policy.export(step.parameters, parent_id=session.policy_id)
    report = _report(pending, inputs, summary, shares)
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
    )
    policy.onnx = exported.onnx
    return StepResult(record, policy, step.parameters)


def _finite_summary(entry: CatalogEntry, inputs: StepInputs, step: InnerStep) -> StepSummary:
    """Measures the step, and refuses one that is not finite."""
    try:
        check_finite(step.parameters)
    except NonFiniteStepError as error:
        raise PreconditionError("NON_FINITE_STEP", str(error)) from error
    summary = summarize_step(entry.meta_policy.policy, inputs.parameters, step, inputs.trajectories)
    # Finite parameters may still be so large that the policy's outputs are not finite.
    for name, value in dataclasses.asdict(summary).items():
        if not math.isfinite(value):
            raise PreconditionError("NON_FINITE_STEP", f"{name} of the step is {value}")
    return summary


def _report(
    pending: PendingRound, inputs: StepInputs, summary: StepSummary, shares: npt.NDArray[np.float64]
) -> service_pb.AdaptationReport:
    """Returns the report of a step, but for its `seconds`."""
    trajectories = inputs.trajectories
    returns = trajectories.returns
    return service_pb.AdaptationReport(
        round=pending.session.round,
        trajectories=len(trajectories.lengths),
        steps=sum(trajectories.lengths),
        mean_return=float(returns.mean()),
        std_return=float(returns.std(correction=0)),
        kl_divergence=summary.kl_divergence,
        gradient_norm=summary.gradient_norm,
        entropy=summary.entropy,
        batch_sha256=pending.batch.sha256,
        uploads=_upload_shares(pending.batch.payloads, inputs.counts, returns, shares),
    )


def _upload_shares(
    payloads: Sequence[str], counts: Sequence[int], returns: torch.Tensor, shares: npt.NDArray[np.float64]
) -> Iterator[service_pb.UploadShare]:
    """Yields each upload's returns and shares of the step.

    Args:
        payloads: digest of each upload, in the order of the trajectories.
        counts: number of trajectories of each upload; N in all.
        returns: [N], undiscounted.
        shares: [N], from `trajectory_contributions`.
    """
    ends = np.cumsum(counts)
    for digest, end, count in zip(payloads, ends.tolist(), counts, strict=True):
        rows = slice(end - count, end)
        yield service_pb.UploadShare(sha256=digest, returns=returns[rows].tolist(), shares=shares[rows].tolist())


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
    adapt_step(
        meta_policy.policy,
        meta_policy.parameters,
        trajectory_batch([trajectory]),
        meta_policy.manifest.adaptation,
        step=0,
        step_sizes=meta_policy.step_sizes,
    )
