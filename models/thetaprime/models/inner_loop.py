"""The inner loop: a few steps of REINFORCE from θ to θ′ (Finn et al. 2017, Algorithm 3).

Meta-training differentiates through `adapt_step`, and the server runs it. For the same θ and trajectories both compute
the same θ′, bit for bit.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.divergence import mean_entropy, mean_kl_divergence
from thetaprime.models.head import LOG_STD
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import ForwardPass, Policy, forward_pass
from thetaprime.models.reward_units import return_gap
from thetaprime.models.spec import AdaptationSpec, Curvature
from thetaprime.models.trajectories import TrajectoryBatch, baseline_inputs, decayed_past, estimate_advantages

# A smaller gradient counts as none: if all advantages are equal, division by the norm must not make one.
_SMALLEST_NORM: Final = 1e-8
_SUMMARY_OBSERVATIONS: Final = 1024


@dataclasses.dataclass(frozen=True)
class InnerStep:
    """One step.

    Attributes:
        parameters: θ_{k+1}.
        gradient: ∇L(θ_k), by parameter, without parameters whose step size is 0.
        direction: α_k ∇L(θ_k), by parameter.
        advantage: [S], the weights of the log-probabilities.
        forward: π_θk at the batch's observations; None if a graph was kept.
        layer_gradients: ∂L by W x + b of each layer that moves, counted from 0; empty if a graph was kept.
    """

    parameters: Parameters
    gradient: Parameters
    direction: Parameters
    advantage: torch.Tensor
    forward: ForwardPass | None
    layer_gradients: dict[int, torch.Tensor]

    @functools.cached_property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient."""
        # In the order of names: files and messages give the parameters in any order.
        squares = [self.gradient[name].detach().double().square().sum() for name in sorted(self.gradient)]
        return float(torch.stack(squares).sum().sqrt())


@dataclasses.dataclass(frozen=True)
class StepSummary:
    """The effect of a step on the policy, at the observations of its trajectories.

    Attributes:
        kl_divergence: mean KL(π_θk ‖ π_θk+1), in nats, over at most 1,024 of the observations, evenly spread.
        entropy: mean entropy of π_θk+1, in nats, over the same.
        gradient_norm: Euclidean norm of ∇L(θ_k).
    """

    kl_divergence: float
    entropy: float
    gradient_norm: float


def inner_advantages(
    policy: Policy, batch: TrajectoryBatch, adaptation: AdaptationSpec, inputs: Regressors | None = None
) -> torch.Tensor:
    """[S]: the advantages that weigh the log-probabilities in the inner loss.

    Args:
        policy: its environment has the horizon.
        batch: trajectories of one task.
        adaptation: discount, λ and ridge.
        inputs: from `baseline_inputs`, if already computed.
    """
    return estimate_advantages(
        batch,
        horizon=policy.environment.horizon,
        discount=adaptation.discount,
        gae_lambda=adaptation.gae_lambda,
        ridge=adaptation.baseline_ridge,
        inputs=inputs,
    )


def reinforce_loss(
    parameters: Parameters,
    policy: Policy,
    batch: TrajectoryBatch,
    advantage: torch.Tensor,
    curvature: Curvature = "log_prob",
    dice_decay: float = 1.0,
) -> torch.Tensor:
    """L(θ), with REINFORCE's gradient: −mean over steps of ∇log π_θ(a|o) · A (Finn et al. 2017, Eq. 4).

    All forms have the same gradient, and so give the same θ′. They differ in the second derivative, which meta-training
    uses. With l_t = log π_θ(a_t|o_t), and stop(·) a constant of the same value:

    - ``log_prob``: l_t · A_t, the paper's form. It leaves out the effect of θ on the sampling.
    - ``ratio``: exp(l_t − stop(l_t)) · A_t (LVC; Rothfuss et al. 2019, Eq. 6). It counts each action's own probability.
    - ``dice``: the ratio form times exp(p_t − stop(p_t)) with p_t = Σ_{s<t} decay^(t−s) l_s (Loaded DiCE; Farquhar et
      al. 2019, Eq. 12). It also counts the earlier actions, which led to o_t, and so the value of exploration. It is
      unbiased at decay 1, and noisier.
    """
    log_prob = policy.log_prob(policy.outputs(parameters, batch.observations), batch.actions)
    return _surrogate(log_prob, batch, advantage, curvature, dice_decay)


