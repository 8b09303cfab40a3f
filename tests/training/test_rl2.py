"""RL²: lifetimes, PPO through time, and learning within a lifetime."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MemorySpec,
    Policy,
    PolicySpec,
    RecurrentPolicy,
)
from thetaprime.training import resources
from thetaprime.training.algorithms.rl2 import RL2, trained_spec
from thetaprime.training.algorithms.rl2.critic import (
    TaskScale,
    ValueScale,
    criticize,
    init_critic,
    lifetime_advantages,
)
from thetaprime.training.algorithms.rl2.normalization import RunningMoments
from thetaprime.training.checkpoint import CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.history import HISTORY_NAME
from thetaprime.training.resources import in_turn, task_threads
from thetaprime.training.run import Progress, train
from thetaprime.training.sampling.lifetimes import Lifetimes, collect_lifetimes
from thetaprime.training.tasks import OracleTasks, PointNavigationTasks, Task, oracle_policy, task_vector

TINY: dict[str, Any] = {
    "tasks": "point-navigation",
    "method": "rl2",
    "tracker": "none",
    "iterations": 4,
    "meta_batch_size": 3,
    "policy.hidden_sizes": [8],
    "policy.memory.size": 6,
    "rl2.chunk_steps": 60,
    "rl2.epochs": 2,
    "rl2.task_weight": 0.1,
}


def tiny(changes: Mapping[str, Any] | None = None) -> TrainConfig:
    return load_config(None, {**TINY, **(changes or {})})


class Sides:
    """A hidden side, −1 or 1, and actions that earn reward on it. Episodes of task "late" end after 3 steps, not 5."""

    def __init__(self, *, discrete: bool = False) -> None:
        action = DiscreteAction(count=2, start=3) if discrete else BoxAction(low=(-2.0,), high=(2.0,))
        self.environment = EnvironmentContract(environment_id="sides", observation_shape=(1,), action=action, horizon=5)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return [
            {"side": float(side), "late": float(index % 2)} for index, side in enumerate(rng.choice([-1, 1], count))
        ]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return Side(task, discrete=isinstance(self.environment.action, DiscreteAction))


class Side(gymnasium.Env[Any, Any]):
    """One environment of `Sides`; it observes the time."""

    def __init__(self, task: Task, *, discrete: bool) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space: gymnasium.Space[Any] = (
            gymnasium.spaces.Discrete(2, start=3) if discrete else gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        )
        self.task, self.time, self.discrete = task, 0, discrete
        self.side = float(np.asarray(task["side"]))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        moved = 2.0 * float(action) - 7.0 if self.discrete else float(action[0]) / 2.0
        over = self.time == (3 if self.task["late"] else 5)
        return np.full(1, self.time, np.float32), moved * self.side, over, False, {}


class ManySides(Sides):
    """`Sides` as one vector environment, which steps all at once."""

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        return SidesVector(np.array([each["side"] for each in tasks]))


class SidesVector(VectorEnv[Any, Any, Any]):
    """Episodes of 5 steps."""

    def __init__(self, sides: npt.NDArray[np.float64]) -> None:
        self.num_envs, self.sides, self.time = len(sides), sides, 0
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        return np.zeros((self.num_envs, 1), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        again = self.time == 5
        self.time = 0 if again else self.time + 1
        reward = np.zeros(self.num_envs) if again else actions[:, 0] / 2.0 * self.sides
        over = np.full(self.num_envs, self.time == 5)
        return np.full((self.num_envs, 1), self.time, np.float32), reward, over, np.zeros_like(over), {}


def policy_of(distribution: Sides, **memory: Any) -> RecurrentPolicy:
    spec = PolicySpec(hidden_sizes=(4,), activation="tanh", memory=MemorySpec(size=3, **memory))
    return RecurrentPolicy(distribution.environment, spec)


def sampled(policy: RecurrentPolicy, distribution: Sides, episodes: int = 3) -> tuple[Lifetimes, Sequence[Task]]:
    tasks = distribution.sample_tasks(4, np.random.default_rng(0))
    found = collect_lifetimes(distribution, tasks, policy, policy.init(0), episodes, rng=np.random.default_rng(1))
    return found, tasks


@pytest.mark.parametrize("discrete", [False, True])
def test_a_lifetime_keeps_what_came_before_over_its_episodes(discrete: bool) -> None:
    distribution = Sides(discrete=discrete)
    policy = policy_of(distribution, cell="lstm")
    lifetimes, tasks = sampled(policy, distribution)
    lengths = [3 if task["late"] else 5 for task in tasks]
    assert lifetimes.mask.sum(0).tolist() == [3 * length for length in lengths]
    for row, length in enumerate(lengths):
        steps = np.arange(3 * length)
        assert lifetimes.episodes[steps, row].tolist() == (steps // length).tolist()
        assert lifetimes.observations[steps, row, 0].tolist() == (steps % length).tolist()
        assert lifetimes.times[steps, row].tolist() == (steps % length).tolist()
        begins = (steps % length == 0) & (steps > 0)
        assert lifetimes.episode_starts[steps, row].tolist() == begins.astype(float).tolist()
        np.testing.assert_array_equal(lifetimes.previous_rewards[steps[1:], row], lifetimes.rewards[steps[:-1], row])
        before, taken = lifetimes.previous_actions[steps[1:], row], lifetimes.actions[steps[:-1], row]
        np.testing.assert_allclose(before, taken if discrete else np.clip(taken, -1.0, 1.0), atol=1e-6)
        nothing = -1 if discrete else 0.0
        assert np.all(lifetimes.previous_actions[0, row] == nothing)
        moved = 2.0 * taken - 1.0 if discrete else np.clip(taken[:, 0], -1.0, 1.0)
        np.testing.assert_allclose(
            lifetimes.rewards[steps[:-1], row], moved * np.asarray(tasks[row]["side"]), atol=1e-6
        )
    assert lifetimes.returns(3).sum(0) == pytest.approx(lifetimes.rewards.astype(float).sum(0))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_recorded_outputs_and_states_are_those_of_the_whole_lifetime(cell: str) -> None:
    distribution = Sides()
    policy = policy_of(distribution, cell=cell)
    lifetimes, _ = sampled(policy, distribution)
    parameters, mask = policy.init(0), torch.from_numpy(lifetimes.mask)
    outputs, remembered, _ = policy.unroll(parameters, lifetimes.inputs, policy.initial_state(parameters, 4))
    torch.testing.assert_close(outputs[0][mask], torch.from_numpy(lifetimes.heads)[mask])
    torch.testing.assert_close(remembered[mask], torch.from_numpy(lifetimes.states[0])[mask])


class SlowNavigation:
    """Point navigation without its vector environment: the workers step it."""

    def __init__(self) -> None:
        self._tasks = PointNavigationTasks()
        self.environment = self._tasks.environment

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return self._tasks.sample_tasks(count, rng)

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return self._tasks.make(task)


def test_workers_and_the_native_simulator_give_the_same_lifetimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THETAPRIME_TRAINING_WORKERS", "1")
    spec = PolicySpec(hidden_sizes=(4,), memory=MemorySpec(size=3))
    policy = RecurrentPolicy(PointNavigationTasks.environment, spec)
    tasks: list[Task] = [{"goal": [0.05, 0.0]}, {"goal": [0.4, -0.2]}]
    native, stepped = (
        collect_lifetimes(each, tasks, policy, policy.init(0), 2, rng=np.random.default_rng(2))
        for each in (PointNavigationTasks(), SlowNavigation())
    )
    for field in dataclasses.fields(Lifetimes):
        for one, other in zip(
            *np.broadcast_arrays(getattr(native, field.name), getattr(stepped, field.name)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_lost_lifetime_is_sampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THETAPRIME_TRAINING_WORKERS", "1")
    broken: list[Task] = []

    class Breaking(Sides):
        def make(self, task: Task) -> gymnasium.Env[Any, Any]:
            env = super().make(task)
            if not broken and task["side"] == 1.0:
                broken.append(task)

                def step(action: Any) -> Any:
                    raise RuntimeError("a joint came off")

                env.step = step  # type: ignore[method-assign]
            return env

    distribution = Breaking()
    with pytest.warns(RuntimeWarning, match=r"a joint came off.*sampled again"):
        lifetimes, tasks = sampled(policy_of(distribution), distribution)
    assert broken
    assert lifetimes.mask.sum(0).tolist() == [9 if task["late"] else 15 for task in tasks]


def test_advantages_reach_over_the_episodes_of_a_lifetime() -> None:
    rng = np.random.default_rng(0)
    lengths, discount, decay = [6, 4], 0.9, 0.7
    mask = np.arange(6)[:, None] < np.array(lengths)
    rewards, values = rng.normal(size=(6, 2)).astype(np.float32) * mask, rng.normal(size=(6, 2))
    found = lifetime_advantages(rewards, values, mask, discount=discount, gae_lambda=decay)
    for row, length in enumerate(lengths):
        after = np.append(values[1:length, row], 0.0)
        residuals = rewards[:length, row] + discount * after - values[:length, row]
        expected = [
            sum((discount * decay) ** (later - step) * residuals[later] for later in range(step, length))
            for step in range(length)
        ]
        np.testing.assert_allclose(found[:length, row], expected)
    assert not found[4:, 1].any()


def test_a_new_scale_of_returns_leaves_the_values_as_they_are() -> None:
    parameters, inputs = init_critic(3, (5,), 0), torch.randn(7, 3)
    before = ValueScale(2.0, 0.5, known=True)
    after = before.followed(np.array([100.0, 140.0]))
    rescaled = after.rescaled(parameters, before)
    expected = before.mean + before.deviation * criticize(parameters, inputs)
    torch.testing.assert_close(after.mean + after.deviation * criticize(rescaled, inputs), expected)
    assert after.mean == pytest.approx(2.0 + 0.1 * 118.0)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("chunk_steps", [2, 4, 100])
def test_a_chunk_begins_in_the_state_that_was_sampled(cell: str, chunk_steps: int) -> None:
    """A pass over the data with a step of almost no length finds the policy that sampled: no divergence, no gain."""
    distribution = Sides()
    changes = {"rl2.chunk_steps": chunk_steps, "rl2.episodes": 3, "policy.memory.cell": cell, "meta_batch_size": 4}
    config = tiny({**changes, "rl2.learning_rate": 1e-12, "rl2.epochs": 1})
    policy = RecurrentPolicy(distribution.environment, config.policy)
    update = RL2(policy, config).iterate(distribution, policy.init(0), None, np.random.default_rng(0), in_turn).update
    assert abs(update.kl_divergence) < 1e-6
    assert abs(update.improvement) < 1e-6


def test_steps_that_move_the_policy_too_far_are_few_and_become_shorter() -> None:
    distribution = Sides()
    config = tiny({"rl2.learning_rate": 0.3, "rl2.epochs": 10, "rl2.max_kl": 0.01, "rl2.minibatches": 2})
    policy = RecurrentPolicy(distribution.environment, config.policy)
    algorithm, theta, rng = RL2(policy, config), policy.init(0), np.random.default_rng(0)
    for number in range(1, 5):
        theta = algorithm.iterate(distribution, theta, None, rng, in_turn).update.theta
        assert float(algorithm.optimizer_state["pace"]) == pytest.approx(0.7**number)
        assert float(algorithm.optimizer_state["adam.step.log_std"]) <= 2 * number  # of 20 in each iteration
    slow = tiny({"rl2.learning_rate": 1e-6, "rl2.epochs": 1})
    algorithm = RL2(policy, slow)
    algorithm.optimizer_state = {"pace": torch.tensor(0.5)}
    algorithm.iterate(distribution, policy.init(0), None, rng, in_turn)
    assert float(algorithm.optimizer_state["pace"]) == pytest.approx(0.55)


def test_the_gradient_reaches_the_initial_state_and_all_parameters() -> None:
    distribution = Sides()
    config = tiny({"rl2.episodes": 3, "policy.memory.cell": "lstm", "policy.memory.encoder_sizes": [4]})
    policy = RecurrentPolicy(distribution.environment, config.policy)
    theta = policy.init(0)
    update = RL2(policy, config).iterate(distribution, theta, None, np.random.default_rng(0), in_turn).update
    assert list(update.theta) == list(theta)
    for name, value in update.theta.items():
        assert not value.equal(theta[name]), name


def run(config: TrainConfig, directory: Path, **options: Any) -> list[Progress]:
    found: list[Progress] = []
    train(config, directory, on_iteration=found.append, **options)
    return found


def test_a_resumed_run_gives_the_same_bits_with_any_number_of_threads(tmp_path: Path) -> None:
    whole = run(tiny({"threads": 2}), tmp_path / "whole")
    run(tiny({"iterations": 2, "threads": 1}), tmp_path / "parts")
    resumed = run(tiny({"threads": 1}), tmp_path / "parts", resume=True)
    assert [each.post_return for each in resumed] == [each.post_return for each in whole[2:]]
    one, other = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert one.environment_steps == other.environment_steps
    for kept in ("parameters", "optimizer_state"):
        first, second = getattr(one, kept), getattr(other, kept)
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert value.equal(second[name]), name
    rows = [json.loads(line) for line in (tmp_path / "parts" / HISTORY_NAME).read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["return/post_adaptation"] for row in rows] == [each.post_return for each in whole]
    assert all(row["rl2/task_error"] > 0.0 for row in rows)


def test_the_moments_are_those_of_all_steps() -> None:
    distribution = Sides()
    policy = policy_of(distribution)
    both = [sampled(policy, distribution, episodes)[0] for episodes in (2, 3)]
    moments = RunningMoments({})
    for lifetimes in both:
        moments = RunningMoments(moments.state)
        moments.add(lifetimes)
    observations = np.concatenate([each.observations[each.mask] for each in both])
    rewards = np.concatenate([each.rewards[each.mask] for each in both])
    spec = moments.normalized(policy.spec)
    assert spec.observation_mean == pytest.approx(observations.mean(0), rel=1e-5)
    assert spec.observation_std == pytest.approx(observations.std(0), rel=1e-5)
    assert spec.memory is not None
    assert spec.memory.reward_scale == pytest.approx(1.0 / rewards.std(), rel=1e-5)


def test_the_normalization_is_measured_unless_it_is_given(tmp_path: Path) -> None:
    run(tiny({"iterations": 1}), tmp_path / "measured")
    state = load_checkpoint(tmp_path / "measured")
    spec = trained_spec(state)
    assert spec.memory is not None
    assert spec.memory.reward_scale is not None
    assert len(spec.observation_mean) == len(spec.observation_std) == 2
    assert state.optimizer_state["moments.count"] == state.environment_steps

    given = {"policy.observation_mean": [0.1, 0.2], "policy.observation_std": [2.0, 3.0]}
    run(tiny({"iterations": 1, **given, "policy.memory.reward_scale": 0.5}), tmp_path / "given")
    state = load_checkpoint(tmp_path / "given")
    assert trained_spec(state) == state.config.policy
    assert state.environment_steps <= 3 * 2 * 100  # no lifetimes but those of the iteration


def test_a_memory_learns_to_find_the_task_within_its_lifetime() -> None:
    """Nothing tells the side but the reward of the first action."""
    distribution = ManySides()
    config = tiny(
        {
            "meta_batch_size": 40,
            "policy.memory.size": 8,
            "rl2.epochs": 4,
            "rl2.minibatches": 2,
            "rl2.chunk_steps": 5,
            "rl2.learning_rate": 1e-2,
            "rl2.task_weight": 0.0,
            "policy.init_log_std": -0.5,
        }
    )
    policy = RecurrentPolicy(distribution.environment, config.policy)
    algorithm, theta, rng = RL2(policy, config), policy.init(0), np.random.default_rng(0)
    with task_threads(1):
        for _ in range(8):
            theta = algorithm.iterate(distribution, theta, None, rng, in_turn).update.theta
        tasks = distribution.sample_tasks(200, np.random.default_rng(99))
        lifetimes = collect_lifetimes(distribution, tasks, algorithm.policy, theta, 2, rng=np.random.default_rng(98))
    first, second = lifetimes.returns(2).mean(1)
    assert first > 2.5  # of 5; a policy without memory earns 0
    assert second > first + 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation.inner_steps": 2}, "adaptation.inner_steps is 2, which method 'rl2' does not use"),
        ({"adaptation.curvature": "dice"}, "adaptation.curvature is 'dice', which method 'rl2' does not use"),
        ({"adaptation.first_order": True}, "adaptation.first_order is True, which method 'rl2' does not use"),
        ({"policy.context_size": 3}, "context_size is 3; method 'rl2' takes 0"),
        ({"policy.module": "a:B"}, "module is 'a:B'; method 'rl2' takes ''"),
        ({"outer_loop": "promp"}, "outer_loop is 'promp', which method 'rl2' does not use; leave it out"),
        ({"outer_lr": 0.1}, "outer_lr is 0.1, which method 'rl2' does not use; set rl2.learning_rate"),
        ({"learn_step_sizes": True}, "learn_step_sizes is True, which method 'rl2' does not use; leave it out"),
        ({"support_trajectories": 3}, "support_trajectories is 3, which method 'rl2' does not use"),
        ({"method": "maml", "policy.memory.size": None}, "rl2 has settings, with method 'maml'"),
        ({"rl2.episodes": 0}, "rl2.episodes: Input should be greater than 0"),
        ({"policy.memory.cell": "rnn"}, "policy.memory.cell: Input should be 'gru' or 'lstm'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    kept = {name: value for name, value in {**TINY, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(None, kept)


def test_a_run_that_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 10**9)
    config = tiny({"meta_batch_size": 5_000, "rl2.episodes": 50})
    resources.check_memory(PointNavigationTasks.environment, tiny())
    with pytest.raises(resources.NotEnoughMemoryError, match=r"5000 lifetimes of 50 episodes of 100 steps need .* GB"):
        resources.check_memory(PointNavigationTasks.environment, config)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short oracle's run, with another normalization and context."""
    folder = tmp_path_factory.mktemp("oracle")
    own = {"policy.observation_mean": [0.1, -0.2], "policy.observation_std": [0.5, 2.0], "policy.context_size": 2}
    shared = {"policy.hidden_sizes": [8], "tracker": "none", "meta_batch_size": 2, "iterations": 1}
    train(load_config(None, {"tasks": "point-navigation", "method": "oracle", **shared, **own}), folder)
    return folder


