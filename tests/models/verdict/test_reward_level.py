"""The distance to the target return by the shape of the rewards, where an offset hides their level."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
import torch

from thetaprime.models import MetaPolicy, TrajectoryBatch, load_meta_policy, zoo_directory
from thetaprime.models.verdict.reward_level import RewardLevel, reward_level
from thetaprime.training.export.simulated_rounds import inner_step
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks

TASKS: Final = resolve_tasks("point-navigation")
Goal = tuple[float, float]


@pytest.fixture(scope="module")
def navigation() -> MetaPolicy:
    return load_meta_policy(zoo_directory() / "point-navigation" / "1")


def _batches(meta_policy: MetaPolicy, goals: Sequence[Goal]) -> list[TrajectoryBatch]:
    tasks = [{"goal": list(goal)} for goal in goals]
    theta = [meta_policy.parameters] * len(tasks)
    return collect(TASKS, tasks, meta_policy.policy, theta, 20, rng=np.random.default_rng(3))


def _with_rewards(batch: TrajectoryBatch, rewards: torch.Tensor) -> TrajectoryBatch:
    return dataclasses.replace(batch, rewards=rewards)


def _level(
    meta_policy: MetaPolicy, batch: TrajectoryBatch, scale: float = 1.0, *, believed: bool = False
) -> RewardLevel | None:
    gradient = inner_step(meta_policy, batch, meta_policy.parameters, 0).gradient
    return reward_level(meta_policy, batch, gradient, scale, believed=believed)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, -5.0), (1.0, 1.0), (10.0, 3.0)])
def test_neither_an_offset_nor_a_scale_changes_the_distance(
    navigation: MetaPolicy, scale: float, offset: float
) -> None:
    (batch,) = _batches(navigation, [(0.3, -0.25)])
    plain = _level(navigation, batch)
    changed = _level(navigation, _with_rewards(batch, batch.rewards * scale + offset), scale)
    assert plain is not None
    assert changed is not None
    assert changed == pytest.approx(plain, rel=1e-6)


def test_the_true_distance_is_among_those_that_explain_the_rewards(navigation: MetaPolicy) -> None:
    rng = np.random.default_rng(11)
    goals = [(float(x), float(y)) for x, y in rng.uniform(-0.5, 0.5, (20, 2))]
    inside, narrow = [], []
    for batch in _batches(navigation, goals):
        gap = -float(batch.returns.mean())
        found = _level(navigation, _with_rewards(batch, batch.rewards + 1.0))
        assert found is not None
        inside.append(found.least * 0.95 <= gap <= found.most * 1.05)
        narrow.append(found.most < 1.5 * found.least)
    assert np.mean(inside) > 0.8
    assert np.mean(narrow) > 0.7


def test_a_return_of_meta_training_stands_unless_an_offset_explains_much_better(navigation: MetaPolicy) -> None:
    near, far = _batches(navigation, [(0.15, 0.12), (0.4, -0.3)])
    assert _level(navigation, near, believed=True) is None
    assert _level(navigation, far, believed=True) is None
    # Returns of goals that are farther away, and yet the shape of a near one.
    hidden = _level(navigation, _with_rewards(near, near.rewards - 0.3), believed=True)
    assert hidden is not None
    assert hidden.least * 0.9 <= -float(near.returns.mean()) <= hidden.most * 1.1
    # No offset makes noisy rewards, or those of another function, a task of meta-training.
    noise = torch.from_numpy(np.random.default_rng(5).normal(0.0, 0.3, len(near.rewards))).float()
    assert _level(navigation, _with_rewards(near, near.rewards + noise), believed=True) is None
    assert _level(navigation, _with_rewards(near, -near.rewards), believed=True) is None


def test_noise_hides_the_shape_and_leaves_every_distance(navigation: MetaPolicy) -> None:
    (batch,) = _batches(navigation, [(0.4, -0.3)])
    noise = torch.from_numpy(np.random.default_rng(5).normal(1.0, 0.3, len(batch.rewards))).float()
    found = _level(navigation, _with_rewards(batch, batch.rewards + noise))
    assert found is not None
    assert found.least < 5.0
    assert found.most > 60.0


def test_the_gap_to_step_by_harms_no_task_that_explains_the_rewards() -> None:
    level = RewardLevel(least=120.0, most=400.0, mean_return=-260.0, is_far=True)
    for stated in (50.0, 500.0, 1e6):
        gap = level.cautious_gap(stated)
        assert level.least < gap < 2.0 * level.least
    # The same part of the way is missing, or too much, at both ends.
    gap = level.cautious_gap(0.0)
    assert gap - level.least == pytest.approx((level.most - gap) * level.least / level.most)
    # Where no farther goal would explain the rewards, what the return states counts for nothing.
    near = level._replace(is_far=False)
    assert near.cautious_gap(1e6) == near.cautious_gap(0.0)


def test_an_artifact_without_a_calibration_says_nothing(navigation: MetaPolicy) -> None:
    (batch,) = _batches(navigation, [(0.4, -0.3)])
    assert _level(dataclasses.replace(navigation, reference={}), batch) is None
