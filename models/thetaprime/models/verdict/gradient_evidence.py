"""What one round's gradient says: which trajectories it rests on, its noise, and whether there is any signal."""

import dataclasses

import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.contributions import step_derivatives
from thetaprime.models.inner_loop import InnerStep
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.spec import CONTEXT, AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch, baseline_inputs
from thetaprime.models.verdict.episodes import (
    episodes_needed,
    length_beyond_noise,
    noise_scale,
    signal_p_value,
)
from thetaprime.models.verdict.influence import trajectory_influences, weighty_steps
from thetaprime.models.verdict.leave_one_out import RewardSums, left_out_gradients
from thetaprime.models.verdict.two_tasks import disagreement
from thetaprime.models.verdict.verdict import WeightyStep


@dataclasses.dataclass(frozen=True)
class GradientEvidence:
    """The evidence of one round's gradient.

    Attributes:
        influences: [N], from `trajectory_influences`.
        weighty_steps: the weightiest first.
        episodes_needed: None for a single trajectory, and if the gradient is all noise.
        signal_p_value: of the hypothesis that the true gradient is 0; None for fewer than six trajectories.
        disagreement: agreement of the steps that two parts of the batch ask for, where they come from two tasks and ask
            for different steps; see `two_tasks`.
        length: from `length_beyond_noise`, in the parameters that move.
    """

    influences: tuple[float, ...]
    weighty_steps: tuple[WeightyStep, ...]
    episodes_needed: int | None
    signal_p_value: float | None
    disagreement: float | None
    length: float | None


@torch.no_grad()
def measure_gradient(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    step: InnerStep,
    *,
    step_sizes: Parameters | None = None,
    target: float | None = None,
    inputs: Regressors | None = None,
) -> GradientEvidence:
    """Measures the evidence of a round's gradient.

    For a policy whose context alone moves, the gradients without each trajectory are complete. For any other policy
    they are those along the step: what changes only the direction of its step is not seen.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories of the round, collected with θ_k.
        adaptation: of the meta-policy.
        step: the inner loop's step on the batch, taken without a graph.
        step_sizes: as in `adapt_step`.
        target: the return at which the step has the length 0, in the task's units; None if the batch's returns do not
            set the length.
        inputs: from `baseline_inputs`, if already computed.
    """
    inputs = inputs or baseline_inputs(batch, policy.environment.horizon, adaptation.discount)
    sums, left_out = left_out_gradients(policy, parameters, batch, adaptation, step, inputs)
    sizes = torch.ones(len(left_out.whole), dtype=torch.float64)
    if step.gradient.keys() == {CONTEXT}:
        size = adaptation.step_size(CONTEXT) if step_sizes is None else step_sizes[CONTEXT]
        sizes *= torch.as_tensor(size, dtype=torch.float64)
    noise = noise_scale(left_out, sizes)
    return GradientEvidence(
        influences=trajectory_influences(left_out, sizes, batch.returns, adaptation, target),
        weighty_steps=weighty_steps(batch, step_derivatives(policy, parameters, batch, step)),
        episodes_needed=None if noise is None else episodes_needed(noise),
        signal_p_value=signal_p_value(left_out),
        disagreement=disagreement(sums, RewardSums.of(batch, inputs, sums), sizes, batch.returns, adaptation, target),
        length=length_beyond_noise(left_out),
    )
