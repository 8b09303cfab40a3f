"""Policies of Stable-Baselines3 become meta-policies that take the same actions; hostile files execute nothing."""

import io
import itertools
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
import pytest
import torch

from thetaprime.models import BoxAction, EnvironmentContract, MetaPolicy, Policy, TrajectoryBatch, load_meta_policy
from thetaprime.models.verdict import Decision, StepOptions, next_step
from thetaprime.training.importing.artifact import ImportRequest, import_policy, import_work
from thetaprime.training.importing.convert import Normalization, convert, read_normalization
from thetaprime.training.importing.fixed_environment import FixedEnvironment
from thetaprime.training.importing.stable_baselines3 import ImportedFileError, ImportedNetwork, read_stable_baselines3
from thetaprime.training.sampling.sampler import collect

DATA: Final = Path(__file__).parents[1] / "data" / "stable_baselines3"
PENDULUM: Final = DATA / "pendulum-ppo.zip"
CARTPOLE: Final = DATA / "cartpole-a2c.zip"

Edit = Callable[[dict[str, Any], dict[str, Any]], None]


def imported(model: Path, environment_id: str, folder: Path, **fields: Any) -> MetaPolicy:
    request = ImportRequest(
        model=model,
        environment_id=environment_id,
        output=folder / "mine" / "1",
        name="mine",
        description="Imported.",
        **fields,
    )
    sampled: list[int] = []
    meta_policy, returns = import_policy(request, on_trajectories=sampled.append)
    assert sum(sampled) == import_work(request) == len(returns)
    return meta_policy


def edited(path: Path, model: Path, edit: Edit) -> Path:
    """Writes a model with other settings and weights."""
    with zipfile.ZipFile(model) as archive:
        settings = json.loads(archive.read("data"))
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    edit(settings, weights)
    return write_model(path, settings, weights)


def write_model(path: Path, settings: Any, weights: Any) -> Path:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(settings))
        archive.writestr("policy.pth", buffer.getvalue())
    return path


