"""Each trajectory's own part of a gradient, from the pass that made the whole.

The gradient is a sum over trajectories, g = Σ_n g_n, and so is the step along d = α ∘ g. Neither needs the g_n
themselves: with x_t what goes into a layer z = W x + b at step t, and δ_t the loss's derivative by z there,

    ⟨g_n, d⟩ = Σ_{t in n} Σ_layers ⟨δ_t, D_W x_t + D_b⟩,

D_W and D_b being d's part for that layer; δ_t and x_t are what backpropagation passes anyway.
"""

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.inner_loop import InnerStep
from thetaprime.models.kernels import layer
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, LOG_STD, Policy
from thetaprime.models.spec import CONTEXT


@torch.no_grad()
def trajectory_shares(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, step: InnerStep
) -> npt.NDArray[np.float64]:
    """How much of a step each trajectory asked for: ⟨g_n, α ∘ g⟩ / ⟨g, α ∘ g⟩.

    They add up to 1. A trajectory with a share of 1/N asked for as much as the average; one below 0 pulled against
    what the others asked for together; a single one near 1 means that the step rests on it alone.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories that the step was taken on.
        step: the step, whose forward pass noted its `layers`.

    Returns:
        [N]; zeros where the gradient is.
    """
    steps, direction = sum(batch.lengths), step.direction
    each = torch.zeros(steps)
    for passed in step.layers:
        bias = direction.get(f"layers.{passed.index}.bias")
        if passed.index == 0 and policy.spec.context_size:
            moved = _context_bias(parameters, direction)
            bias = moved if bias is None else bias + moved
        weight = direction.get(f"layers.{passed.index}.weight")
        if weight is not None:
            moved = layer(passed.inputs, weight, torch.zeros(len(weight)) if bias is None else bias)
            each += moved.mul_(passed.outputs).sum(-1)[:steps]
        elif bias is not None:
            each += (passed.outputs @ bias)[:steps]
    if LOG_STD in direction:
        each += _by_log_std(policy, parameters[LOG_STD], batch, step) @ direction[LOG_STD]
    starts = np.cumsum((0, *batch.lengths[:-1]))
    totals = np.add.reduceat(each.double().numpy(), starts)
    whole = totals.sum()
    if not np.isfinite(totals).all() or whole <= 0:
        return np.zeros(len(totals))
    shares: npt.NDArray[np.float64] = totals / whole
    return shares


def _context_bias(parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """What the context adds to the first layer's bias, W_c c, changes by W_c D_c + D_Wc c."""
    moved = torch.zeros(len(parameters[CONTEXT_WEIGHT]))
    if CONTEXT in direction:
        moved += parameters[CONTEXT_WEIGHT] @ direction[CONTEXT]
    if CONTEXT_WEIGHT in direction:
        moved += direction[CONTEXT_WEIGHT] @ parameters[CONTEXT]
    return moved


def _by_log_std(policy: Policy, parameter: torch.Tensor, batch: TrajectoryBatch, step: InnerStep) -> torch.Tensor:
    """[S, A]: the derivative by log σ of each step's −A log π(a|o) / S, which is −A (((a − μ) / σ)² − 1) / S."""
    if step.outputs is None or step.advantage is None:
        raise ValueError("the step kept a graph, and no outputs")
    mean, log_std = step.outputs
    squares = ((batch.actions - mean) / log_std.exp()).square()
    # Below its floor the standard deviation does not move.
    free = (parameter >= policy.spec.min_log_std).to(squares.dtype)
    return (1.0 - squares) * free * step.advantage[:, None] / len(batch.actions)
