"""`AdaptedPolicy` computes the actions of torch."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import thetaprime.client as tp
from thetaprime import models, wire

Artifact = Callable[[str], models.MetaPolicy]
Theta = Callable[[str], tp.AdaptedPolicy]
NAMES = ("point-navigation", "pendulum", "cart-pole", "grid", "half-open")


def torch_actions(meta_policy: models.MetaPolicy, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = torch.from_numpy(observations.reshape(len(observations), math.prod(observations.shape[1:])))
    with torch.no_grad():
        return meta_policy.policy.act(meta_policy.parameters, flat).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_single_and_batch_equal_torch(name: str, artifact: Artifact, theta: Theta) -> None:
    meta_policy, policy = artifact(name), theta(name)
    shape = meta_policy.manifest.environment.observation_shape
    observations = np.random.default_rng(3).normal(size=(50, *shape), scale=3).astype(np.float32)
    expected = torch_actions(meta_policy, observations)
    batch = policy.act(observations)
    single = np.stack([policy.act(observation) for observation in observations])
    assert batch.shape == expected.shape
    assert batch.dtype == single.dtype == expected.dtype
    np.testing.assert_allclose(batch, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64]),
)
def test_any_real_dtype_acts_as_its_float32(numbers: list[float], dtype: type, theta: Theta) -> None:
    policy = theta("point-navigation")
    observation: np.ndarray[Any, Any] = np.clip(numbers, -6e4, 6e4).astype(dtype)
    np.testing.assert_array_equal(policy.act(observation), policy.act(observation.astype(np.float32)))


def test_a_list_is_accepted_as_an_observation(theta: Theta) -> None:
    policy = theta("point-navigation")
    np.testing.assert_array_equal(policy.act([0.1, 0.2]), policy.act(np.array([0.1, 0.2], np.float32)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), counts=st.lists(st.sampled_from([0, 1, 2, 3, 64, 65]), max_size=12))
def test_batches_of_any_size_in_any_order_equal_torch(
    name: str, counts: list[int], artifact: Artifact, theta: Theta
) -> None:
    meta_policy, policy = artifact(name), theta(name)
    shape = meta_policy.manifest.environment.observation_shape
    rng = np.random.default_rng(len(counts))
    for count in counts:
        observations = rng.normal(size=(count, *shape)).astype(np.float32)
        expected = torch_actions(meta_policy, observations)
        acted = policy.act(observations)
        assert (acted.shape, acted.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(acted, expected, rtol=1e-5, atol=1e-5)


def test_batches_are_sampled_with_the_given_generator(artifact: Artifact, theta: Theta) -> None:
    meta_policy, policy = artifact("pendulum"), theta("pendulum")
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with torch.no_grad():
        mean, log_std = meta_policy.policy.outputs(meta_policy.parameters, torch.from_numpy(observations))
    drawn, again = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(4):
        _, action = policy.sample(observations, rng=drawn)
        noise = again.standard_normal(action.shape, np.float32) * log_std.exp().numpy()
        np.testing.assert_allclose(action, mean.numpy() + noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2), (100, 2)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_later_calls_do_not_change_an_earlier_action(shape: tuple[int, ...], deterministic: bool, theta: Theta) -> None:
    policy = theta("point-navigation")
    acted = []
    for number in (1.0, 2.0, 3.0):
        action = policy.act(np.full(shape, number, np.float32), deterministic)
        acted.append((action, action.copy()))
    for action, kept in acted:
        np.testing.assert_array_equal(action, kept)


def test_a_discrete_action_is_a_hashable_integer_in_range(theta: Theta) -> None:
    action = theta("grid").act(np.zeros((2, 3), np.float32))
    assert isinstance(action, np.int64)
    assert 5 <= action < 9
    assert {action: "hashable"}


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 65, 3)])
def test_threads_do_not_disturb_each_other(shape: tuple[int, ...], theta: Theta) -> None:
    policy = theta("pendulum")
    observations = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = [policy.act(observation) for observation in observations]
    same: list[bool] = []

    def act(index: int) -> None:
        same.extend(np.array_equal(policy.act(observations[index]), expected[index]) for _ in range(2000))

    threads = [threading.Thread(target=act, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 8000


def test_gaussian_samples_have_the_policys_distribution(artifact: Artifact, theta: Theta) -> None:
    meta_policy, policy = artifact("half-open"), theta("half-open")
    observation = np.array([0.3, -1.2], np.float32)
    with torch.no_grad():
        distribution = meta_policy.policy.distribution(meta_policy.parameters, torch.from_numpy(observation[None]))
    count = 20_000
    batch = policy.sample(np.tile(observation, (count, 1)))[1]
    single = np.stack([policy.sample(observation)[1] for _ in range(count)])
    for samples in (batch, single):
        error = 5 / math.sqrt(count)
        np.testing.assert_allclose(samples.mean(0), distribution.mean[0], atol=error)
        np.testing.assert_allclose(samples.std(0), distribution.stddev[0], atol=error)
        assert abs(np.corrcoef(samples[:-1, 0], samples[1:, 0])[0, 1]) < error
        assert abs(np.corrcoef(samples[:, 0], samples[:, 1])[0, 1]) < error


def test_environment_actions_are_scaled_and_clipped(theta: Theta) -> None:
    policy = theta("half-open")
    low, high = np.array([-1.0, 0.0, -3.0]), np.array([1.0, 10.0, 5.0])
    environment, action = policy.sample(np.zeros((500, 2), np.float32))
    assert np.abs(action).max() > 1  # trajectories record unclipped actions
    np.testing.assert_allclose(environment, low + (np.clip(action, -1, 1) + 1) / 2 * (high - low), atol=1e-5)
    assert (environment >= low).all()
    assert (environment <= high).all()


def test_categorical_samples_have_the_policys_distribution(artifact: Artifact, theta: Theta) -> None:
    meta_policy, policy = artifact("grid"), theta("grid")
    observation = np.random.default_rng(8).normal(size=(2, 3)).astype(np.float32) * 4
    with torch.no_grad():
        distribution = meta_policy.policy.distribution(
            meta_policy.parameters, torch.from_numpy(observation.reshape(1, -1))
        )
    assert isinstance(distribution, torch.distributions.Categorical)
    count = 20_000
    environment, action = policy.sample(np.tile(observation, (count, 1, 1)))
    single = np.stack([policy.sample(observation)[1] for _ in range(count)])
    np.testing.assert_array_equal(environment, action + 5)
    for samples in (action, single):
        frequencies = np.bincount(samples, minlength=4) / count
        np.testing.assert_allclose(frequencies, distribution.probs[0], atol=5 / math.sqrt(count))


def test_equal_seeds_give_equal_noise(theta: Theta) -> None:
    policy = theta("pendulum")
    observation = np.zeros(3, np.float32)

    def draw(seed: int | None) -> list[float]:
        policy.seed(seed)
        return [float(policy.act(observation, deterministic=False)[0]) for _ in range(5)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    ("observation", "field", "problem"),
    [
        (np.zeros(3, np.float32), "obs", "shape [3]; expected [2] or [B, 2]"),
        (np.zeros((4, 3), np.float32), "obs", "shape [4, 3]"),
        (np.zeros((), np.float32), "obs", "shape []"),
        (np.array(["a", "b"]), "obs", "dtype"),
        (np.array([["a", "b"]]), "obs", "dtype"),
        (np.array([1j, 2]), "obs", "dtype complex128"),
        (np.array([0.0, np.nan], np.float32), "obs[1]", "not a finite float32"),
        (np.array([np.inf, 0.0]), "obs[0]", "not a finite float32"),
        (np.array([[0.0, 0.0], [-np.inf, 0.0]], np.float32), "obs[1][0]", "not a finite float32"),
    ],
)
@pytest.mark.parametrize("deterministic", [True, False])
def test_an_invalid_observation_is_refused(
    observation: np.ndarray[Any, Any], field: str, problem: str, deterministic: bool, theta: Theta
) -> None:
    policy = theta("point-navigation")
    fitting = [np.zeros((len(observation), 2), np.float32)] * 2 if observation.ndim == 2 else []
    for _ in range(2):
        with pytest.raises(tp.InvalidInputError) as caught:
            policy.act(observation, deterministic=deterministic)
        assert isinstance(caught.value, ValueError)
        assert caught.value.violations[0].field == field
        assert problem in str(caught.value)
        for batch in fitting:  # the second batch of a size runs the bound graph
            policy.act(batch)


def test_large_finite_observations_are_accepted(theta: Theta) -> None:
    action = theta("point-navigation").act(np.array([3e38, -3e38], np.float32))
    assert action.shape == (2,)


def test_save_and_load(theta: Theta, tmp_path: Path) -> None:
    policy, path = theta("pendulum"), tmp_path / "policy.onnx"
    path.write_bytes(b"what stood here before")
    policy.save(path)
    loaded = tp.AdaptedPolicy.load(path, sha256=policy.sha256)
    assert loaded.onnx == policy.onnx
    assert loaded.policy_id == policy.policy_id
    assert loaded.contract == policy.contract
    assert loaded.meta_policy == "pendulum@1"
    assert [file.name for file in tmp_path.iterdir()] == ["policy.onnx"]


def test_a_failed_save_keeps_the_old_file(theta: Theta, tmp_path: Path) -> None:
    folder = tmp_path / "policy.onnx"
    folder.mkdir()
    with pytest.raises(OSError, match=r"policy\.onnx"):
        theta("pendulum").save(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_contract_is_read_from_the_file(theta: Theta) -> None:
    assert theta("pendulum").contract == wire.EnvironmentContract(
        environment_id="Pendulum-v1",
        observation_shape=(3,),
        action_kind=wire.ActionKind.BOX,
        action_size=1,
        action_low=(-2.0,),
        action_high=(2.0,),
        horizon=40,
        control_timestep=0.05,
    )
    grid = theta("grid").contract
    assert (grid.action_kind, grid.action_size, grid.action_start) == (wire.ActionKind.DISCRETE, 4, 5)


def test_predict_has_the_signature_of_stable_baselines(theta: Theta) -> None:
    policy = theta("pendulum")
    one, batch = np.zeros(3, np.float32), np.ones((4, 3), np.float32)
    for obs in (one, batch):
        action, state = policy.predict(obs)
        np.testing.assert_array_equal(action, policy.act(obs))
        assert state is None
        assert action.shape == (*obs.shape[:-1], 1)
    state = (np.zeros(2),)
    assert policy.predict(batch, state, np.ones(4, bool), deterministic=True)[1] is state
    sampled = [policy.predict(one, deterministic=False)[0] for _ in range(2)]
    assert sampled[0] != sampled[1]
    with pytest.raises(tp.InvalidInputError, match="shape"):
        policy.predict(np.zeros(5))


def test_predict_works_in_the_evaluation_loop_of_stable_baselines(theta: Theta) -> None:
    """The loop of `stable_baselines3.common.evaluation.evaluate_policy`, on a vector environment."""
    policy = theta("cart-pole")
    env = gymnasium.make_vec("CartPole-v1", 3, "sync")
    observations, _ = env.reset(seed=0)
    states, starts = None, np.ones(3, bool)
    for _ in range(20):
        actions, states = policy.predict(observations, state=states, episode_start=starts, deterministic=True)
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
    env.close()
    assert states is None
