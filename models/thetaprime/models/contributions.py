"""The contribution of each trajectory to a step.

The gradient is a sum over trajectories, g = Σ_n g_n. Trajectory n's part of the step along d = α ∘ g is ⟨g_n, d⟩, the
derivative of its loss along d. With δ_t the loss's derivative by a layer's W x + b at step t,

    ⟨g_n, d⟩ = Σ_{t in n} Σ_layers ⟨δ_t, d_W x_t + d_b⟩.

Backpropagation computes every x_t and δ_t. One forward-mode product gives the same N numbers with less code, and takes
twice to three times as long (3.9 to 6.5 ms instead of 2.0 ms, in a round of 20 ms): it has to run the layers again.
For a module, whose layers are unknown, two backward passes take its place.
"""

import weakref

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.head import LOG_STD
from thetaprime.models.inner_loop import InnerStep
from thetaprime.models.kernels import layer
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, ForwardPass, Policy
from thetaprime.models.spec import CONTEXT
from thetaprime.models.trajectories import TrajectoryBatch

# A step's report and its verdict ask for them three times; they take a seventh of a round.
_KNOWN: "weakref.WeakKeyDictionary[ForwardPass, tuple[Parameters, npt.NDArray[np.float64]]]" = (
    weakref.WeakKeyDictionary()
)
_KNOWN_BY_CONTEXT: "weakref.WeakKeyDictionary[ForwardPass, tuple[Parameters, torch.Tensor]]" = (
    weakref.WeakKeyDictionary()
)


@torch.no_grad()
def trajectory_contributions(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, step: InnerStep
) -> npt.NDArray[np.float64]:
    """The share of each trajectory in a step: ⟨g_n, α ∘ g⟩ / ⟨g, α ∘ g⟩.

    The shares add up to 1. A share of 1/N is the average. A trajectory with a share below 0 pulled against the others.
    A share near 1 means that the step rests on one trajectory.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories of the step.
        step: the step, taken without a graph.

    Returns:
        [N]; zeros if the gradient is zero.

    Raises:
        ValueError: the step kept its graph.
    """
    totals = batch.sum_trajectories(step_derivatives(policy, parameters, batch, step))
    whole = totals.sum()
    if not np.isfinite(totals).all() or whole <= 0:
        return np.zeros(len(totals))
    contributions: npt.NDArray[np.float64] = totals / whole
    return contributions


@torch.no_grad()
def step_derivatives(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, step: InnerStep
) -> npt.NDArray[np.float64]:
    """[S]: the derivative of the inner loss along the direction of a step, by time step of the batch.

    Its sum is ⟨g, α ∘ g⟩. Arguments and errors as in `trajectory_contributions`. Equal calls
    share one array.
    """
    if step.forward is None:
        raise ValueError("the step kept its graph; contributions need a step with create_graph=False")
    direction, steps = step.direction, len(batch.observations)
    # The pass is of one batch and one policy, and serves one gradient.
    known = _KNOWN.get(step.forward)
    if known is not None and known[0] is direction:
        return known[1]
    if direction.keys() == {CONTEXT} and 0 in step.layer_gradients:
        by_context = context_derivatives(policy, parameters, batch, step)
        found: npt.NDArray[np.float64] = (by_context @ direction[CONTEXT]).double().numpy()
        _KNOWN[step.forward] = direction, found
        return found
    if isinstance(policy, ModulePolicy):
        along = policy.log_prob_derivatives(parameters, direction, batch.observations, batch.actions)
        found = (along * step.advantage).div(-float(steps)).double().numpy()
        _KNOWN[step.forward] = direction, found
        return found
    derivative = torch.zeros(steps)
    for index, by_sums in step.layer_gradients.items():
        inputs = step.forward.layers[index]
        weight, bias = direction.get(f"layers.{index}.weight"), direction.get(f"layers.{index}.bias")
        if index == 0 and policy.spec.context_size:
            bias = _context_direction(parameters, direction) + (0.0 if bias is None else bias)
        if weight is not None:
            along = layer(inputs.detach(), weight, torch.zeros(len(weight)) if bias is None else bias)
            derivative += along.mul_(by_sums).sum(-1)[:steps]
        elif bias is not None:
            derivative += (by_sums @ bias)[:steps]
    if LOG_STD in direction:
        scores = policy.noise_scores(parameters, step.forward.values[0], batch.actions)
        derivative -= (scores * step.advantage[:, None] / steps) @ direction[LOG_STD]
    derivatives: npt.NDArray[np.float64] = derivative.double().numpy()
    _KNOWN[step.forward] = direction, derivatives
    return derivatives


@torch.no_grad()
def context_derivatives(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, step: InnerStep
) -> torch.Tensor:
    """[S, C] float32: the derivative of the inner loss by the context, by time step of the batch.

    Its sum over the steps is the gradient by the context. Equal calls share one tensor.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories of the step.
        step: the step, taken without a graph; it moves the context.

    Raises:
        ValueError: the step kept its graph.
    """
    if step.forward is None:
        raise ValueError("the step kept its graph; contributions need a step with create_graph=False")
    known = _KNOWN_BY_CONTEXT.get(step.forward)
    if known is not None and known[0] is step.gradient:
        return known[1]
    derivatives = step.layer_gradients[0][: len(batch.observations)]
    if not isinstance(policy, ModulePolicy):
        # numpy's product of a tall and a narrow matrix takes a fifth of the time of torch's (MKL, AMD EPYC).
        derivatives = torch.from_numpy(derivatives.numpy() @ parameters[CONTEXT_WEIGHT].detach().numpy())
    _KNOWN_BY_CONTEXT[step.forward] = step.gradient, derivatives
    return derivatives


def _context_direction(parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """The change of W_c c, which the context adds to the first layer's bias: W_c d_c + d_Wc c."""
    moved = torch.zeros(len(parameters[CONTEXT_WEIGHT]))
    if CONTEXT in direction:
        moved += parameters[CONTEXT_WEIGHT] @ direction[CONTEXT]
    if CONTEXT_WEIGHT in direction:
        moved += direction[CONTEXT_WEIGHT] @ parameters[CONTEXT]
    return moved
