"""Episodes of two tasks in one batch: found by their rewards, and reported where their steps differ."""

import itertools

import numpy as np
import pytest
import torch

from thetaprime.models import AdaptationSpec, Parameters, Policy, TrajectoryBatch, adapt_step
from thetaprime.models.spec import BoxAction, EnvironmentContract, PolicySpec
from thetaprime.models.verdict.gradient_evidence import measure_gradient
from thetaprime.models.verdict.leave_one_out import RewardSums
from thetaprime.models.verdict.two_tasks import split_by_reward

_HORIZON = 40
_POLICY = Policy(
    EnvironmentContract(
        environment_id="test",
        observation_shape=(2,),
        action=BoxAction(low=(-1.0,), high=(1.0,)),
        horizon=_HORIZON,
    ),
    PolicySpec(hidden_sizes=(8,), activation="tanh", context_size=2, init_log_std=-1.0),
)
_ADAPTATION = AdaptationSpec(inner_lr=0.0, context_lr=0.5, discount=0.5, normalize_gradient=True)


def _moving(goals: np.ndarray, kind: str, seed: int = 0, noise: float = 0.0) -> tuple[Parameters, TrajectoryBatch]:
    """One-dimensional bodies that carry velocity along; the observation is velocity and noise.

    Args:
        goals: [N].
        kind: ``velocity`` pays −|v − g|, ``direction`` g · v.
        seed: of bodies and actions.
        noise: of a step's reward.
    """
    parameters = _POLICY.init(1)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    velocity, count = np.zeros(len(goals)), len(goals)
    observed, acted, paid = [], [], []
    for _ in range(_HORIZON):
        observation = np.stack([velocity, rng.normal(size=count)], axis=1).astype(np.float32)
        action = _POLICY.sample(parameters, torch.from_numpy(observation), generator).numpy()
        velocity = 0.9 * velocity + 0.1 * action[:, 0]
        reward = -np.abs(velocity - goals) if kind == "velocity" else goals * velocity
        observed.append(observation)
        acted.append(action)
        paid.append((reward + noise * rng.normal(size=count)).astype(np.float32))
    observations, actions, rewards = (np.stack(each, axis=1) for each in (observed, acted, paid))
    batch = TrajectoryBatch.concatenate(
        list(observations), list(actions), list(rewards), [False] * count, list(observations[:, -1])
    )
    return parameters, batch


def _disagreement(
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec = _ADAPTATION,
    target: float | None = None,
) -> float | None:
    step = adapt_step(_POLICY, parameters, batch, adaptation, step=0)
    return measure_gradient(_POLICY, parameters, batch, adaptation, step, target=target).disagreement


@pytest.mark.parametrize("others", [4, 10])
def test_episodes_toward_two_directions_ask_for_opposite_steps(others: int) -> None:
    goals = np.array([1.0] * (20 - others) + [-1.0] * others)
    found = _disagreement(*_moving(goals, "direction"))
    assert found is not None
    assert found < -0.9


def test_velocities_in_one_direction_ask_for_steps_of_different_lengths() -> None:
    goals = np.array([2.0, 6.0] * 10)
    parameters, batch = _moving(goals, "velocity")
    # The direction is the same. Only the distance to the target tells the steps apart.
    assert _disagreement(parameters, batch) is None
    found = _disagreement(parameters, batch, target=0.0)
    assert found is not None
    assert 0.3 < found < 0.8


@pytest.mark.parametrize("kind", ["velocity", "direction"])
@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_episodes_of_one_task_do_not_disagree(kind: str, noise: float) -> None:
    for seed, goal in enumerate((-1.0, 0.02, 0.3, 1.0)):
        parameters, batch = _moving(np.full(20, goal), kind, seed, noise)
        assert _disagreement(parameters, batch, target=0.0) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_episodes_say_nothing(count: int) -> None:
    assert _disagreement(*_moving(np.array([1.0, -1.0, 1.0])[:count], "direction")) is None


def test_the_split_leaves_as_little_as_the_best_partition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        x = rng.normal(size=(7, 12, 2))
        models = np.array([[1.0, 0.5], [-1.0, 0.5]])[rng.permutation([0, 0, 0, 1, 1, 1, 1])]
        r = (x @ models[:, :, None])[..., 0] + 0.2 * rng.normal(size=(7, 12))
        sums = RewardSums(
            *map(torch.from_numpy, (x.transpose(0, 2, 1) @ x, np.einsum("nti,nt->ni", x, r), (r**2).sum(1)))
        )
        found = split_by_reward(sums, 1e-9)
        assert found is not None

        def left(part: np.ndarray, x: np.ndarray = x, r: np.ndarray = r) -> float:
            flat, targets = x[part].reshape(-1, 2), r[part].ravel()
            return float(((targets - flat @ np.linalg.lstsq(flat, targets, rcond=None)[0]) ** 2).sum())

        whole = left(np.ones(7, bool))
        masks = (np.isin(np.arange(7), part) for size in (2, 3) for part in itertools.combinations(range(7), size))
        best = min(left(mask) + left(~mask) for mask in masks)
        assert found.left == pytest.approx(best / whole)
        assert left(found.members) + left(~found.members) == pytest.approx(best)


def test_constant_and_zero_rewards_have_no_split() -> None:
    x = torch.ones(4, 1, 1, dtype=torch.float64)
    for rewards in (torch.zeros(4), torch.ones(4)):
        assert split_by_reward(RewardSums(x, rewards.double()[:, None], rewards.double()), 1e-9) is None
