"""The gradient of a round without each of its trajectories: the inner loss is fitted again, exactly and cheaply.

The inner gradient is −mean_t s_t Â_t, with the scores s_t = ∇ log π(a_t|o_t) and the normalized advantages Â. Without
trajectory n, the baseline, the mean and the deviation of the advantages are others, too. All of them follow from sums
of products over trajectories, from which those of trajectory n are subtracted (downdating): N small systems of
equations, instead of N gradients.
"""

import dataclasses
from typing import Final, Self

import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.contributions import step_derivatives
from thetaprime.models.inner_loop import InnerStep
from thetaprime.models.kernels import activation_backward
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, Policy
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
        outputs = step.forward.layers[1].detach()
        by_sums = activation_backward(step.layer_gradients[0], outputs, policy.activation(0))[: len(batch.rewards)]
        derivatives = (by_sums @ parameters[CONTEXT_WEIGHT]).double()
    else:
        length = torch.stack([value.double().square().sum() for value in step.direction.values()]).sum().sqrt()
        along = torch.from_numpy(step_derivatives(policy, parameters, batch, step))
        derivatives = (along / length.clamp_min(1e-300))[:, None]
    advantage = step.advantage.double()[:, None]
    return torch.where(advantage == 0.0, 0.0, -len(advantage) * derivatives / advantage)


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
        parts: [N, ...] each: xx, xy, qq, qp, pp, q, p, sq, sp and s, named by their factors, and the number of steps.
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
        lengths = torch.tensor(batch.lengths, dtype=torch.float64)
        # Returns above those of the mean reward: their squares are small where the offset is large.
        x = _by_trajectory(batch, inputs.rows)
        y = batch.pad(problem.targets - problem.constant * inputs.rows[-1])
        q, p = x, y
        if decay != 1.0:
            following = torch.cat([x[..., 1:], torch.zeros_like(x[..., :1])], dim=-1)
            q = _discounted(x - discount * following, discount * decay) * batch.mask[:, None]
            p = discounted_sums(problem.rewards, discount * decay) * batch.mask - problem.constant * q[:, -1]
        s = _by_trajectory(batch, scores.T)
        xx, xy = x @ x.transpose(1, 2), (x @ y[..., None])[..., 0]
        parts = {
            "xx": xx,
            "xy": xy,
            "qq": xx if q is x else q @ q.transpose(1, 2),
            "qp": xy if q is x else (q @ p[..., None])[..., 0],
            "pp": p.square().sum(1),
            "q": q.sum(-1),
            "p": p.sum(1),
            "sq": s @ q.transpose(1, 2),
            "sp": (s @ p[..., None])[..., 0],
            "s": s.sum(-1),
            "steps": lengths,
        }
        return cls(parts, adaptation.baseline_ridge)

    def leave_one_out(self, members: torch.Tensor | None = None) -> LeaveOneOut:
        """The gradient of the inner loss without each trajectory.

        It is exact, up to rounding, for trajectories that terminated or reached the horizon. The value of what follows
        a trajectory that was truncated early is that of the whole batch.

        Args:
            members: [M], numbers of the trajectories that the batch is reduced to; None for all.
        """
        parts = self.parts if members is None else {name: value[members] for name, value in self.parts.items()}
        total = {name: value.sum(0, keepdim=True) for name, value in parts.items()}
        whole, _ = self._gradient(total)
        without = []
        for start in range(0, len(parts["steps"]), _CHUNK):
            rest = {name: total[name] - value[start : start + _CHUNK] for name, value in parts.items()}
            gradient, told = self._gradient(rest)
            without.append(torch.where(told[:, None], gradient, whole))
        return LeaveOneOut(whole[0], torch.cat(without))

    def _gradient(self, sums: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, D] and [B]: gradients from B sets of sums, and whether the advantages of each differ."""
        identity = torch.eye(sums["xx"].shape[-1], dtype=torch.float64)
        weights = torch.linalg.solve_ex(sums["xx"] + self.ridge * identity, sums["xy"][..., None])[0]
        w = weights[..., 0]
        steps = sums["steps"].clamp_min(1.0)
        mean = (sums["p"] - (sums["q"] * w).sum(-1)) / steps
        squares = sums["pp"] - 2.0 * (sums["qp"] * w).sum(-1) + (w[:, None] @ sums["qq"] @ weights)[:, 0, 0]
        variance = squares / steps - mean.square()
        products = sums["sp"] - (sums["sq"] @ weights)[..., 0] - mean[:, None] * sums["s"]
        told = variance > _ROUNDING**2 * (sums["pp"] / steps)
        # No signal is no gradient, as in `estimate_advantages`.
        products = torch.where(told[:, None], products, 0.0)
        deviation = torch.where(told, variance, 1.0).sqrt()
        gradient = -products / (steps * deviation)[:, None]
        return gradient, told & torch.isfinite(gradient).all(-1)
