"""What the server tells about its meta-policies, sessions and adaptation steps, as plain frozen data."""

import dataclasses
import datetime
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import policy_pb2

_STATES: Final = {
    pb.SESSION_STATE_OPEN: "open",
    pb.SESSION_STATE_CLOSED: "closed",
    pb.SESSION_STATE_EXPIRED: "expired",
}


@dataclasses.dataclass(frozen=True)
class MetaPolicyInfo:
    """A meta-policy in the server's catalog.

    Attributes:
        name: its name.
        version: its version, counted from 1.
        description: what it was trained for.
        environment: what its environment sends and takes.
        inner_lr: α, the step size of one adaptation step; 0 where every parameter has its own.
        trajectories_per_round: N, the trajectories that one round was meta-trained for.
        inner_steps: the rounds that it was meta-trained for.
        discount: γ of the inner loop's returns.
        policy_id: SHA-256 (hex) of θ.
        parameter_count: number of parameters.
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

    @property
    def label(self) -> str:
        """``name@version``, as `Client.adapt` takes it."""
        return f"{self.name}@{self.version}"

    @classmethod
    def from_message(cls, message: policy_pb2.MetaPolicy) -> Self:
        """The message as data."""
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
        )


@dataclasses.dataclass(frozen=True)
class UploadedBatch:
    """What has been uploaded in a session's current round.

    Attributes:
        uploads: how many uploads.
        trajectories: how many trajectories in them.
        steps: how many steps in those.
        sha256: digest (hex) of the uploads; empty when there are none.
    """

    uploads: int
    trajectories: int
    steps: int
    sha256: str

    @classmethod
    def from_message(cls, message: pb.UploadedBatch) -> Self:
        """The message as data."""
        return cls(message.uploads, message.trajectories, message.steps, message.sha256)


@dataclasses.dataclass(frozen=True)
class UploadReceipt:
    """The server's word that an upload is stored and counts.

    Attributes:
        upload_id: the upload's id.
        sha256: digest (hex) of the payload, as received.
        batch: the round's batch with this upload in it.
    """

    upload_id: str
    sha256: str
    batch: UploadedBatch


@dataclasses.dataclass(frozen=True)
class UploadShare:
    """What each trajectory of one upload had to do with a step.

    Attributes:
        sha256: digest (hex) of the upload's payload, as in its `UploadReceipt`.
        returns: undiscounted return of each trajectory, in the order in which they were sent.
        shares: each one's own part of the step, as in `AdaptationReport.shares`.
    """

    sha256: str
    returns: tuple[float, ...]
    shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class AdaptationReport:
    """What one adaptation step saw and did.

    Attributes:
        round: k, whose trajectories were used; the step made θ_{k+1}.
        trajectories: how many trajectories were used.
        steps: how many steps in them.
        mean_return: mean undiscounted return of the trajectories, collected with θ_k.
        std_return: its standard deviation over the trajectories.
        kl_divergence: mean KL(π_θk ‖ π_θk+1) over the observations used, in nats.
        gradient_norm: Euclidean norm of the surrogate's gradient.
        entropy: mean entropy of π_θk+1 over the observations used, in nats.
        seconds: time that the step took inside the server, waiting excluded.
        batch_sha256: digest (hex) of the uploads used.
        uploads: what each trajectory had to do with the step, upload by upload; empty for all but the last of the
            rounds that a session had taken before it was resumed.
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

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """[N]: undiscounted return of each trajectory, upload by upload."""
        return np.array([value for upload in self.uploads for value in upload.returns], np.float64)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[N]: each trajectory's own part of the step, ⟨g_n, α∘g⟩ / ⟨g, α∘g⟩, g = Σ_n g_n being the gradient.

        They add up to 1. One below 0 pulled against what the others asked for together; one near 1 means that the
        step rests on a single trajectory. All are 0 where the gradient is.
        """
        return np.array([value for upload in self.uploads for value in upload.shares], np.float64)

    @classmethod
    def from_message(cls, message: pb.AdaptationReport) -> Self:
        """The message as data."""
        plain = {field.name: getattr(message, field.name) for field in dataclasses.fields(cls)}
        uploads = tuple(UploadShare(each.sha256, tuple(each.returns), tuple(each.shares)) for each in message.uploads)
        return cls(**{**plain, "uploads": uploads})


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    """A session as the server knows it.

    Attributes:
        session_id: its id.
        meta_policy: the meta-policy that it adapts.
        state: ``open``, ``closed`` or ``expired``: only an open one takes uploads and steps.
        round: rounds taken so far: k when θ_k is the current policy.
        policy_id: SHA-256 (hex) of θ_k.
        batch: what has been uploaded in this round.
        step_size_scale: multiplies every inner step size.
        create_time: when it was created (UTC).
        expire_time: when it expires (UTC).
        delete_time: until when the policies that it made can be read (UTC).
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

    @classmethod
    def from_message(cls, message: pb.Session) -> Self:
        """The message as data."""
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
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far `Client.adapt`, or `Session.run`, is.

    Attributes:
        session_id: the session, with which `Client.resume` goes on should this process die.
        round: the round being taken, counted from 0.
        rounds: how many rounds there will be.
        collected: trajectories of the round collected so far.
        trajectories: trajectories that the round takes.
        report: what the round's step saw and did, once it is taken; None until then.
    """

    session_id: str
    round: int
    rounds: int
    collected: int
    trajectories: int
    report: AdaptationReport | None


def _time(message: Timestamp) -> datetime.datetime:
    return message.ToDatetime(tzinfo=datetime.UTC)
