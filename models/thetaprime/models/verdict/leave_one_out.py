"""The gradient of a round without each of its trajectories: the inner loss is fitted again, exactly and cheaply.

The inner gradient is −mean_t s_t Â_t, with the scores s_t = ∇ log π(a_t|o_t) and the normalized advantages Â. Without
trajectory n, the baseline, the mean and the deviation of the advantages are others, too. All of them follow from sums
of products over trajectories, from which those of trajectory n are subtracted (downdating): N small systems of
equations, instead of N gradients.
"""

import dataclasses
import weakref
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.contributions import context_derivatives, step_derivatives
from thetaprime.models.inner_loop import InnerStep
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import ForwardPass, Policy
from thetaprime.models.spec import CONTEXT, AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch, baseline_targets, discounted_sums

# So many trajectories are left out side by side: the systems of a larger batch need not be in memory at once.
_CHUNK: Final = 64
_ROUNDING: Final = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """The gradient of the inner loss in D numbers, with all trajectories and without each.

    Attributes:
        whole: [D] float64, with all.
        without: [N, D] float64, without trajectory n; `whole` where the other trajectories have no signal.
    """

    whole: torch.Tensor
    without: torch.Tensor

    @property
    def pseudo_values(self) -> torch.Tensor:
        """[N, D]: N g − (N − 1) g_{−n}, the gradient of each trajectory (Tukey 1958, the jackknife).

        Their mean estimates the gradient, and their variance over N its variance, with the refitted baseline.
        """
        count = len(self.without)
        return count * self.whole - (count - 1) * self.without


@torch.no_grad()
def step_scores(policy: Policy, parameters: Parameters, batch: TrajectoryBatch, step: InnerStep) -> torch.Tensor:
    """The derivative of each action's log-probability by what moves.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories of the step.
        step: the step, taken without a graph.

    Returns:
        [S, C] float64: by the context, if it moves alone. [S, 1] otherwise: along the direction of the step, of length
        1. Steps with the advantage 0 have the score 0.
    """
    if step.gradient.keys() == {CONTEXT} and 0 in step.layer_gradients and step.forward is not None:
        derivatives = context_derivatives(policy, parameters, batch, step).double()
    else:
        length = torch.stack([value.double().square().sum() for value in step.direction.values()]).sum().sqrt()
        along = torch.from_numpy(step_derivatives(policy, parameters, batch, step))
        derivatives = (along / length.clamp_min(1e-300))[:, None]
    factors = -float(len(step.advantage)) / step.advantage.double()
    if bool((step.advantage == 0.0).any()):
        factors = torch.where(step.advantage == 0.0, 0.0, factors)
    return derivatives * factors[:, None]


def _by_trajectory(batch: TrajectoryBatch, rows: torch.Tensor) -> torch.Tensor:
    """[F, S] -> [N, F, max H_n], zero after each trajectory's end."""
    if len(set(batch.lengths)) == 1:
        return rows.reshape(len(rows), *batch.mask.shape).transpose(0, 1)
    padded = rows.new_zeros(len(rows), *batch.mask.shape)
    padded[:, batch.mask] = rows
    return padded.transpose(0, 1)