@pytest.mark.parametrize(
    ("model", "environment_id", "trajectories"), [(PENDULUM, "Pendulum-v1", 2), (CARTPOLE, "CartPole-v1", 2)]
)
def test_an_imported_policy_takes_the_actions_of_the_original(
    model: Path, environment_id: str, trajectories: int, tmp_path: Path
) -> None:
    """The expected actions are those of Stable-Baselines3's own `predict`."""
    meta_policy = imported(model, environment_id, tmp_path, trajectories=trajectories)
    with np.load(model.with_suffix(".npz")) as recorded:
        observations, expected = recorded["observations"], recorded["actions"]
    assert len(set(map(float, expected.reshape(len(expected), -1)[:, 0]))) > 1
    found = meta_policy.policy.act(meta_policy.parameters, torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert load_meta_policy(meta_policy.directory).manifest.provenance.environment_steps > 0


def test_the_noise_is_that_of_the_original(tmp_path: Path) -> None:
    network = read_stable_baselines3(PENDULUM)
    assert network.log_std is not None
    tasks = FixedEnvironment("Pendulum-v1", {})
    _, parameters = convert(network, tasks.environment, Normalization())
    # Torques lie in [-2, 2], and the policy's in [-1, 1].
    assert 2.0 * parameters["log_std"].exp() == pytest.approx(network.log_std.exp())


def network_of(sizes: tuple[int, ...], *, gaussian: bool) -> ImportedNetwork:
    generator = torch.Generator().manual_seed(0)
    layers = tuple(
        (torch.randn(wide, size, generator=generator), torch.randn(wide, generator=generator))
        for size, wide in itertools.pairwise(sizes)
    )
    return ImportedNetwork(layers, "tanh", torch.full((sizes[-1],), -0.5) if gaussian else None)


def test_bounds_that_differ_and_a_normalization_are_kept() -> None:
    environment = EnvironmentContract(
        environment_id="any",
        observation_shape=(3,),
        action=BoxAction(low=(-1.0, 0.0, -np.inf), high=(3.0, 0.5, np.inf)),
        horizon=10,
    )
    network = network_of((3, 5, 3), gaussian=True)
    mean, std = np.array([1.0, -2.0, 0.5]), np.array([0.1, 3.0, 1.0])
    spec, parameters = convert(network, environment, Normalization(tuple(mean), tuple(std)))
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    hidden = torch.from_numpy(((observations - mean) / std).astype(np.float32))
    (first, bias), (last, shift) = network.layers
    expected = torch.tanh(hidden @ first.T + bias) @ last.T + shift
    low, high = (torch.tensor(each) for each in (environment.action.low, environment.action.high))  # type: ignore[union-attr]
    found = Policy(environment, spec).act(parameters, torch.from_numpy(observations))
    torch.testing.assert_close(found, expected.clamp(low, high), atol=1e-4, rtol=1e-5)


def test_vec_normalize_statistics_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", mean=np.array([1.0, 2.0]), var=np.array([4.0, 0.25]))
    found = read_normalization(tmp_path / "n.npz", epsilon=0.0)
    assert found == Normalization((1.0, 2.0), (2.0, 0.5))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"mean": np.zeros(2)}, "var"),
        ({"mean": np.zeros(2), "var": np.zeros(3)}, "one length"),
        ({"mean": np.zeros(2), "var": np.array([1.0, -1.0])}, "negative"),
        ({"mean": np.array([np.nan]), "var": np.ones(1)}, "finite"),
        ({"mean": np.array([{}], dtype=object), "var": np.ones(1)}, "allow_pickle"),
    ],
)
def test_a_normalization_that_is_none_is_refused(arrays: Mapping[str, Any], problem: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", **arrays)
    with pytest.raises(ImportedFileError, match=problem):
        read_normalization(tmp_path / "n.npz")


class Hostile:
    """Executes a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps(Hostile(marker))
    pickle.loads(data)  # noqa: S301 - the attack works
    assert marker.exists()
    marker.rmdir()
    weights = write_model(tmp_path / "weights.zip", {}, {"action_net.weight": Hostile(marker)})
    with pytest.raises(ImportedFileError, match="dictionary of tensors"):
        read_stable_baselines3(weights)

    def harm(settings: dict[str, Any], _: dict[str, Any]) -> None:
        import base64

        settings["policy_class"] = {":type:": "x", ":serialized:": base64.b64encode(data).decode()}

    read_stable_baselines3(edited(tmp_path / "settings.zip", PENDULUM, harm))
    assert not marker.exists()


def removed(name: str) -> Edit:
    return lambda _, weights: weights.pop(name)


def added(name: str, value: torch.Tensor) -> Edit:
    return lambda _, weights: weights.update({name: value})


def set_to(name: str, value: Any) -> Edit:
    return lambda settings, _: settings.update({name: value})


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (removed("action_net.weight"), "PPO, A2C or TRPO"),
        (added("features_extractor.cnn.0.weight", torch.zeros(1)), "flat observation"),
        (added("mlp_extractor.shared_net.0.weight", torch.zeros(1)), "shared"),
        (added("lstm_actor.weight_ih_l0", torch.zeros(1)), "flat observation"),
        (added("action_net.bias", torch.tensor([torch.nan])), "finite"),
        (added("action_net.bias", torch.zeros(7)), r"action_net.*\[7\]"),
        (added("mlp_extractor.policy_net.2.weight", torch.zeros(64, 5)), "expected 64 inputs"),
        (added("log_std", torch.zeros(2)), "log_std"),
        (set_to("use_sde", True), "gSDE"),
        (set_to("policy_kwargs", {"activation_fn": "<class 'torch.nn.modules.activation.ELU'>"}), "ELU"),
    ],
)
def test_a_policy_that_computes_something_else_is_refused(edit: Edit, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ImportedFileError, match=problem):
        read_stable_baselines3(edited(tmp_path / "m.zip", PENDULUM, edit))


def test_files_that_are_no_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ImportedFileError, match="no zip archive"):
        read_stable_baselines3(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "[" * 100_000)
    with pytest.raises(ImportedFileError, match="not JSON"):
        read_stable_baselines3(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("policy.pth", b"")
    with pytest.raises(ImportedFileError, match="holds no 'data'"):
        read_stable_baselines3(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(1 << 25))
    with pytest.raises(ImportedFileError, match="at most"):
        read_stable_baselines3(path)


def test_weights_that_would_unpack_to_more_than_may_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.training.importing.stable_baselines3._MOST_BYTES", 1 << 20)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 24))
    assert len(bomb.getvalue()) < 1 << 20
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", bomb.getvalue())
    with pytest.raises(ImportedFileError, match="unpacks to 16,777,216 bytes"):
        read_stable_baselines3(tmp_path / "m.zip")


@pytest.mark.parametrize(
    ("environment_id", "problem"),
    [
        ("CartPole-v1", "observations of 4"),
        ("MountainCarContinuous-v0", "observations of 2"),
        ("Blackjack-v1", "Tuple"),
    ],
)
def test_another_environment_is_refused(environment_id: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        imported(PENDULUM, environment_id, tmp_path)


def test_an_environment_without_a_limit_asks_for_a_horizon() -> None:
    class Endless(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

    gymnasium.register("EndlessForImport-v0", lambda **_: Endless())
    try:
        with pytest.raises(ValueError, match="give a horizon"):
            FixedEnvironment("EndlessForImport-v0", {})
        assert FixedEnvironment("EndlessForImport-v0", {}, horizon=7).environment.horizon == 7
    finally:
        del gymnasium.registry["EndlessForImport-v0"]


@pytest.mark.slow
def test_fine_tuning_swings_up_against_more_gravity_and_loses_nothing_on_the_same_pendulum(tmp_path: Path) -> None:
    meta_policy = imported(PENDULUM, "Pendulum-v1", tmp_path)

    limit = meta_policy.manifest.adaptation.max_kl

    def run(tasks: FixedEnvironment, rounds: int) -> tuple[float, float, list[Decision]]:
        rng, parameters = np.random.default_rng(4), meta_policy.parameters
        history: list[Any] = []
        policies = {0: parameters}
        decisions = []

        def measured(trajectories: int) -> TrajectoryBatch:
            return collect(tasks, [{}], meta_policy.policy, [parameters], trajectories, rng=rng)[0]

        first = float(measured(60).returns.mean())
        for index in range(rounds):
            step = next_step(
                meta_policy, history, measured(20), parameters, lambda number: policies[number], StepOptions()
            )
            history.append(step.memory)
            assert limit is not None and (step.summary.kl_divergence <= limit or step.memory.next_policy <= index)
            decisions.append(step.verdict.decision)
            parameters = policies[index + 1] = step.parameters
        parameters = policies[step.verdict.best_round]
        return first, float(measured(60).returns.mean()), decisions

    # About −900 before, and −300 after.
    before, after, decisions = run(FixedEnvironment("Pendulum-v1", {"g": 14.0}), 14)
    assert after > before + 200.0
    assert decisions.count(Decision.TAKEN) > len(decisions) / 2
    before, after, _ = run(FixedEnvironment("Pendulum-v1", {}), 6)
    assert after > before - 60.0
