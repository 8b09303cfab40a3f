import numpy as np
import pytest
import torch

from tests.support.training.corridor import CorridorTasks
from thetaprime.models import Policy, PolicySpec
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import PointNavigationTasks, Task, TaskDistribution


@pytest.mark.parametrize("distribution", [PointNavigationTasks(), CorridorTasks()], ids=["batched", "single"])
def test_trajectories_replay_in_the_single_environment(distribution: TaskDistribution) -> None:
    """The environment repeats the recorded observations, rewards, ends and final observations."""
    policy = Policy(distribution.environment, PolicySpec(hidden_sizes=(8,)))
    tasks = list(distribution.sample_tasks(2, np.random.default_rng(0)))
    if isinstance(distribution, PointNavigationTasks):
        tasks[1] = {"goal": [0.02, 0.02]}  # close enough to be reached by chance
    batches = collect(distribution, tasks, policy, [policy.init(0), policy.init(1)], 30, rng=np.random.default_rng(1))
    for task, batch in zip(tasks, batches, strict=True):
        assert len(batch.lengths) == 30
        start = 0
        for n, length in enumerate(batch.lengths):
            rows = slice(start, start + length)
            start += length
            env = distribution.make(task)
            first = batch.observations[rows][0].numpy()
            observation, _ = env.reset(seed=0)
            for seed in range(200):  # the start is random: find the episode that began there
                observation, _ = env.reset(seed=seed)
                if np.array_equal(observation, first):
                    break
            for step, action in enumerate(policy.to_environment(batch.actions[rows])):
                np.testing.assert_allclose(observation, batch.observations[rows][step].numpy(), atol=1e-6)
                observation, reward, terminated, truncated, _ = env.step(action.numpy())
                assert float(reward) == pytest.approx(batch.rewards[rows][step].item(), abs=1e-6)
            assert terminated or truncated
            assert terminated == batch.terminated[n].item()
            np.testing.assert_allclose(observation, batch.final_observations[n].numpy(), atol=1e-6)
    assert any(bool(batch.terminated.any()) for batch in batches)


def test_each_task_acts_with_its_own_parameters() -> None:
    distribution = PointNavigationTasks()
    policy = Policy(distribution.environment, PolicySpec(hidden_sizes=(8,), init_log_std=-9.0))
    parameters = []
    for direction in (-1.0, 1.0):
        each = policy.init(0)
        each["layers.1.weight"].zero_()
        each["layers.1.bias"] = torch.tensor([direction, 0.0])
        parameters.append(each)
    task: Task = {"goal": [0.0, 0.4]}
    left, right = collect(distribution, [task, task], policy, parameters, 2, rng=np.random.default_rng(0))
    assert left.final_observations[:, 0].max() < -9.0 and right.final_observations[:, 0].min() > 9.0


def test_the_same_generator_state_gives_the_same_trajectories() -> None:
    distribution = CorridorTasks()
    policy = Policy(distribution.environment, PolicySpec(hidden_sizes=(8,)))
    tasks = distribution.sample_tasks(3, np.random.default_rng(0))
    runs = [
        collect(distribution, tasks, policy, [policy.init(0)] * 3, 5, rng=np.random.default_rng(s)) for s in (1, 1, 2)
    ]
    assert all(torch.equal(a.actions, b.actions) for a, b in zip(runs[0], runs[1], strict=True))
    assert runs[0][0].lengths != runs[2][0].lengths or not torch.equal(runs[0][0].actions, runs[2][0].actions)
