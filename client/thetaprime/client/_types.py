"""Meta-policies, sessions and reports of adaptation steps, as frozen dataclasses."""

import dataclasses
import datetime
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from thetaprime import wire
from thetaprime.client._verdict import CAUTIONS, Verdict
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import policy_pb2

_STATES: Final = {
    pb.SESSION_STATE_OPEN: "open",
    pb.SESSION_STATE_CLOSED: "closed",
    pb.SESSION_STATE_EXPIRED: "expired",
}
_CAUTION_NAMES: Final = {number: name for name, number in CAUTIONS.items()}


@dataclasses.dataclass(frozen=True)
class MetaPolicyInfo:
    """A meta-policy in the server's catalog.

    Attributes:
        name: its name.
        version: its version, counted from 1.
        description: one sentence on the task.
        environment: the contract of its environment.
        inner_lr: α, the step size of one adaptation step; 0 if every parameter has its own step size.
        trajectories_per_round: N, the trajectories per round in meta-training.
        inner_steps: the rounds per task in meta-training.
        discount: γ of the inner loop's returns.
        policy_id: SHA-256 (hex) of θ.
        parameter_count: number of parameters.
        memory: the cell of its memory, ``gru`` or ``lstm``; empty for a policy without a memory. A policy with a memory
            adapts while it acts, and takes no rounds.
    """

    name: str
    version: int
    description: str
    environment: wire.EnvironmentContract
    inner_lr: float
    trajectories_per_round: int
    inner_steps: int
    discount: float
    policy_id: str
    parameter_count: int
    memory: str = ""

    @property
    def label(self) -> str:
        """``name@version``, as `Client.adapt` accepts it."""
        return f"{self.name}@{self.version}"

    @classmethod
    def from_message(cls, message: policy_pb2.MetaPolicy) -> Self:
        """Converts a message."""
        return cls(
            name=message.name,
            version=message.version,
            description=message.description,
            environment=wire.contract_from_message(message.environment),
            inner_lr=message.adaptation.inner_lr,
            trajectories_per_round=message.adaptation.trajectories_per_round,
            inner_steps=message.adaptation.inner_steps,
            discount=message.adaptation.discount,
            policy_id=message.policy_id,
            parameter_count=message.parameter_count,
            memory=message.memory.cell,
        )


@dataclasses.dataclass(frozen=True)
class UploadedBatch:
    """The uploads of a session's current round.

    Attributes:
        uploads: number of uploads.
        trajectories: number of trajectories.
        steps: number of steps.
        sha256: digest (hex) of the uploads; empty without uploads.
    """

    uploads: int
    trajectories: int
    steps: int
    sha256: str

    @classmethod
    def from_message(cls, message: pb.UploadedBatch) -> Self:
        """Converts a message."""
        return cls(message.uploads, message.trajectories, message.steps, message.sha256)


@dataclasses.dataclass(frozen=True)
class UploadReceipt:
    """The server's acknowledgement that an upload is durable and counts.

    Attributes:
        upload_id: id of the upload.
        sha256: digest (hex) of the received payload.
        batch: the round's uploads, this one included.
        counted_as: id of an upload of the round with the same content, which counts in place of this one; None where
            this one counts.
    """

    upload_id: str
    sha256: str
    batch: UploadedBatch
    counted_as: str | None = None


@dataclasses.dataclass(frozen=True)
class UploadShare:
    """The contributions of one upload's trajectories to a step.

    Attributes:
        sha256: digest (hex) of the upload's payload, as in its `UploadReceipt`.
        returns: undiscounted return of each trajectory, in upload order.
        shares: contribution of each trajectory, as in `AdaptationReport.shares`.
        influences: influence of each trajectory, as in `AdaptationReport.influences`; empty from an old server.
    """

    sha256: str
    returns: tuple[float, ...]
    shares: tuple[float, ...]
    influences: tuple[float, ...] = ()

    @classmethod
    def from_message(cls, message: pb.UploadShare) -> Self:
        """Converts a message."""
        return cls(message.sha256, tuple(message.returns), tuple(message.shares), tuple(message.influences))


