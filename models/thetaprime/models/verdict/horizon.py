"""The horizon of a session: how far a reward looks back to the actions that earned it.

Meta-training chose a discount for rewards that come at once. Where they come late, its gradient has lost them: most
actions have no advantage, and what is left is noise. The artifact may name longer horizons (`late_discounts`), and θ's
first episodes choose among them by the signal of their gradients. Nothing changes where the usual gradient is clear.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.inner_loop import InnerStep, adapt_step, inner_advantages
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.spec import AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch, baseline_inputs
from thetaprime.models.verdict.episodes import signal_p_value
from thetaprime.models.verdict.leave_one_out import LeaveOneOut, left_out_gradients

# A gradient with a smaller p-value is clear.
_CLEAR: Final = 0.05
# Advantages on a smaller part of an episode's time steps are those of its end.
_LEAST_COVERAGE: Final = 0.1
# A horizon that covers less than this part of what the best one covers has lost the rewards.
_COMPARED: Final = 0.25
# The usual discount is kept unless another one has a p-value below this part of the p-value of the usual one.
_USUAL: Final = 0.5


class Horizon(NamedTuple):
    """What a batch says of one discount.

    Attributes:
        discount: γ.
        p_value: of the hypothesis that the true gradient is 0, without the trajectory that deviates most.
        coverage: part of an episode's time steps that the advantages weigh: the effective number of steps
            (Σ_t A_t²)² / Σ_t A_t⁴ by the longest episode's, with A_t² summed over the trajectories.
    """

    discount: float
    p_value: float
    coverage: float


def with_horizon(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    *,
    step_sizes: Parameters | None = None,
    step: InnerStep | None = None,
    inputs: Regressors | None = None,
) -> AdaptationSpec:
    """Chooses the discount of a task's inner steps from θ's episodes.

    The usual discount is kept where its gradient is clear (p ≤ 0.05) and its advantages cover a tenth of the time
    steps. Otherwise the discount with the smallest p-value is chosen, among the discounts that cover at least a quarter
    of what the best one covers. Half of the usual discount's p-value counts.

    Args:
        policy: the network.
        parameters: θ.
        batch: the trajectories of one task, collected with θ.
        adaptation: of the meta-policy.
        step_sizes: as in `adapt_step`.
        step: the step with the usual discount, if already taken.
        inputs: from `baseline_inputs` with the usual discount, if already computed.

    Returns:
        The adaptation with the chosen discount; `adaptation` itself where it is kept, where the artifact names no
        other, and for fewer than seven trajectories.
    """
    if not adaptation.late_discounts:
        return adaptation

    def measured(discount: float, step: InnerStep | None, inputs: Regressors | None) -> Horizon | None:
        spec = at_discount(adaptation, discount)
        return _measured(policy, parameters, batch, spec, step_sizes, step, inputs)

    usual = measured(adaptation.discount, step, inputs)
    if usual is None or (usual.p_value <= _CLEAR and usual.coverage >= _LEAST_COVERAGE):
        return adaptation
    others = (measured(discount, None, None) for discount in adaptation.late_discounts)
    return at_discount(adaptation, chosen(usual, [each for each in others if each is not None]).discount)


def chosen(usual: Horizon, others: Iterable[Horizon]) -> Horizon:
    """Chooses a horizon, where the usual one is not clear by itself.

    Args:
        usual: that of meta-training.
        others: the longer ones, in the order in which equals are preferred.
    """
    found = [usual, *others]
    least = _COMPARED * max(each.coverage for each in found)
    return min(
        (each for each in found if each.coverage >= least),
        key=lambda each: each.p_value * (_USUAL if each is usual else 1.0),
    )


def at_discount(adaptation: AdaptationSpec, discount: float | None) -> AdaptationSpec:
    """The same inner loop with another discount; None for its own."""
    if discount is None or discount == adaptation.discount:
        return adaptation
    return adaptation.model_copy(update={"discount": discount})


def _measured(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    step_sizes: Parameters | None,
    step: InnerStep | None,
    inputs: Regressors | None,
) -> Horizon | None:
    """What a batch says of the discount of `adaptation`; None for no signal, or too few trajectories to tell."""
    inputs = inputs or baseline_inputs(batch, policy.environment.horizon, adaptation.discount)
    if step is None:
        advantage = inner_advantages(policy, batch, adaptation, inputs)
        # The direction alone counts.
        step = adapt_step(
            policy, parameters, batch, adaptation, step=0, step_sizes=step_sizes, length=0.0, advantage=advantage
        )
    if not bool(step.advantage.any()):
        return None
    _, left_out = left_out_gradients(policy, parameters, batch, adaptation, step, inputs)
    p_value = signal_p_value(without_most_deviant(left_out))
    return None if p_value is None else Horizon(adaptation.discount, p_value, _coverage(batch, step.advantage))


def without_most_deviant(left_out: LeaveOneOut) -> LeaveOneOut:
    """The same gradient without the trajectory whose pseudo-value lies farthest from their median.

    One faulty trajectory, as with rewards of the wrong sign, can hide a clear gradient by its variance alone. It must
    not choose the horizon.
    """
    values = left_out.pseudo_values
    kept = torch.arange(len(values)) != int((values - values.median(0).values).norm(dim=1).argmax())
    whole, count = values[kept].mean(0), len(values) - 1
    return LeaveOneOut(whole, (count * whole - values[kept]) / max(count - 1, 1))


def _coverage(batch: TrajectoryBatch, advantage: torch.Tensor) -> float:
    squares = batch.pad(advantage.double()).square().sum(0)
    return float(squares.sum() ** 2 / squares.square().sum()) / len(squares)