def _surrogate(
    log_prob: torch.Tensor, batch: TrajectoryBatch, advantage: torch.Tensor, curvature: Curvature, dice_decay: float
) -> torch.Tensor:
    if curvature == "log_prob":
        return -(log_prob * advantage).mean()
    ratio = (log_prob - log_prob.detach()).exp()
    if curvature == "ratio":
        return -(ratio * advantage).mean()
    past = decayed_past(batch, log_prob, dice_decay)
    return -((past - past.detach()).exp() * (ratio - 1.0) * advantage).mean()


def adapt_step(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    *,
    step: int,
    step_sizes: Parameters | None = None,
    scale: float = 1.0,
    length: float | torch.Tensor | None = None,
    create_graph: bool = False,
    advantage: torch.Tensor | None = None,
    forward: ForwardPass | None = None,
) -> InnerStep:
    """θ_{k+1} = θ_k − α_k ∇L(θ_k) (Finn et al. 2017, Algorithm 3, line 7).

    The first step also multiplies the policy's noise by `adaptation.adapted_std_factor`.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: trajectories of one task, collected with θ_k.
        adaptation: step size, schedule, discount, order.
        step: k, counted from 0; selects the schedule's factor.
        step_sizes: a step size for each parameter that moves, of its shape; None for the step sizes of `adaptation`.
        scale: another factor on every step size.
        length: in place of `step_length`'s factor on the step sizes. For T tasks at once, whose parameters and batch
            have a leading axis of T, one for each of them, [T].
        create_graph: keep θ_{k+1} differentiable in θ_k and the step sizes: to second order, or with the gradient
            as a constant if `adaptation.first_order`.
        advantage: [S] from `inner_advantages`, if already computed.
        forward: θ_k evaluated at the batch for `moving_parameters`, if already computed. A step frees it. Not with
            `create_graph`.

    Returns:
        θ_{k+1} and the gradient. They may be non-finite: see `check_finite`.
    """
    inputs = None
    if advantage is None:
        inputs = baseline_inputs(batch, policy.environment.horizon, adaptation.discount)
        advantage = inner_advantages(policy, batch, adaptation, inputs)
    if length is None:
        length = step_length(policy, batch, adaptation, step, inputs=inputs).factor
    # They are large, and the gradient needs the memory.
    del inputs
    sizes = step_sizes or _fixed_sizes(parameters, adaptation)
    layer_gradients: dict[int, torch.Tensor] = {}
    if create_graph:
        gradient = _differentiable_gradient(policy, parameters, batch, adaptation, advantage, sizes)
    else:
        forward = forward or forward_pass(policy, parameters, batch, sizes)
        gradient, layer_gradients = _plain_gradient(policy, batch, advantage, forward)

    factor, together = scale * length, batch.rewards.dim() > 1
    if adaptation.normalize_gradient:
        factor = factor / (_norms(gradient) if together else _norm(gradient))
    adapted = {
        name: value - _aligned(factor, value) * sizes[name] * gradient[name] if name in gradient else value
        for name, value in parameters.items()
    }
    if step == 0:
        adapted = with_std_factor(adapted, adaptation.adapted_std_factor)
    if not create_graph:
        adapted = {name: value.detach() for name, value in adapted.items()}
    direction = {name: sizes[name] * value for name, value in gradient.items()}
    return InnerStep(adapted, gradient, direction, advantage, forward, layer_gradients)


