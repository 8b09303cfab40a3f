"""Between the models' words, the store's records and the wire's messages."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from google.protobuf import timestamp_pb2

from thetaprime import wire
from thetaprime.models import ExportedPolicy, MetaPolicy, StepSummary, TrajectoryBatch
from thetaprime.models.spec import BoxAction, EnvironmentContract
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2


def wire_contract(environment: EnvironmentContract) -> wire.EnvironmentContract:
    """The environment of a meta-policy, as both ends of the wire see it."""
    action = environment.action
    box = isinstance(action, BoxAction)
    return wire.EnvironmentContract(
        environment_id=environment.environment_id,
        observation_shape=environment.observation_shape,
        action_kind=wire.ActionKind.BOX if box else wire.ActionKind.DISCRETE,
        action_size=action.size,
        action_low=action.low if isinstance(action, BoxAction) else (),
        action_high=action.high if isinstance(action, BoxAction) else (),
        action_start=0 if isinstance(action, BoxAction) else action.start,
        horizon=environment.horizon,
        control_timestep=environment.control_timestep,
    )


def trajectory_batch(trajectories: Sequence[wire.Trajectory]) -> TrajectoryBatch:
    """Trajectories of one round, as an adaptation step takes them."""
    return TrajectoryBatch.concatenate(
        observations=[each.observations for each in trajectories],
        actions=[each.actions for each in trajectories],
        rewards=[each.rewards for each in trajectories],
        terminated=[each.terminated for each in trajectories],
        final_observations=[each.final_observation for each in trajectories],
    )


def meta_policy_message(meta_policy: MetaPolicy) -> policy_pb2.MetaPolicy:
    """What the catalog says about a meta-policy."""
    manifest = meta_policy.manifest
    adaptation = manifest.adaptation
    return policy_pb2.MetaPolicy(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        environment=wire.contract_to_message(wire_contract(manifest.environment)),
        adaptation=policy_pb2.AdaptationSpec(
            inner_lr=0.0 if meta_policy.step_sizes else adaptation.inner_lr or adaptation.context_lr,
            trajectories_per_round=adaptation.trajectories_per_round,
            inner_steps=adaptation.inner_steps,
            discount=adaptation.discount,
        ),
        policy_id=meta_policy.policy_id,
        parameter_count=sum(value.numel() for value in meta_policy.parameters.values()),
    )


def policy_message(policy: ExportedPolicy) -> policy_pb2.Policy:
    """A policy as ONNX, with what a client checks it against."""
    return policy_pb2.Policy(
        policy_id=policy.policy_id,
        parent_id=policy.parent_id,
        onnx=policy.onnx,
        onnx_sha256=policy.onnx_sha256,
        metadata=policy.metadata,
        golden=policy_pb2.GoldenVectors(
            observations=wire.array_to_message(policy.golden_observations),
            actions=wire.array_to_message(policy.golden_actions),
        ),
    )


def batch_message(batch: UploadedBatch) -> service_pb.UploadedBatch:
    """What was uploaded in a round."""
    return service_pb.UploadedBatch(
        uploads=batch.uploads, trajectories=batch.trajectories, steps=batch.steps, sha256=batch.sha256
    )


def session_message(
    session: SessionRecord, batch: UploadedBatch, meta_policy: policy_pb2.MetaPolicy, *, expired: bool
) -> service_pb.Session:
    """A session with what was uploaded in its current round."""
    state = service_pb.SESSION_STATE_CLOSED if session.closed else service_pb.SESSION_STATE_OPEN
    if expired:
        state = service_pb.SESSION_STATE_EXPIRED
    return service_pb.Session(
        session_id=session.session_id,
        meta_policy=meta_policy,
        state=state,
        round=session.round,
        policy_id=session.policy_id,
        batch=batch_message(batch),
        options=service_pb.SessionOptions(step_size_scale=session.step_size_scale),
        create_time=_timestamp(session.create_time),
        expire_time=_timestamp(session.expire_time),
        delete_time=_timestamp(session.delete_time),
    )


def report_message(
    *,
    round_index: int,
    batch: TrajectoryBatch,
    batch_sha256: str,
    summary: StepSummary,
) -> service_pb.AdaptationReport:
    """What one adaptation step saw and did; its `seconds` are left to who takes the time."""
    returns = batch.returns
    return service_pb.AdaptationReport(
        round=round_index,
        trajectories=len(batch.lengths),
        steps=sum(batch.lengths),
        mean_return=float(returns.mean()),
        std_return=float(returns.std(correction=0)),
        kl_divergence=summary.kl_divergence,
        gradient_norm=summary.gradient_norm,
        entropy=summary.entropy,
        batch_sha256=batch_sha256,
    )


def share_messages(
    payloads: Sequence[str], counts: Sequence[int], returns: torch.Tensor, shares: npt.NDArray[np.float64]
) -> Iterator[service_pb.UploadShare]:
    """What each trajectory had to do with a step.

    Args:
        payloads: digest of each upload, in the order in which the step took them.
        counts: how many trajectories each holds; N in all.
        returns: [N], undiscounted.
        shares: [N] from `trajectory_shares`.
    """
    ends = np.cumsum(counts)
    for digest, end, count in zip(payloads, ends.tolist(), counts, strict=True):
        rows = slice(end - count, end)
        yield service_pb.UploadShare(sha256=digest, returns=returns[rows].tolist(), shares=shares[rows].tolist())


def _timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp
