"""The predicted gain: conformal intervals, calibrated on held-out tasks."""

import dataclasses

import numpy as np
import pytest
import torch

from thetaprime.models import (
    ArtifactError,
    MetaPolicy,
    Parameters,
    Policy,
    TrajectoryBatch,
    load_meta_policy,
    zoo_directory,
)
from thetaprime.models.spec import CONTEXT, BoxAction, EnvironmentContract, PolicySpec
from thetaprime.models.verdict.predicted import (
    FEATURES_NAME,
    GAINS_NAME,
    GainModel,
    gain_features,
    predict_gain,
)

_H = 10


def _tasks(count: int, seed: int, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features on a curve, and gains that depend on them, with noise that grows."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(-3.0, 0.0, count)
    inputs = np.stack([level, np.sin(level), np.cos(level)], axis=1)
    gains = 1.0 - level + np.sin(2.0 * level) + noise * (0.2 - level) * rng.normal(size=count)
    return torch.from_numpy(inputs), torch.from_numpy(gains)


def test_nine_intervals_of_ten_cover_the_gain_of_a_new_task() -> None:
    covered = []
    for seed in range(10):
        model = GainModel(*_tasks(200, seed))
        inputs, gains = _tasks(100, 100 + seed)
        found = [model.predict(each) for each in inputs]
        covered += [each.low <= float(gain) <= each.high for each, gain in zip(found, gains, strict=True)]
    assert 0.87 <= np.mean(covered) <= 0.93


def test_the_prediction_follows_the_gain_where_it_was_measured() -> None:
    model = GainModel(*_tasks(200, 0, noise=0.01))
    inputs, gains = _tasks(50, 1, noise=0.0)
    found = np.array([model.predict(each).value for each in inputs])
    assert np.abs(found - gains.numpy()).max() < 0.2
    assert model.predict(inputs[0]).low > 0.0


def test_the_interval_is_wide_far_from_the_held_out_tasks() -> None:
    model = GainModel(*_tasks(200, 0))
    near = model.predict(_tasks(1, 5)[0][0])
    far = model.predict(torch.tensor([-1.0, 5.0, -5.0], dtype=torch.float64))
    assert far.high - far.low > 5.0 * (near.high - near.low)


def _policy() -> tuple[Policy, Parameters]:
    environment = EnvironmentContract(
        environment_id="test", observation_shape=(2,), action=BoxAction(low=(-1.0,), high=(1.0,)), horizon=_H
    )
    policy = Policy(environment, PolicySpec(hidden_sizes=(4,), activation="tanh", init_log_std=-0.5))
    return policy, policy.init(1)


def _collect(policy: Policy, parameters: Parameters, count: int, seed: int) -> TrajectoryBatch:
    """Episodes whose reward is the action."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(count * _H, 2, generator=generator)
    actions = policy.sample(parameters, observations, generator)
    return TrajectoryBatch(
        observations,
        actions,
        actions[:, 0],
        (_H,) * count,
        torch.zeros(count, dtype=torch.bool),
        torch.zeros(count, 2),
    )


def test_the_features_are_the_level_and_the_change() -> None:
    policy, parameters = _policy()
    batch = _collect(policy, parameters, 4, 0)
    moved = {name: value + 1.0 for name, value in parameters.items()}
    numbers = sum(value.numel() for value in parameters.values())
    found = gain_features(batch, parameters, moved, 2.0)
    assert found.tolist() == pytest.approx([float(batch.returns.mean()) / 2.0, numbers**0.5])
    context = {CONTEXT: torch.tensor([1.0, 2.0])}
    found = gain_features(batch, context, {CONTEXT: torch.tensor([0.5, 4.0])}, 1.0)
    assert found.tolist()[1:] == [-0.5, 2.0]


def _with(**tensors: torch.Tensor) -> tuple[MetaPolicy, TrajectoryBatch, Parameters]:
    meta_policy = load_meta_policy(zoo_directory() / "point-navigation" / "1")
    kept = {name: value for name, value in meta_policy.reference.items() if not name.startswith("calibration.gain")}
    changed = dataclasses.replace(meta_policy, reference={**kept, **tensors})
    policy = changed.policy
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(20, 2, generator=generator)
    actions = policy.sample(changed.parameters, observations, generator)
    batch = TrajectoryBatch(
        observations, actions, -torch.ones(20), (10, 10), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 2)
    )
    return changed, batch, {**changed.parameters, CONTEXT: changed.parameters[CONTEXT] + 0.5}


def test_the_prediction_has_the_units_of_the_task() -> None:
    inputs, gains = _tasks(200, 0)
    meta_policy, batch, after = _with(**{FEATURES_NAME: inputs.float(), GAINS_NAME: gains.float()})
    plain = predict_gain(meta_policy, batch, after, 1.0)
    large = dataclasses.replace(batch, rewards=batch.rewards * 10.0)
    scaled = predict_gain(meta_policy, large, after, 10.0)
    assert plain is not None and scaled is not None
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        (10.0 * plain.value, 10.0 * plain.low, 10.0 * plain.high)
    )


def test_the_step_of_an_unfamiliar_task_may_also_do_the_opposite() -> None:
    inputs, gains = _tasks(200, 0)
    meta_policy, batch, after = _with(**{FEATURES_NAME: inputs.float(), GAINS_NAME: gains.float()})
    familiar, unfamiliar = (predict_gain(meta_policy, batch, after, 1.0, task_p_value=each) for each in (0.05, 0.04))
    assert familiar == predict_gain(meta_policy, batch, after, 1.0)
    assert familiar is not None and unfamiliar is not None
    assert unfamiliar.value == familiar.value
    assert unfamiliar.low < 0.0 < unfamiliar.high
    assert unfamiliar.high - unfamiliar.low == pytest.approx(4.0 * abs(familiar.value))


@pytest.mark.parametrize("count", [0, 19])
def test_an_artifact_without_enough_held_out_tasks_predicts_nothing(count: int) -> None:
    inputs, gains = (each.float() for each in _tasks(200, 0))
    tensors = {FEATURES_NAME: inputs[:count], GAINS_NAME: gains[:count]} if count else {}
    meta_policy, batch, after = _with(**tensors)
    assert predict_gain(meta_policy, batch, after, 1.0) is None


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_damaged_held_out_tasks_are_refused_by_name(damage: str) -> None:
    inputs, gains = (each.float() for each in _tasks(200, 0))
    tensors = {FEATURES_NAME: inputs, GAINS_NAME: gains}
    if damage == "missing":
        del tensors[GAINS_NAME]
    if damage == "shape":
        tensors[GAINS_NAME] = gains[:100]
    if damage == "nan":
        tensors[GAINS_NAME] = gains.clone().fill_(float("nan"))
    meta_policy, batch, after = _with(**tensors)
    with pytest.raises(ArtifactError, match=r"calibration\.gain"):
        predict_gain(meta_policy, batch, after, 1.0)
