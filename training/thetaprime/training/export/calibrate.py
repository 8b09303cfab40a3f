"""Calibrates `task_p_value`: fits it to pilot tasks, and ranks held-out tasks, all of them of meta-training."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import torch

from thetaprime.models import MetaPolicy, Parameters, Policy, TrajectoryBatch
from thetaprime.models.verdict.calibration import ADAPTED, THETA, Calibration, HeldOut, Lens, StageCalibration
from thetaprime.models.verdict.neighbors import Neighbors, nonconformity, tails
from thetaprime.models.verdict.task_features import (
    Feature,
    batch_features,
    describe_features,
    taken_actions,
    transitions,
    unexplained,
)
from thetaprime.training.export.simulated_rounds import TaskRounds, concatenate, inner_step

_PARTS: Final = (20, 10, 4, 2, 1)
_BANK: Final = 6
_FOLDS: Final = 12
_RIDGE: Final = 1e-4
_SMALLEST: Final = 1e-6


def fit_lens(policy: Policy, batches: Sequence[TrajectoryBatch]) -> Lens:
    """Fits the models that a batch's transitions are compared with.

    Args:
        policy: the network.
        batches: one for each pilot task, all collected with the same kind of policy.
    """
    observations = torch.cat([batch.observations for batch in batches])
    actions = torch.cat([taken_actions(policy, batch.actions) for batch in batches])
    size = observations.shape[1]
    inputs_size = 1 + 2 * size + 2 * actions.shape[1]
    lens = Lens(
        observation=_moments(observations),
        action=_moments(actions),
        change=torch.ones(size),
        dynamics=torch.zeros(inputs_size, size),
        dynamics_noise=torch.ones(inputs_size + 1, size),
        inputs_noise=torch.ones(2, inputs_size - 1),
        rewards=torch.zeros(inputs_size + size, 1),
    )
    moved = torch.cat([transitions(policy, lens, batch).change for batch in batches])
    lens = dataclasses.replace(lens, change=moved.double().std(0).clamp_min(_SMALLEST).float())
    moves = [transitions(policy, lens, batch) for batch in batches]
    inputs, change = (torch.cat([getattr(each, part) for each in moves]).double() for part in ("inputs", "change"))
    lens = dataclasses.replace(lens, dynamics=_least_squares(inputs, change).float())

    residuals = torch.stack([unexplained(lens, each) for each in moves])
    noise = residuals.square().mean(0).sqrt()
    noise[-1] = residuals[:, -1].mean(0)
    means = torch.stack([each.inputs[:, 1:].double().mean(0) for each in moves])
    steps = torch.tensor([float(len(each.rewards)) for each in moves]).double().sqrt()
    scaled = (means - means.mean(0)) * steps[:, None]
    lens = dataclasses.replace(
        lens,
        dynamics_noise=noise.clamp_min(_SMALLEST).float(),
        inputs_noise=torch.stack([means.mean(0), scaled.square().mean(0).sqrt().clamp_min(_SMALLEST)]).float(),
    )
    everything = torch.cat([inputs, change], dim=1)
    weights = torch.stack(
        [
            _least_squares(torch.cat([each.inputs, each.change], dim=1).double(), each.rewards[:, None])[:, 0]
            for each in moves
        ]
    )
    return dataclasses.replace(lens, rewards=_bank(everything, weights).float())


def _moments(values: torch.Tensor) -> torch.Tensor:
    values = values.double()
    return torch.stack([values.mean(0), values.std(0).clamp_min(_SMALLEST)]).float()


def _least_squares(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    gram = inputs.T @ inputs
    ridge = _RIDGE * len(inputs) * torch.eye(len(gram), dtype=gram.dtype)
    solved: torch.Tensor = torch.linalg.solve(gram + ridge, inputs.T @ targets)
    return solved


def _bank(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Principal reward functions of the tasks, orthonormal over the pilot transitions.

    Args:
        inputs: [S, K + O], of all tasks.
        weights: [T, K + O], of each task's reward.
    """
    gram = inputs.T @ inputs / len(inputs)
    factor = torch.linalg.cholesky(gram + _RIDGE * torch.eye(len(gram), dtype=gram.dtype))
    values = weights @ factor
    _, sizes, directions = torch.linalg.svd(values, full_matrices=False)
    kept = directions[: min(_BANK, int((sizes > 1e-9 * sizes[0]).sum()))]
    bank: torch.Tensor = torch.linalg.solve(factor.T, kept.T)
    return bank


def hold_out(
    features: torch.Tensor, trajectories: Sequence[int], reference: int, described: Sequence[Feature]
) -> HeldOut:
    """Calibrates the scores of held-out tasks.

    Args:
        features: [L, T, F].
        trajectories: L numbers of trajectories.
        reference: the one of them whose features every batch is compared with.
        described: the F features.
    """
    features = features.float()
    tasks = features[list(trajectories).index(reference)]
    neighbors = Neighbors(tasks, described)
    distances = torch.stack([neighbors.held_out_distances(level) for level in features])
    levels = torch.stack([tails(level) for level in distances])
    scores = torch.stack([_cross_fitted(level) for level in distances])
    return HeldOut(tasks, torch.tensor([float(each) for each in trajectories]), levels, scores.float())


def _cross_fitted(distances: torch.Tensor) -> torch.Tensor:
    """[T]: the score of each held-out task, by the tails of tasks in other folds.

    Tails that include a task's own distances would make its score smaller than that of a new task.

    Args:
        distances: [T, G].
    """
    folds = torch.arange(len(distances)) % _FOLDS
    scores = torch.empty(len(distances), dtype=torch.float64)
    for fold in range(min(_FOLDS, len(distances))):
        own = folds == fold
        scores[own] = nonconformity(distances[own], tails(distances[~own])).max(-1).values
    return scores


def pair_p_values(theta: StageCalibration, adapted: StageCalibration, reference: int) -> torch.Tensor:
    """[T], ascending: the smaller of each held-out task's two p-values."""
    found = []
    for stage in (theta, adapted):
        scores = stage.tasks.scores[int((stage.tasks.trajectories == reference).nonzero())]
        found.append((scores[None, :] >= scores[:, None]).sum(1).float() / (len(scores) + 1))
    return torch.minimum(*found).sort().values


class FamiliarityMeasurer:
    """Measures `batch_features` of every held-out task, and the scores that a new task's is ranked among.

    Args:
        meta_policy: θ and its inner loop.
        pilot: rounds of tasks that the models of dynamics and reward are fitted to; held-out tasks are others.
    """

    def __init__(self, meta_policy: MetaPolicy, pilot: Sequence[TaskRounds]) -> None:
        self._meta_policy = meta_policy
        self._lenses = [
            fit_lens(meta_policy.policy, [rounds.first for rounds in pilot]),
            fit_lens(meta_policy.policy, [rounds.second for rounds in pilot]),
        ]
        self._gradient = pilot[0].step.gradient
        N = meta_policy.manifest.adaptation.trajectories_per_round
        parts = sorted({max(1, N // part) for part in _PARTS})
        self._trajectories = [[*parts, 2 * N], parts]

    def observe(self, rounds: TaskRounds) -> Parameters:
        """The features of one task: [L, F] under θ and under θ_1."""
        batches = (concatenate(rounds.first, rounds.fresh), rounds.second)
        parameters = (self._meta_policy.parameters, rounds.step.parameters)
        return {
            stage: torch.stack(
                [
                    self._features(step, batches[step].first(count), parameters[step])
                    for count in self._trajectories[step]
                ]
            )
            for step, stage in enumerate((THETA, ADAPTED))
        }

    def _features(self, step: int, batch: TrajectoryBatch, parameters: Parameters) -> torch.Tensor:
        taken = inner_step(self._meta_policy, batch, parameters, step)
        return batch_features(self._meta_policy.policy, self._lenses[step], batch, taken.gradient)

    def finish(self, observed: Parameters) -> Parameters:
        """The tensors of `load_calibration`.

        Args:
            observed: [T, L, F] under θ and under θ_1: those of `observe`, stacked over the held-out tasks.
        """
        N = self._meta_policy.manifest.adaptation.trajectories_per_round
        stages = [
            StageCalibration(
                lens,
                hold_out(observed[stage].transpose(0, 1), trajectories, N, describe_features(self._gradient, lens)),
            )
            for stage, lens, trajectories in zip((THETA, ADAPTED), self._lenses, self._trajectories, strict=True)
        ]
        theta, adapted = stages
        return Calibration(theta, adapted, pair_p_values(theta, adapted, N)).tensors()