@dataclasses.dataclass(frozen=True)
class AdaptationReport:
    """The report of one adaptation step.

    Attributes:
        round: k, the round of the trajectories; the step computed θ_{k+1}.
        trajectories: number of trajectories.
        steps: number of steps of the trajectories.
        mean_return: mean undiscounted return of the trajectories, collected with θ_k.
        std_return: its standard deviation over the trajectories.
        kl_divergence: mean KL(π_θk ‖ π_θk+1) over the observations, in nats.
        gradient_norm: Euclidean norm of the surrogate's gradient.
        entropy: mean entropy of π_θk+1 over the observations, in nats.
        seconds: the server's computing time, without queueing.
        batch_sha256: digest (hex) of the uploads.
        uploads: contributions of the trajectories, by upload. Empty for a resumed session's earlier rounds, except the
            last one.
        verdict: what the trajectories say about this step and the one before; None from an old server.
        discount: γ of the step's advantages: `MetaPolicyInfo.discount`, or another one that the first round chose for
            the session, because its rewards come late. None from an old server.
    """

    round: int
    trajectories: int
    steps: int
    mean_return: float
    std_return: float
    kl_divergence: float
    gradient_norm: float
    entropy: float
    seconds: float
    batch_sha256: str
    uploads: tuple[UploadShare, ...] = ()
    verdict: Verdict | None = None
    discount: float | None = None

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """[N]: undiscounted return of each trajectory, upload by upload."""
        return np.array([value for upload in self.uploads for value in upload.returns], np.float64)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[N]: contribution of each trajectory to the step, ⟨g_n, α∘g⟩ / ⟨g, α∘g⟩ with the gradient g = Σ_n g_n.

        The contributions sum to 1. A negative one opposes the step; one near 1 dominates it. All are 0 if g is 0.
        """
        return np.array([value for upload in self.uploads for value in upload.shares], np.float64)

    @property
    def influences(self) -> npt.NDArray[np.float64]:
        """[N]: leave-one-out influence of each trajectory: the part of the step, in its lengths, that goes with it."""
        return np.array([value for upload in self.uploads for value in upload.influences], np.float64)

    @classmethod
    def from_message(cls, message: pb.AdaptationReport) -> Self:
        """Converts a message."""
        plain = {field.name: getattr(message, field.name) for field in dataclasses.fields(cls)}
        uploads = tuple(map(UploadShare.from_message, message.uploads))
        verdict = Verdict.from_message(message.verdict) if message.HasField("verdict") else None
        discount = message.discount if message.HasField("discount") else None
        return cls(**{**plain, "uploads": uploads, "verdict": verdict, "discount": discount})


class BestPolicy(NamedTuple):
    """The best verified policy of a session.

    Attributes:
        round: k, for `Session.policy_at`.
        policy_id: SHA-256 (hex) of its parameters.
    """

    round: int
    policy_id: str


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    """The server's description of a session.

    Attributes:
        session_id: its id.
        meta_policy: the meta-policy that it adapts.
        state: ``open``, ``closed`` or ``expired``. Only an open session accepts uploads and steps.
        round: number of rounds taken: k while θ_k is the current policy.
        policy_id: SHA-256 (hex) of θ_k's parameters.
        batch: the uploads of this round.
        step_size_scale: factor of every inner step size.
        create_time: time of creation (UTC).
        expire_time: time of expiry (UTC).
        delete_time: time until which its policies can be read (UTC).
        doubt: why the uploads of this round are implausible together; None where they are not. The round takes no
            uploads and no step until some are discarded (`Session.discard`).
        caution: ``off``, ``warn`` or ``hold``, as `Client.create_session` takes it; None from an old server.
        reward_scale: as `Client.create_session` takes it; None where the rewards tell it.
        reward_offset: likewise.
        max_kl: longest step in nats; None for no limit.
        best: the best verified policy; None from an old server.
    """

    session_id: str
    meta_policy: MetaPolicyInfo
    state: str
    round: int
    policy_id: str
    batch: UploadedBatch
    step_size_scale: float
    create_time: datetime.datetime
    expire_time: datetime.datetime
    delete_time: datetime.datetime
    doubt: str | None = None
    caution: str | None = None
    reward_scale: float | None = None
    reward_offset: float | None = None
    max_kl: float | None = None
    best: BestPolicy | None = None

    @classmethod
    def from_message(cls, message: pb.Session) -> Self:
        """Converts a message."""
        options = message.options
        return cls(
            session_id=message.session_id,
            meta_policy=MetaPolicyInfo.from_message(message.meta_policy),
            state=_STATES.get(message.state, "unknown"),
            round=message.round,
            policy_id=message.policy_id,
            batch=UploadedBatch.from_message(message.batch),
            step_size_scale=options.step_size_scale if options.HasField("step_size_scale") else 1.0,
            create_time=_time(message.create_time),
            expire_time=_time(message.expire_time),
            delete_time=_time(message.delete_time),
            doubt=message.doubt or None,
            caution=_CAUTION_NAMES.get(options.caution),
            reward_scale=options.reward_scale if options.HasField("reward_scale") else None,
            reward_offset=options.reward_offset if options.HasField("reward_offset") else None,
            max_kl=options.max_kl if options.HasField("max_kl") else None,
            best=BestPolicy(message.best_round, message.best_policy_id) if message.best_policy_id else None,
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of `Client.adapt` or `Session.run`.

    Attributes:
        session_id: id of the session, for `Client.resume` after a crash.
        round: the current round, counted from 0.
        rounds: total number of rounds.
        collected: number of trajectories collected in this round.
        trajectories: number of trajectories of this round.
        report: the report of the round's step; None before the step.
        verifying: whether the trajectories verify the last policy, without another step.
    """

    session_id: str
    round: int
    rounds: int
    collected: int
    trajectories: int
    report: AdaptationReport | None
    verifying: bool = False


def _time(message: Timestamp) -> datetime.datetime:
    return message.ToDatetime(tzinfo=datetime.UTC)
