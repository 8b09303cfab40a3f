"""The inner loop: a few steps of REINFORCE from θ to θ′.

It exists once. Meta-training differentiates through it and the server runs it as it is, so for the
same θ and trajectories both arrive at the same θ′, bit for bit.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch.distributions import kl_divergence

from thetaprime.models.advantages import decayed_past, estimate_advantages
from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.forward import ForwardPass, forward_pass
from thetaprime.models.kernels import LayerGradient
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import LOG_STD, Policy
from thetaprime.models.spec import AdaptationSpec, Curvature

# A gradient below this is none: where all advantages are alike, dividing by its norm must not make one.
_SMALLEST_NORM: Final = 1e-8
_SUMMARY_OBSERVATIONS: Final = 1024


@dataclasses.dataclass(frozen=True)
class InnerStep:
    """The outcome of one step.

    Attributes:
        parameters: θ_{k+1}.
        gradient: ∇L(θ_k), by parameter; without those whose step size is 0.
        outputs: what π_θk gave at the batch's observations, as in `Policy.outputs`; None where a graph was kept.
        advantage: [S], what weighed the gradient.
        layers: the gradient's way through each layer, where the forward pass noted it.
        direction: step sizes times ∇L(θ_k), with `layers`: where the step went, up to one positive factor and the
            change of noise.
    """

    parameters: Parameters
    gradient: Parameters
    outputs: tuple[torch.Tensor, ...] | None = None
    advantage: torch.Tensor | None = None
    layers: tuple[LayerGradient, ...] = ()
    direction: Parameters = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StepSummary:
    """What a step did to the policy, where it was taken.

    Attributes:
        kl_divergence: mean KL(π_θk ‖ π_θk+1), in nats, over at most 1,024 of the observations, evenly spread.
        entropy: mean entropy of π_θk+1, in nats, over the same.
        gradient_norm: Euclidean norm of ∇L(θ_k).
    """

    kl_divergence: float
    entropy: float
    gradient_norm: float


def inner_advantages(policy: Policy, batch: TrajectoryBatch, adaptation: AdaptationSpec) -> torch.Tensor:
    """[S]: the advantages that the inner loop weighs log-probabilities with."""
    return estimate_advantages(
        batch,
        horizon=policy.environment.horizon,
        discount=adaptation.discount,
        gae_lambda=adaptation.gae_lambda,
        ridge=adaptation.baseline_ridge,
    )


def reinforce_loss(
    parameters: Parameters,
    policy: Policy,
    batch: TrajectoryBatch,
    advantage: torch.Tensor,
    curvature: Curvature = "log_prob",
    dice_decay: float = 1.0,
) -> torch.Tensor:
    """L(θ), whose gradient is REINFORCE's: −mean over steps of ∇log π_θ(a|o) · A (Finn et al. 2017, Eq. 4).

    The forms have the same gradient and so give the same θ′. They differ in the second derivative, through which
    meta-training goes. With l_t = log π_θ(a_t|o_t), and stop(·) a constant of the same value:

    - ``log_prob``: l_t · A_t, the paper's. It leaves out how θ changes what is sampled.
    - ``ratio``: exp(l_t − stop(l_t)) · A_t (LVC; Rothfuss et al. 2019, Eq. 6). It counts each action's own probability.
    - ``dice``: that, times exp(p_t − stop(p_t)) with p_t = Σ_{s<t} decay^(t−s) l_s (Loaded DiCE; Farquhar et al. 2019,
      Eq. 12). It counts the earlier actions too, which led to o_t, and so how exploring pays: unbiased at decay 1, and
      noisier.
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
    create_graph: bool = False,
    advantage: torch.Tensor | None = None,
    forward: ForwardPass | None = None,
) -> InnerStep:
    """θ_{k+1} = θ_k − α_k ∇L(θ_k) (Finn et al. 2017, Algorithm 3, line 7), the first with less noise where asked.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: trajectories of one task, collected with θ_k.
        adaptation: step size, schedule, discount, order.
        step: k, counted from 0: which of the schedule's factors applies.
        step_sizes: a step size for each parameter that moves, of its shape; None for those of `adaptation`.
        scale: another factor on every step size.
        create_graph: keep θ_{k+1} differentiable in θ_k and the step sizes: to second order, or with the gradient
            as a constant where `adaptation.first_order` says so.
        advantage: [S] from `inner_advantages`, where it is known already.
        forward: θ_k run over the batch for `moving_parameters`, where that has been done; for one step, and not for
            one whose graph is kept.

    Returns:
        θ_{k+1} and the gradient. They may be non-finite: see `check_finite`.
    """
    if advantage is None:
        advantage = inner_advantages(policy, batch, adaptation)
    sizes = step_sizes or _fixed_sizes(parameters, adaptation)
    moving = {name: value for name, value in parameters.items() if name in sizes}
    outputs: tuple[torch.Tensor, ...] | None = None
    layers: tuple[LayerGradient, ...] = ()
    if create_graph:
        with torch.enable_grad():
            point = {
                name: value if value.requires_grad else value.detach().requires_grad_()
                for name, value in moving.items()
            }
            loss = reinforce_loss(
                {**parameters, **point}, policy, batch, advantage, adaptation.curvature, adaptation.dice_decay
            )
            found = torch.autograd.grad(
                loss, list(point.values()), create_graph=not adaptation.first_order, materialize_grads=True
            )
        gradient = dict(zip(moving, found, strict=True))
    else:
        forward = forward or forward_pass(policy, parameters, batch, sizes)
        outputs = forward.values
        with torch.enable_grad():
            log_prob = policy.log_prob(forward.outputs, batch.actions)
            # No second derivative is wanted: the plain form is the cheapest with the same first.
            gradient, layers = forward.gradient(_surrogate(log_prob, batch, advantage, "log_prob", 1.0))
    factor: float | torch.Tensor = scale * adaptation.step_scale(step, float(batch.returns.mean()))
    if adaptation.normalize_gradient:
        factor = factor / _norm(gradient)
    adapted = dict(parameters)
    for name, value in moving.items():
        adapted[name] = value - factor * sizes[name] * gradient[name]
    if step == 0:
        adapted = with_std_factor(adapted, adaptation.adapted_std_factor)
    if not create_graph:
        adapted = {name: value.detach() for name, value in adapted.items()}
    return InnerStep(
        parameters=adapted,
        gradient=gradient,
        outputs=outputs,
        direction={name: sizes[name] * gradient[name] for name in moving} if layers else {},
        advantage=advantage,
        layers=layers,
    )


