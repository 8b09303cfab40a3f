"""The seam of a verdict: the numbers that its parts measure, from which `decide` makes a decision.

Each part is a pure function of the round's episodes, of the artifact and of what the session remembers. `next_step`
calls the parts and fills in an `Evidence`. A part that is not there, or that cannot say anything, leaves its default:

| field | part that fills it in |
|---|---|
| `task_p_value` | whether the task is like those of meta-training (conformal test) |
| `predicted_gain`, `effective_sample_size` | the effect that the proposed step will have |
| `episodes_needed`, `signal_p_value` | the noise of the gradient |
| `disagreement` | whether the episodes come from two tasks that ask for different steps |
| `influences`, `weighty_steps` | which episodes and steps did what |
| `realized_gain`, `remaining` | the guard of the rounds (`rounds`) |
| `scale`, `level_known` | the reward's units (`reward_units`) |
"""

import dataclasses
import enum

from thetaprime.models.verdict.verdict import Estimate, WeightyStep


class Move(enum.Enum):
    """The step that the guard of the rounds proposes."""

    FORWARD = "forward"
    """A step from θ_k, or from the best policy where θ_k is no better within noise."""
    SHORTER = "shorter"
    """The same, and shorter than the step before, which gained less than was promised."""
    BACK = "back"
    """From the best policy, after a step that hurt."""
    STAY = "stay"
    """No step: nothing remains to be gained, as far as the rounds can tell."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The numbers that a decision rests on. Returns and gains are in the task's units.

    Attributes:
        move: the step that the guard of the rounds proposes.
        best_round: number of the best verified policy.
        trajectories: N of the round.
        mean_return: of the round.
        signal: whether the advantages and the gradient differ from 0.
        scale: scale of the task's reward relative to meta-training, as estimated or given.
        scale_known: whether the user gave it.
        level_known: whether the mean return tells the distance to the goal.
        task_p_value: conformal p-value of the task; None without a calibration.
        unusual: what is most unusual about the task, in words; a clause without a period.
        predicted_gain: of the proposed step; None where nothing can be said.
        effective_sample_size: behind `predicted_gain`; 0 for a calibrated one.
        episodes_needed: trajectories that a direction needs to be mostly signal.
        signal_p_value: of the hypothesis that the true gradient is 0; None for too few trajectories to tell.
        disagreement: agreement of the steps that two parts of the batch ask for, from −1 for opposite ones to 1; None
            unless the parts come from two tasks and ask for different steps.
        realized_gain: effect of the step before.
        exhausted: whether the rounds' guard holds because nothing remains to be gained.
        remaining: what the best policy lacks to the returns after adaptation in meta-training; None if unknown.
        contradicted: return of a policy that was measured twice, the second time less the first, where the task must
            have changed between; None where it has not.
        kl_divergence: mean KL of the proposed step, in nats.
        max_kl: the session's limit on it.
        influences: [N].
        weighty_steps: the weightiest first.
    """

    move: Move = Move.FORWARD
    best_round: int = 0
    trajectories: int = 0
    mean_return: float = 0.0
    signal: bool = True
    scale: float = 1.0
    scale_known: bool = False
    level_known: bool = True
    task_p_value: float | None = None
    unusual: str = ""
    predicted_gain: Estimate | None = None
    effective_sample_size: float = 0.0
    episodes_needed: int | None = None
    signal_p_value: float | None = None
    disagreement: float | None = None
    realized_gain: Estimate | None = None
    exhausted: bool = False
    remaining: float | None = None
    contradicted: Estimate | None = None
    kl_divergence: float = 0.0
    max_kl: float | None = None
    influences: tuple[float, ...] = ()
    weighty_steps: tuple[WeightyStep, ...] = ()