def _differentiable_gradient(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    advantage: torch.Tensor,
    sizes: Parameters,
) -> Parameters:
    with torch.enable_grad():
        point = {
            name: value if value.requires_grad else value.detach().requires_grad_()
            for name, value in parameters.items()
            if name in sizes
        }
        loss = reinforce_loss(
            {**parameters, **point}, policy, batch, advantage, adaptation.curvature, adaptation.dice_decay
        )
        found = torch.autograd.grad(
            loss, list(point.values()), create_graph=not adaptation.first_order, materialize_grads=True
        )
    return dict(zip(point, found, strict=True))


def _plain_gradient(
    policy: Policy, batch: TrajectoryBatch, advantage: torch.Tensor, forward: ForwardPass
) -> tuple[Parameters, dict[int, torch.Tensor]]:
    with torch.enable_grad():
        log_prob = policy.log_prob(forward.outputs, batch.actions)
        # Without a second derivative, the cheapest form does.
        return forward.gradient(_surrogate(log_prob, batch, advantage, "log_prob", 1.0))


def part_direction(
    policy: Policy,
    parameters: Parameters,
    whole: InnerStep,
    part: TrajectoryBatch,
    steps: torch.Tensor,
    adaptation: AdaptationSpec,
    step_sizes: Parameters | None = None,
) -> Parameters:
    """`InnerStep.direction` of a step on some of another step's trajectories, with a baseline of these alone.

    The gradient is linear in the advantages, so the derivatives of the whole step serve again with other weights.

    Args:
        policy: the network.
        parameters: θ_k.
        whole: the step on all trajectories, taken without a graph.
        part: some of its trajectories.
        steps: [S] bool: whether each of its steps is of these.
        adaptation: as in `adapt_step`.
        step_sizes: as in `adapt_step`.
    """
    advantage, rows = inner_advantages(policy, part, adaptation), steps.nonzero()[:, 0]
    before, gradient = whole.advantage[rows], None
    # A step without a weight has no derivatives to weigh.
    if whole.forward is not None and bool(before.all()):
        weights = advantage / before * (len(whole.advantage) / len(advantage))
        gradient = whole.forward.weighted_gradient(whole.layer_gradients, rows, weights)
    if whole.forward is None or gradient is None:
        return adapt_step(
            policy, parameters, part, adaptation, step=0, step_sizes=step_sizes, length=1.0, advantage=advantage
        ).direction
    if LOG_STD in whole.gradient:
        scores = policy.noise_scores(parameters, whole.forward.values[0][rows], part.actions)
        gradient[LOG_STD] = -(advantage @ scores) / len(advantage)
    sizes = step_sizes or _fixed_sizes(parameters, adaptation)
    return {name: sizes[name] * value for name, value in gradient.items()}


def moving_parameters(meta: Parameters, adaptation: AdaptationSpec, step_sizes: Parameters | None) -> frozenset[str]:
    """Names of the parameters that a step moves; the others keep θ's values."""
    return frozenset(step_sizes or _fixed_sizes(meta, adaptation))


def _fixed_sizes(parameters: Parameters, adaptation: AdaptationSpec) -> Parameters:
    return {name: torch.tensor(size) for name in parameters if (size := adaptation.step_size(name))}


class StepLength(NamedTuple):
    """The length of a step.

    Attributes:
        factor: on the step sizes: the schedule's, times the return gap's if a target return is specified.
        scale: of the task's reward relative to meta-training, as it was estimated or given.
        measured: whether the return tells the distance to the target return; True without one.
    """

    factor: float
    scale: float = 1.0
    measured: bool = True


def step_length(
    policy: Policy,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    step: int,
    scale: float | None = None,
    inputs: Regressors | None = None,
) -> StepLength:
    """The factor on the step sizes at step k.

    Args:
        policy: the network.
        batch: trajectories of one task, collected with θ_k.
        adaptation: the schedule, and the target return.
        step: k, counted from 0.
        scale: the reward's scale, if it is known.
        inputs: from `baseline_inputs`, if already computed.
    """
    scheduled = adaptation.inner_lr_schedule[min(step, len(adaptation.inner_lr_schedule) - 1)]
    if adaptation.target_return is None:
        return StepLength(scheduled, scale or 1.0)
    found = return_gap(batch, adaptation, policy.environment.reward, step, scale, inputs)
    # Without a measured distance each step is half as long as the one before: the gradient says on which side the goal
    # lies, and k bisections leave 2^-k of the first length.
    factor = (scheduled if found.measured else 0.5**step) * found.gap / adaptation.return_gap
    return StepLength(factor, found.scale, found.measured)