@pytest.mark.parametrize("given", [{}, {"policy.observation_mean": [0.3, 0.1], "policy.observation_std": [0.7, 0.2]}])
def test_a_memory_that_says_the_task_makes_the_policy_the_oracle(
    oracle: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    still = {"rl2.learning_rate": 1e-12, "rl2.epochs": 1, "iterations": 1, "policy.memory.size": 9}
    run(tiny({**still, **given}), tmp_path / "warm", warm_start=oracle)
    state, told = load_checkpoint(tmp_path / "warm"), load_checkpoint(oracle)
    distribution = PointNavigationTasks()
    # The moments before the iteration's own lifetimes are not kept: those of the first layer are near.
    policy = RecurrentPolicy(distribution.environment, trained_spec(state))
    tasks = distribution.sample_tasks(6, np.random.default_rng(1))
    observations = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))
    vectors = torch.from_numpy(np.stack([task_vector(task) for task in tasks]))
    normalized = TaskScale.measure(distribution, 0).normalized(tasks)
    projection = state.optimizer_state["task.weight"]
    said = normalized @ torch.linalg.pinv(projection).T
    torch.testing.assert_close(said @ projection.T, normalized)
    mean, factor = policy.normalization
    head = Policy(
        distribution.environment.model_copy(update={"observation_shape": (11,)}), PolicySpec(hidden_sizes=(8,))
    )
    found = head.head(state.parameters, torch.cat([(observations - mean) * factor, said], 1))
    network = oracle_policy(OracleTasks(distribution).environment, told.config.policy)
    expected = network.head(told.parameters, torch.cat([observations, vectors], 1))
    tolerance = 1e-4 if given else 0.3 * float(expected.detach().std())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)
    assert state.parameters["log_std"].allclose(told.parameters["log_std"])
    assert state.environment_steps > told.environment_steps
    assert state.warm_start is not None
    assert state.warm_start.environment_steps == told.environment_steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl2.task_weight": 0.0}, "rl2.task_weight is 0; expected more, such as 0.5"),
        ({"policy.memory.size": 1}, "policy.memory.size is 1; expected 2 or more"),
        ({"policy.hidden_sizes": [9]}, "policy.hidden_sizes of that run is (8,); expected (9,)"),
        ({"policy.activation": "tanh"}, "policy.activation of that run is 'relu'; expected 'tanh'"),
        (
            {"tasks": "half-cheetah-velocity"},
            "tasks of that run is 'point-navigation'; expected 'half-cheetah-velocity'",
        ),
    ],
)
def test_an_oracle_that_does_not_fit_is_refused(
    oracle: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"warm start: {message}")):
        train(tiny(changes), tmp_path / "new", warm_start=oracle)


def test_a_memory_needs_its_method() -> None:
    with pytest.raises(ValueError, match="memory is 'gru', with method 'maml'; expected method 'rl2'"):
        load_config(None, {"tasks": "point-navigation", "policy.memory.cell": "gru"})


def test_the_method_brings_a_memory() -> None:
    assert load_config(None, {"tasks": "point-navigation", "method": "rl2"}).policy.memory == MemorySpec()
