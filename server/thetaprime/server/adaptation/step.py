"""The computation of one adaptation step: θ_{k+1}, its ONNX file and its report. Nothing is recorded here."""

import dataclasses
import math
import time

import numpy as np

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
from thetaprime.server.adaptation.step_inputs import StepInputs
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry
from thetaprime.server.errors import PreconditionError
from thetaprime.server.sessions import messages as convert
from thetaprime.server.sessions.policies import PolicyRecord
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch
from thetaprime.server.telemetry.tracing import traced
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2


@dataclasses.dataclass(frozen=True)
class PendingRound:
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
class StepResult:
    """What a step computed, yet to be recorded.

    Attributes:
        record: its row.
        policy: θ_{k+1}.
        parameters: the same, as tensors.
    """

    record: PolicyRecord
    policy: policy_pb2.Policy
    parameters: Parameters


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


@traced("gradient")
def compute_step(entry: CatalogEntry, taken: PendingRound, start: StepInputs) -> StepResult:
    """Computes θ_{k+1}.

    Args:
        entry: the session's meta-policy.
        taken: the round.
        start: its trajectories and θ_k; given up.

    Raises:
        PreconditionError: the step left the finite numbers.
    """
    started = time.perf_counter()
    session, meta_policy = taken.session, entry.meta_policy
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
    return StepResult(record, policy, step.parameters)


def _report(
    entry: CatalogEntry, taken: PendingRound, start: StepInputs, step: InnerStep
) -> service_pb.AdaptationReport:
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
