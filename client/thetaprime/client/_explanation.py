"""How much each time step of a round pushed the policy, as numpy arrays."""

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client._types import AdaptationReport
from thetaprime.v1 import adaptation_service_pb2 as pb


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainedTrajectory:
    """One trajectory of a round.

    Attributes:
        sha256: digest (hex) of the upload's payload, as in its `UploadReceipt`.
        trajectory: its number in the upload, counted from 0.
        share: its share in the step, as in `AdaptationReport.shares`.
        rewards: [H] float32.
        pushes: [H] float32: the part of each time step in the share, which is their sum. Below 0, the time step
            pushed against the step that was taken.
        observations: [H + 1, D] float32: the first numbers of each observation, and of the final one.
    """

    sha256: str
    trajectory: int
    share: float
    rewards: npt.NDArray[np.float32]
    pushes: npt.NDArray[np.float32]
    observations: npt.NDArray[np.float32]

    @property
    def undiscounted_return(self) -> float:
        """The sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @classmethod
    def from_message(cls, message: pb.ExplainedTrajectory) -> Self:
        """Converts a message.

        Raises:
            WireError: an array is malformed.
        """
        arrays: dict[str, Any] = {
            name: wire.array_from_message(getattr(message, name), name)
            for name in ("rewards", "pushes", "observations")
        }
        return cls(message.sha256, message.trajectory, message.share, **arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class RoundExplanation:
    """The trajectories of a round, and how much each time step pushed the policy.

    Attributes:
        report: the report of the step; None where no step was taken from the round.
        trajectories: the largest share first.
        total: number of trajectories of the round, those included that were left out of the reply.
    """

    report: AdaptationReport | None
    trajectories: tuple[ExplainedTrajectory, ...]
    total: int

    @classmethod
    def from_message(cls, message: pb.ExplainRoundResponse) -> Self:
        """Converts a message.

        Raises:
            WireError: an array is malformed.
        """
        return cls(
            report=AdaptationReport.from_message(message.report) if message.HasField("report") else None,
            trajectories=tuple(map(ExplainedTrajectory.from_message, message.trajectories)),
            total=message.total,
        )