def moving_parameters(meta: Parameters, adaptation: AdaptationSpec, step_sizes: Parameters | None) -> frozenset[str]:
    """Names of the parameters that a step moves; the others keep θ's values."""
    return frozenset(step_sizes or _fixed_sizes(meta, adaptation))


def _fixed_sizes(parameters: Parameters, adaptation: AdaptationSpec) -> Parameters:
    return {name: torch.tensor(size) for name in parameters if (size := adaptation.step_size(name))}


def with_std_factor(parameters: Parameters, factor: float) -> Parameters:
    """The same policy with its noise times `factor`, where it has a log standard deviation and the factor is not 1."""
    if factor == 1.0 or LOG_STD not in parameters:
        return parameters
    return {**parameters, LOG_STD: parameters[LOG_STD] + math.log(factor)}


def _norm(gradient: Parameters) -> torch.Tensor:
    return torch.stack([value.square().sum() for value in gradient.values()]).sum().clamp_min(_SMALLEST_NORM**2).sqrt()


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
    """θ, θ_1, …, θ′: through one step for each batch.

    Args:
        policy: the network.
        parameters: θ.
        batches: one for each step k, collected with θ_k (on-policy: resampled at every step).
        adaptation: as in `adapt_step`.
        step_sizes: as in `adapt_step`.
        create_graph: as in `adapt_step`.
        inner_advantage: the advantages of each batch, where they are known already.

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
def summarize_step(policy: Policy, before: Parameters, step: InnerStep, batch: TrajectoryBatch) -> StepSummary:
    """Measures a step taken from `before` on `batch`."""
    # A thousand observations give the mean to a few per cent; all of a large batch would take as long as the gradient.
    stride = -(-len(batch.observations) // _SUMMARY_OBSERVATIONS)
    observations = batch.observations[::stride]
    if step.outputs is None:
        old = policy.distribution(before, observations)
    else:
        head, *others = step.outputs
        old = policy.distribution_of((head[::stride], *others))
    new = policy.distribution(step.parameters, observations)
    squares = torch.stack([value.double().square().sum() for value in step.gradient.values()])
    return StepSummary(
        kl_divergence=float(kl_divergence(old, new).mean()),
        entropy=float(new.entropy().mean()),
        gradient_norm=float(squares.sum().sqrt()),
    )