def with_std_factor(parameters: Parameters, factor: float) -> Parameters:
    """The same policy with its noise times `factor`, if it has a log standard deviation and the factor is not 1."""
    if factor == 1.0 or LOG_STD not in parameters:
        return parameters
    return {**parameters, LOG_STD: parameters[LOG_STD] + math.log(factor)}


def _norm(gradient: Parameters) -> torch.Tensor:
    # Summed in the order of names: files and messages give the parameters in any order.
    squares = [gradient[name].square().sum() for name in sorted(gradient)]
    return torch.stack(squares).sum().clamp_min(_SMALLEST_NORM**2).sqrt()


def _norms(gradient: Parameters) -> torch.Tensor:
    """[T]: the norms of T gradients with a leading axis of T."""
    squares = [gradient[name].square().flatten(1).sum(1) for name in sorted(gradient)]
    return torch.stack(squares).sum(0).clamp_min(_SMALLEST_NORM**2).sqrt()


def _aligned(factor: float | torch.Tensor, value: torch.Tensor) -> float | torch.Tensor:
    """A factor for each of T tasks, [T], so that it multiplies a parameter of the T tasks; a single one as it is."""
    if isinstance(factor, float) or not factor.dim():
        return factor
    return factor.view(-1, *(1,) * (value.dim() - 1))


def adapt_path(
    policy: Policy,
    parameters: Parameters,
    batches: Sequence[TrajectoryBatch],
    adaptation: AdaptationSpec,
    *,
    step_sizes: Parameters | None = None,
    create_graph: bool = False,
    inner_advantage: Sequence[torch.Tensor] | None = None,
) -> list[Parameters]:
    """θ, θ_1, …, θ′: one step for each batch.

    Args:
        policy: the network.
        parameters: θ.
        batches: one for each step k, collected with θ_k (on-policy: resampled at every step).
        adaptation: as in `adapt_step`.
        step_sizes: as in `adapt_step`.
        create_graph: as in `adapt_step`.
        inner_advantage: the advantages of each batch, if already computed.

    Returns:
        The parameters before the first step and after each.
    """
    path = [parameters]
    for step, batch in enumerate(batches):
        taken = adapt_step(
            policy,
            path[-1],
            batch,
            adaptation,
            step=step,
            step_sizes=step_sizes,
            create_graph=create_graph,
            advantage=None if inner_advantage is None else inner_advantage[step],
        )
        path.append(taken.parameters)
    return path


@torch.no_grad()
def summarize_step(
    policy: Policy, before: Parameters, step: InnerStep, batch: TrajectoryBatch, after: Parameters | None = None
) -> StepSummary:
    """Measures the effect of a step from `before` on `batch`.

    Args:
        policy: the network.
        before: θ_k.
        step: the step.
        batch: its trajectories.
        after: θ_{k+1}; None for the end of the step.
    """
    # A thousand observations give the mean to a few per cent; all of a large batch would take as long as the gradient.
    stride = -(-len(batch.observations) // _SUMMARY_OBSERVATIONS)
    observations = batch.observations[::stride]
    if step.forward is None:
        old = policy.outputs(before, observations)
    else:
        head, *others = step.forward.values
        old = (head[::stride], *others)
    after = step.parameters if after is None else after
    # A held step leads nowhere.
    new = old if after is before else policy.outputs(after, observations)
    return StepSummary(
        kl_divergence=mean_kl_divergence(policy, old, new),
        entropy=mean_entropy(policy, new),
        gradient_norm=step.gradient_norm,
    )