def _discounted(values: torch.Tensor, discount: float) -> torch.Tensor:
    return discounted_sums(values.reshape(-1, values.shape[-1]), discount).reshape(values.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class GradientSums:
    """Sums of products over the steps of each trajectory, from which the gradient of any part of a batch follows.

    Let x be the features and y the targets of the baseline, with the weights w, and s the scores. The advantage before
    its normalization is p − qᵀw: for λ = 1, p = y and q = x.

    Attributes:
        parts: [N, ...] each. With z the rows p, the D scores and 1, the sums of the products xx, zq and zz; and qq and
            xy, unless q = x and p = y.
        ridge: ridge of the baseline.
    """

    parts: dict[str, torch.Tensor]
    ridge: float

    @classmethod
    def of(
        cls,
        policy: Policy,
        batch: TrajectoryBatch,
        adaptation: AdaptationSpec,
        scores: torch.Tensor,
        inputs: Regressors,
    ) -> Self:
        """Sums the products of a batch.

        Args:
            policy: the network.
            batch: N trajectories.
            adaptation: discount, λ and ridge.
            scores: [S, D] from `step_scores`.
            inputs: from `baseline_inputs`.
        """
        horizon, discount, decay = policy.environment.horizon, adaptation.discount, adaptation.gae_lambda
        problem = baseline_targets(
            batch, horizon=horizon, discount=discount, ridge=adaptation.baseline_ridge, inputs=inputs
        )
        # Returns above those of the mean reward: their squares are small where the offset is large.
        x = _by_trajectory(batch, inputs.rows)
        y = batch.pad(problem.targets - problem.constant * inputs.rows[-1])
        q, p = x, y
        if decay != 1.0:
            following = torch.cat([x[..., 1:], torch.zeros_like(x[..., :1])], dim=-1)
            q = _discounted(x - discount * following, discount * decay) * batch.mask[:, None]
            p = discounted_sums(problem.rewards, discount * decay) * batch.mask - problem.constant * q[:, -1]
        z = torch.cat([p[:, None], _by_trajectory(batch, scores.T), batch.mask.double()[:, None]], dim=1)
        xx = x @ x.transpose(1, 2) if inputs.parts is None else inputs.parts
        parts = {"xx": xx, "zq": z @ q.transpose(1, 2), "zz": z @ z.transpose(1, 2)}
        if q is not x:
            parts |= {"qq": q @ q.transpose(1, 2), "xy": (x @ y[..., None])[..., 0]}
        return cls(parts, adaptation.baseline_ridge)

    def leave_one_out(self, members: torch.Tensor | None = None) -> LeaveOneOut:
        """The gradient of the inner loss without each trajectory.

        It is exact, up to rounding, for trajectories that terminated or reached the horizon. The value of what follows
        a trajectory that was truncated early is that of the whole batch.

        Args:
            members: [M], numbers of the trajectories that the batch is reduced to; None for all.
        """
        parts = {name: (value if members is None else value[members]).numpy() for name, value in self.parts.items()}
        total = {name: value.sum(0, keepdims=True) for name, value in parts.items()}
        found, count = [], len(parts["xx"])
        for start in range(0, max(count, 1), _CHUNK):
            # The first sums of each chunk are those of all trajectories.
            sums = {
                name: np.concatenate([total[name], total[name] - value[start : start + _CHUNK]])
                for name, value in parts.items()
            }
            found.append(self._gradients(sums))
        whole = found[0][0]
        without = np.concatenate([each[1:] for each in found])
        without = np.where(np.isfinite(without).all(1, keepdims=True), without, whole)
        return LeaveOneOut(torch.from_numpy(whole), torch.from_numpy(without))

    def _gradients(self, sums: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """[B, D]: the gradients from B sets of sums; NaN where the advantages do not differ, 0 in the first set."""
        zq, zz, xx = sums["zq"], sums["zz"], sums["xx"]
        penalty = self.ridge * np.eye(xx.shape[-1])
        weights = np.linalg.solve(xx + penalty, sums.get("xy", zq[:, 0])[..., None])
        steps = np.maximum(zz[:, -1, -1], 1.0)
        # The products of z with the advantages, and of the advantages with each other.
        products = zz[:, 0] - (zq @ weights)[..., 0]
        predicted = (np.swapaxes(weights, 1, 2) @ sums.get("qq", xx) @ weights)[:, 0, 0]
        squares = 2.0 * products[:, 0] - zz[:, 0, 0] + predicted
        mean = products[:, -1] / steps
        variance = squares / steps - np.square(mean)
        told = variance > _ROUNDING**2 * (zz[:, 0, 0] / steps)
        centered = products[:, 1:-1] - mean[:, None] * zz[:, -1, 1:-1]
        deviation = np.sqrt(np.where(told, variance, 1.0))
        gradients = np.where(told[:, None], -centered / (steps * deviation)[:, None], np.nan)
        # No signal is no gradient, as in `estimate_advantages`.
        gradients[0] = gradients[0] if told[0] else 0.0
        return gradients


# The choice of a horizon and the verdict ask for them.
_KNOWN: "weakref.WeakKeyDictionary[ForwardPass, tuple[Parameters, GradientSums, LeaveOneOut]]" = (
    weakref.WeakKeyDictionary()
)


def left_out_gradients(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    step: InnerStep,
    inputs: Regressors,
) -> tuple[GradientSums, LeaveOneOut]:
    """The sums of a step's batch, and its gradient without each trajectory. Equal calls share the result.

    Args:
        policy: the network.
        parameters: θ_k.
        batch: the trajectories of the step.
        adaptation: of the step.
        step: the step, taken without a graph.
        inputs: from `baseline_inputs`, with the discount of `adaptation`.
    """
    known = None if step.forward is None else _KNOWN.get(step.forward)
    if known is not None and known[0] is step.gradient:
        return known[1:]
    sums = GradientSums.of(policy, batch, adaptation, step_scores(policy, parameters, batch, step), inputs)
    found = sums, sums.leave_one_out()
    if step.forward is not None:
        _KNOWN[step.forward] = (step.gradient, *found)
    return found


class RewardSums(NamedTuple):
    """Sums of products over the steps of each trajectory, from which regressions of the rewards follow.

    Attributes:
        xx: [N, F, F] products of the baseline's features.
        xr: [N, F] products with the rewards, in units of the largest one.
        rr: [N] squares of the rewards.
    """

    xx: torch.Tensor
    xr: torch.Tensor
    rr: torch.Tensor

    @classmethod
    def of(cls, batch: TrajectoryBatch, inputs: Regressors, sums: GradientSums) -> Self:
        """Sums the products of a batch; arguments as in `GradientSums.of`, and its result."""
        rewards = batch.rewards.double()
        padded = batch.pad(rewards / rewards.abs().max().clamp_min(1e-300))
        x = _by_trajectory(batch, inputs.rows)
        # As a row: torch multiplies by a column four times as slowly.
        return cls(sums.parts["xx"], (padded[:, None] @ x.transpose(1, 2))[:, 0], padded.square().sum(1))
