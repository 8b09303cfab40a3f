"""Recorded episodes, compared with their environments."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

import thetaprime.training
from thetaprime.training.evaluation.figures.episodes import EpisodeRecorder, play

gymnasium.register_envs(thetaprime.training)


def recorder(name: str, **arguments: Any) -> EpisodeRecorder:
    return EpisodeRecorder(gymnasium.make(name, **arguments))


def test_a_path_holds_the_points_positions() -> None:
    env = recorder("thetaprime/PointNavigation-v0", goal=(0.4, -0.3))
    observations = [env.reset(seed=0)[0]]
    rewards = []
    for action in np.random.default_rng(0).uniform(-0.1, 0.1, (5, 2)).astype(np.float32):
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    (episode,) = env.take()
    assert episode.position is not None and episode.drawable and episode.velocity is None
    np.testing.assert_allclose(episode.position, observations, atol=1e-6)
    assert episode.undiscounted_return == pytest.approx(sum(rewards))
    assert episode.goal == {"goal_position": (0.4, -0.3)}
    assert (episode.seconds, episode.contacts) == (None, {})
    env.close()


def test_episodes_are_separated_even_if_cut_short() -> None:
    env = recorder("thetaprime/PointNavigation-v0")
    for steps in (3, 0, 2):
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.zeros(2, np.float32))
    assert [len(episode.rewards) for episode in env.take()] == [3, 2]
    assert env.take() == []
    env.close()


def test_playing_ends_with_the_episode_or_at_the_horizon() -> None:
    env = recorder("thetaprime/PointNavigation-v0", goal=(0.25, 0.0))
    ahead = list(play(lambda _: np.array([0.1, 0.0]), env, 0, 0))
    assert len(ahead) == 1 + 100 and not ahead[-1][1]  # it goes past the goal
    cut = list(play(lambda _: np.zeros(2), env, 0, 7))
    assert len(cut) == 1 + 7 and cut[0][0] == 0.0
    arrives = list(play(lambda position: np.array([0.25, 0.0]) - position, env, 0, 0))
    assert len(arrives) == 1 + 3 and arrives[-1][1]
    assert [len(episode.rewards) for episode in env.take()] == [100, 7, 3]
    env.close()


def test_an_environment_without_infos_gives_only_its_return() -> None:
    env = recorder("CartPole-v1")
    list(play(lambda _: np.int64(1), env, 0, 0))
    (episode,) = env.take()
    assert not episode.drawable and episode.undiscounted_return == len(episode.rewards) > 3
    env.close()


@pytest.mark.parametrize(
    ("name", "limbs", "goal"),
    [
        ("thetaprime/HalfCheetahVelocity-v0", ["bfoot", "ffoot"], {"goal_velocity": 1.0}),
        (
            "thetaprime/AntDirection-v0",
            ["left ankle", "right ankle", "third ankle", "fourth ankle"],
            {"goal_direction": 1.0},
        ),
    ],
)
def test_a_robots_velocity_and_ground_contacts_are_recorded(
    name: str, limbs: list[str], goal: dict[str, float]
) -> None:
    env = recorder(name)
    robot: Any = env.unwrapped
    rng = np.random.default_rng(1)
    x, lowest = [], []
    _, info = env.reset(seed=1)
    assert goal.items() <= info.items()
    x.append(robot.data.qpos[0])
    ends = [_end_of(robot.model, limb) for limb in limbs]
    for _ in range(60):
        env.step(rng.uniform(-1, 1, robot.model.nu).astype(np.float32))
        x.append(robot.data.qpos[0])
        lowest.append([_lowest_point(robot, geom) for geom in ends])
    (episode,) = env.take()
    assert episode.seconds == pytest.approx(0.05) and episode.goal == goal
    assert episode.velocity is not None
    np.testing.assert_allclose(episode.velocity, np.diff(x) / 0.05, atol=1e-9)
    assert list(episode.contacts) == limbs
    touching = np.stack(list(episode.contacts.values()), axis=1)
    height = np.array(lowest)
    assert touching.any(0).all() and not touching.all(0).any()
    # A limb in contact is no higher than MuJoCo's contact margin; one without contact is above it. Contacts are those
    # at the start of the last physics step: a limb that crosses the margin within the step may have either value.
    assert (height[touching] < 0.05).all()
    assert (height[~touching] > -0.02).all()
    assert height[touching].mean() < height[~touching].mean() - 0.02
    env.close()


def _end_of(model: mujoco.MjModel, limb: str) -> int:
    names = [model.geom(index).name.removesuffix("_geom").replace("_", " ") for index in range(model.ngeom)]
    return names.index(limb)


def _lowest_point(robot: Any, geom: int) -> float:
    """The height of a capsule above the ground, in m."""
    axis = robot.data.geom_xmat[geom].reshape(3, 3)[:, 2]
    radius, half = robot.model.geom_size[geom, :2]
    return float(robot.data.geom_xpos[geom, 2] - abs(axis[2]) * half - radius)
