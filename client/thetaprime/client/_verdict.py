"""The verdict on an adaptation step, as frozen dataclasses."""

import dataclasses
import enum
from collections.abc import Collection
from typing import Final, Self, TypeVar

from thetaprime.v1 import adaptation_service_pb2 as pb

CAUTIONS: Final = {"off": pb.CAUTION_OFF, "warn": pb.CAUTION_WARN, "hold": pb.CAUTION_HOLD}
"""The values of a session's option ``caution``."""
_Member = TypeVar("_Member", bound=enum.Enum)


class Decision(enum.StrEnum):
    """What became of the step that the inner loop proposed."""

    TAKEN = "TAKEN"
    """The step was taken."""
    SHORTENED = "SHORTENED"
    """The step was taken, and is shorter than proposed."""
    HELD = "HELD"
    """The step was not taken: θ_{k+1} = θ_k."""
    ROLLED_BACK = "ROLLED_BACK"
    """The step before hurt: θ_{k+1} starts from the best policy so far, again and shorter."""
    UNKNOWN = "UNKNOWN"
    """A decision that this client does not know: the server is newer."""


class ReasonCode(enum.StrEnum):
    """Why a step was not simply taken, or what to watch where it was."""

    NO_SIGNAL = "NO_SIGNAL"
    """The rewards do not depend on the actions, as far as the episodes can tell."""
    TOO_FEW_EPISODES = "TOO_FEW_EPISODES"
    """The gradient's noise exceeds it."""
    UNFAMILIAR_TASK = "UNFAMILIAR_TASK"
    """The episodes are unlike those of meta-training tasks."""
    REWARD_UNITS = "REWARD_UNITS"
    """The rewards have other units than in meta-training."""
    PREDICTED_HARM = "PREDICTED_HARM"
    """The step is expected to lower the return."""
    REALIZED_HARM = "REALIZED_HARM"
    """The step before lowered the return."""
    KL_LIMIT = "KL_LIMIT"
    """The step was longer than the session's ``max_kl``."""
    CONTRADICTORY_EPISODES = "CONTRADICTORY_EPISODES"
    """Parts of the round ask for opposite steps."""
    UNKNOWN = "UNKNOWN"
    """A reason that this client does not know: the server is newer."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 90 % interval.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4g} ({self.low:+.4g} to {self.high:+.4g})"

    @classmethod
    def from_message(cls, message: pb.Estimate) -> Self:
        """Converts a message."""
        return cls(message.value, message.low, message.high)


@dataclasses.dataclass(frozen=True)
class Reason:
    """One reason of a decision, or one warning.

    Attributes:
        code: its kind.
        value: the number that it rests on.
        limit: the limit that the number passed.
        text: one or two sentences: what was found, and what to do.
    """

    code: ReasonCode
    value: float
    limit: float
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else f"{self.code} ({self.value:.4g}, limit {self.limit:.4g})"


@dataclasses.dataclass(frozen=True)
class WeightyStep:
    """One time step of one trajectory that weighed much in a step.

    Attributes:
        sha256: digest (hex) of the upload's payload, as in its `UploadReceipt`.
        trajectory: number of the trajectory in the upload, counted from 0.
        step: number of the time step in the trajectory, counted from 0.
        share: its part of the trajectory's share, as in `AdaptationReport.shares`.
    """

    sha256: str
    trajectory: int
    step: int
    share: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the episodes of a session say about a step from θ_k to θ_{k+1}. ``str(verdict)`` is one line.

    Attributes:
        decision: what became of the proposed step.
        reasons: why, the weightiest first; warnings where the step was taken.
        task_p_value: conformal p-value of the hypothesis that the task is one of meta-training's; None where the
            meta-policy has no calibration.
        predicted_gain: return of θ_{k+1} less that of θ_k, in the task's units; None where nothing can be said.
        effective_sample_size: of the importance weights behind `predicted_gain`, in trajectories; 0 where it rests on
            calibration.
        episodes_needed: trajectories that a round of this task needs for a direction that is mostly signal; None where
            nothing can be said.
        realized_gain: the effect of the step before, as its episodes measured it; None in round 0.
        best_round: round of the best verified policy after this step.
        weighty_steps: the time steps that weighed most, the weightiest first.
    """

    decision: Decision
    reasons: tuple[Reason, ...]
    task_p_value: float | None
    predicted_gain: Estimate | None
    effective_sample_size: float
    episodes_needed: int | None
    realized_gain: Estimate | None
    best_round: int
    weighty_steps: tuple[WeightyStep, ...]

    def __str__(self) -> str:
        return self.line()

    def line(self, told: Collection[ReasonCode] = ()) -> str:
        """The verdict in one line.

        Args:
            told: reasons that the reader knows from an earlier round: their numbers are given without the sentences.
        """
        facts = []
        if self.realized_gain is not None:
            facts.append(f"the step before gained {self.realized_gain}")
        if self.predicted_gain is not None:
            facts.append(f"predicted gain {self.predicted_gain}")
        if self.task_p_value is not None:
            facts.append(f"task p-value {self.task_p_value:.2g}")
        if self.episodes_needed is not None:
            facts.append(f"{self.episodes_needed} episodes needed")
        line = f"{self.decision}: {', '.join(facts)}" if facts else str(self.decision)
        new = [str(each) for each in self.reasons if each.code not in told]
        again = [f"{each.code} ({each.value:.4g})" for each in self.reasons if each.code in told]
        parts = [*new, *([f"Again: {', '.join(again)}."] if again else [])]
        return " ".join([f"{line}." if parts else line, *parts])

    @classmethod
    def from_message(cls, message: pb.Verdict) -> Self:
        """Converts a message."""
        return cls(
            decision=_member(Decision, pb.Decision.Name, message.decision, "DECISION_"),
            reasons=tuple(
                Reason(
                    _member(ReasonCode, pb.ReasonCode.Name, each.code, "REASON_CODE_"),
                    each.value,
                    each.limit,
                    each.text,
                )
                for each in message.reasons
            ),
            task_p_value=message.task_p_value if message.HasField("task_p_value") else None,
            predicted_gain=_estimate(message, "predicted_gain"),
            effective_sample_size=message.effective_sample_size,
            episodes_needed=message.episodes_needed if message.HasField("episodes_needed") else None,
            realized_gain=_estimate(message, "realized_gain"),
            best_round=message.best_round,
            weighty_steps=tuple(
                WeightyStep(each.sha256, each.trajectory, each.step, each.share) for each in message.weighty_steps
            ),
        )


def _estimate(message: pb.Verdict, field: str) -> Estimate | None:
    return Estimate.from_message(getattr(message, field)) if message.HasField(field) else None


def _member(kind: type[_Member], name: object, number: int, prefix: str) -> _Member:
    try:
        return kind(name(number).removeprefix(prefix))  # type: ignore[operator]
    except ValueError:
        return kind("UNKNOWN")
