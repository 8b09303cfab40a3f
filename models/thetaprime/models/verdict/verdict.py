"""The parts of a verdict: frozen data, with the names of the wire contract."""

import dataclasses
import enum


class Caution(enum.Enum):
    """How far a session trusts a step that its verdict advises against."""

    OFF = "off"
    """Take every step."""
    WARN = "warn"
    """Take every step, and say what HOLD would have done."""
    HOLD = "hold"
    """Shorten or hold a step that is predicted to hurt, and roll back one that did."""


class Decision(enum.Enum):
    """What became of the step that the inner loop proposed."""

    TAKEN = "TAKEN"
    """The step was taken."""
    SHORTENED = "SHORTENED"
    """The step was taken, and is shorter than proposed."""
    HELD = "HELD"
    """The step was not taken: θ_{k+1} = θ_k."""
    ROLLED_BACK = "ROLLED_BACK"
    """The step before hurt: θ_{k+1} starts from the best policy so far, again and shorter."""


class ReasonCode(enum.Enum):
    """Why a step was not simply taken."""

    NO_SIGNAL = "NO_SIGNAL"
    """The rewards do not depend on the actions, as far as the batch can tell."""
    TOO_FEW_EPISODES = "TOO_FEW_EPISODES"
    """The gradient's noise exceeds it."""
    UNFAMILIAR_TASK = "UNFAMILIAR_TASK"
    """The batch is unlike those of meta-training tasks."""
    REWARD_UNITS = "REWARD_UNITS"
    """The rewards have other units than in meta-training."""
    PREDICTED_HARM = "PREDICTED_HARM"
    """The step is expected to lower the return."""
    REALIZED_HARM = "REALIZED_HARM"
    """The step before lowered the return."""
    KL_LIMIT = "KL_LIMIT"
    """The step was longer than the session allows."""
    CONTRADICTORY_EPISODES = "CONTRADICTORY_EPISODES"
    """Parts of the batch ask for opposite steps."""


@dataclasses.dataclass(frozen=True)
class Reason:
    """One reason of a decision, or one warning.

    Attributes:
        code: its kind.
        value: the number that it rests on.
        limit: the limit that the number passed.
        text: one or two sentences for people: what was found, and what to do.
    """

    code: ReasonCode
    value: float
    limit: float
    text: str


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


@dataclasses.dataclass(frozen=True)
class WeightyStep:
    """One time step of one trajectory, and its weight in the gradient.

    Attributes:
        trajectory: number of the trajectory in the batch.
        step: number of the step in the trajectory.
        share: its part of the trajectory's share, from `trajectory_contributions`.
    """

    trajectory: int
    step: int
    share: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the episodes of a session say about a step from θ_k to θ_{k+1}.

    Attributes:
        decision: what became of the proposed step.
        reasons: why, the weightiest first.
        best_round: number of the best verified policy after the step.
        task_p_value: conformal p-value of the hypothesis that the task is one of meta-training's.
        predicted_gain: return of θ_{k+1} less that of θ_k, in the task's units.
        effective_sample_size: of the importance weights behind `predicted_gain`, in trajectories; 0 if it rests on
            calibration.
        episodes_needed: trajectories that a round of this task needs for a direction that is mostly signal.
        realized_gain: the effect of the step before, as its episodes measured it.
        influences: [N], the leave-one-out influence of each trajectory, in lengths of the step.
        weighty_steps: the steps that weighed most, the weightiest first.

    What cannot be said is None.
    """

    decision: Decision
    reasons: tuple[Reason, ...]
    best_round: int
    task_p_value: float | None = None
    predicted_gain: Estimate | None = None
    effective_sample_size: float = 0.0
    episodes_needed: int | None = None
    realized_gain: Estimate | None = None
    influences: tuple[float, ...] = ()
    weighty_steps: tuple[WeightyStep, ...] = ()
