"""Writing and reading real Minari datasets."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest

import thetaprime.client as tp
from thetaprime import wire

Theta = Callable[[str], tp.AdaptedPolicy]


# Minari warns of missing metadata.
unreminded = pytest.mark.filterwarnings("ignore:.* None.*:UserWarning:minari")


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))


def collected(policy: tp.AdaptedPolicy, env_id: str, count: int = 3) -> list[wire.Trajectory]:
    return tp.collect(policy, gymnasium.make(env_id), count, seed=2)


@pytest.mark.parametrize(("name", "env_id"), [("pendulum", "Pendulum-v1"), ("cart-pole", "CartPole-v1")])
def test_written_trajectories_are_read_back_to_the_bit(name: str, env_id: str, theta: Theta) -> None:
    policy = theta(name)
    before = collected(policy, env_id)
    tp.to_minari(before, f"{name}/adapted-v0", policy.contract, author="somebody")
    dataset = minari.load_dataset(f"{name}/adapted-v0")
    assert dataset.storage.metadata["author"] in ("somebody", {"somebody"})
    assert dataset.total_episodes == len(before)
    assert wire.pack(tp.from_minari(dataset, policy.contract)) == wire.pack(before)


@pytest.mark.parametrize(("name", "env_id"), [("pendulum", "Pendulum-v1"), ("cart-pole", "CartPole-v1")])
def test_the_datasets_actions_are_in_the_environments_units(name: str, env_id: str, theta: Theta) -> None:
    """The dataset's actions, replayed from the same seed, reproduce the dataset's observations."""
    policy = theta(name)
    dataset = tp.to_minari(collected(policy, env_id, 1), f"{name}/adapted-v0", policy.contract)
    (episode,) = dataset.iterate_episodes()
    with gymnasium.make(env_id) as env:
        observation, _ = env.reset(seed=2)
        for step, action in enumerate(episode.actions):
            assert env.action_space.contains(action)
            np.testing.assert_allclose(episode.observations[step], observation, rtol=1e-5, atol=1e-5)
            observation, reward, *_ = env.step(action)
            assert episode.rewards[step] == pytest.approx(reward, rel=1e-4)
    assert len(episode.observations) == len(episode.actions) + 1
    assert (episode.terminations[-1], episode.truncations[-1]) != (False, False)
    assert not episode.terminations[:-1].any()


def test_a_session_accepts_trajectories_from_a_dataset(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    tp.to_minari(collected(session.policy, "Pendulum-v1", 4), "pendulum/mine-v0", session.policy.contract)
    session.upload(tp.from_minari(minari.load_dataset("pendulum/mine-v0"), session.policy.contract))
    assert session.adapt().parent_id == session.policy_at(0).policy_id


def foreign(contract: wire.EnvironmentContract, actions: np.ndarray[Any, Any]) -> Any:
    """A dataset of another program: float64, without additional fields."""
    steps = len(actions)
    rng = np.random.default_rng(0)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=rng.normal(size=(steps + 1, *contract.observation_shape)),
        actions=actions,
        rewards=rng.normal(size=steps),
        terminations=np.zeros(steps, bool),
        truncations=np.arange(steps) == steps - 1,
    )
    return minari.create_dataset_from_buffers(
        "foreign/x-v0",
        [buffer],
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, contract.observation_shape, np.float64),
        action_space=gymnasium.spaces.Box(-50, 50, actions.shape[1:], np.float64)
        if actions.ndim > 1
        else gymnasium.spaces.Discrete(20),
    )


@unreminded
def test_a_foreign_dataset_is_read_in_the_policys_units(theta: Theta) -> None:
    contract = theta("half-open").contract
    chosen = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 3))
    low, high = np.array(contract.action_low), np.array(contract.action_high)
    dataset = foreign(contract, low + (chosen + 1) / 2 * (high - low))
    with pytest.raises(tp.InvalidInputError, match=r"episodes\[0\]\.policy_id"):
        tp.from_minari(dataset, contract)
    (trajectory,) = tp.from_minari(dataset, contract, policy_id="p")
    np.testing.assert_allclose(trajectory.actions, chosen, atol=1e-6)
    assert (trajectory.policy_id, trajectory.truncated, trajectory.terminated) == ("p", True, False)
    assert trajectory.observations.dtype == trajectory.actions.dtype == trajectory.rewards.dtype == np.float32


@unreminded
@pytest.mark.parametrize(
    ("name", "actions", "message"),
    [
        ("half-open", np.array([[0.0, 1, 0], [0, 10, 0]]), r"episodes\[0\]\.actions\[1\]\[1\]: on the bound"),
        ("half-open", np.zeros((4, 2)), r"episodes\[0\]\.actions: shape \[4, 2\]; expected \[H, 3\]"),
        ("grid", np.array([5, 9, 6]), r"episodes\[0\]\.actions\[1\]: action 4; expected 0\.\.3"),
    ],
)
def test_an_invalid_foreign_dataset_is_refused_by_field(
    name: str, actions: np.ndarray[Any, Any], message: str, theta: Theta
) -> None:
    contract = theta(name).contract
    with pytest.raises(tp.InvalidInputError, match=message):
        tp.from_minari(foreign(contract, actions), contract, policy_id="p")


def test_invalid_trajectories_are_not_written(theta: Theta) -> None:
    policy = theta("pendulum")
    trajectories = collected(policy, "Pendulum-v1", 1)
    with pytest.raises(tp.InvalidInputError, match="trajectories: empty"):
        tp.to_minari([], "try/it-v0", policy.contract)
    with pytest.raises(tp.InvalidInputError, match=r"trajectories\[0\]\.observations: shape"):
        tp.to_minari(trajectories, "try/it-v0", theta("cart-pole").contract)
    with pytest.raises(tp.InvalidInputError, match="dataset_id: Malformed"):
        tp.to_minari(trajectories, "no version", policy.contract)
    tp.to_minari(trajectories, "try/it-v0", policy.contract)
    with pytest.raises(tp.InvalidInputError, match=r"dataset_id: .*already exists"):
        tp.to_minari(trajectories, "try/it-v0", policy.contract)


def test_without_minari_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["minari"] = None
import thetaprime.client as tp
try:
    tp.to_minari([], "try/it-v0", None)
except tp.InvalidInputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'thetaprime[minari]'" in done.stdout
