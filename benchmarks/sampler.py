"""Compares the sampler with other simulators: 400 half-cheetahs or ants, 20 policies θ′ with 20 robots each, all cores.

Four ways to step them are timed alternately, in microseconds per environment step:

| way | description |
|---|---|
| sampler | `thetaprime.training.sampling.sampler.collect`, from reset to trajectory batches |
| bare | `mujoco.rollout` once per environment step, without policy, reward or observation |
| EnvPool | 400 half-cheetahs or ants of `envpool`, in a loop with the same policies |
| AsyncVectorEnv | this project's single environments, one per process, in the same loop; best number of processes |

All use Gymnasium's robot models and one thread per core. The cost of the physics depends on contacts, so the bare way
replays controls that the same policies chose in a closed loop. An ant with larger actions would fall, and the sampler
does not simulate fallen robots: the ants' policies act so little that every episode lasts to the horizon.
"""

import dataclasses
import gc
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from mujoco import rollout

from benchmarks.measure import Row, machine
from thetaprime.models import EnvironmentContract, Parameters, Policy, PolicySpec
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import available_cores
from thetaprime.training.run import Progress, train
from thetaprime.training.sampling.sampler import collect, stack
from thetaprime.training.tasks import Task
from thetaprime.training.tasks.distributions import AntDirectionTasks, HalfCheetahDirectionTasks, LocomotionTasks
from thetaprime.training.tasks.environments.locomotion import LocomotionVector

TASKS, TRAJECTORIES = 20, 20
ROBOTS = TASKS * TRAJECTORIES
ROUNDS = 5
PROCESSES = (2, 4, 8, 16)
Step = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Short:
    """A task distribution with a shorter horizon, for a shorter benchmark."""

    tasks: LocomotionTasks
    horizon: int

    @property
    def environment(self) -> EnvironmentContract:
        """The contract of the tasks, with the shorter horizon."""
        return self.tasks.environment.model_copy(update={"horizon": self.horizon})

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples tasks of the distribution."""
        return self.tasks.sample_tasks(count, rng)

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes one robot."""
        return gymnasium.make(
            self.environment.environment_id,
            goal=task["goal"],
            max_episode_steps=self.horizon,
            disable_env_checker=True,
        )

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one robot per task."""
        goals = [task["goal"] for task in tasks]
        return LocomotionVector(self.tasks.body, self.tasks.kind, goals, len(tasks), max_episode_steps=self.horizon)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The tasks and policies that all ways share."""

    distribution: Short
    policy: Policy
    parameters: list[Parameters]

    def loop(self, observations: npt.NDArray[Any], step: Step, robots: int) -> int:
        """Runs the policies in a loop with an environment; returns the number of environment steps."""
        tasks = min(TASKS, robots)
        stacked = stack(self.parameters[:tasks])
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.policy.environment.horizon):
            flat = torch.from_numpy(observations.astype(np.float32))
            sampled = self.policy.sample(stacked, flat.view(tasks, robots // tasks, -1), generator)
            observations = step(self.policy.to_environment(sampled).flatten(0, 1).numpy())
        return robots * self.policy.environment.horizon


def rows() -> list[Row]:
    """Compares the sampler with the three others for each robot, and measures its share of meta-training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as meta-training does
    try:
        return [
            *_robot_rows("half-cheetah", "HalfCheetah-v4", HalfCheetahDirectionTasks(), 200, PolicySpec()),
            *_robot_rows(
                "ant", "Ant-v4", AntDirectionTasks(), 50, PolicySpec(init_output_scale=0.01, init_log_std=-2.0)
            ),
            _share_row(),
        ]
    finally:
        torch.set_num_threads(threads)


def _robot_rows(name: str, envpool_id: str, tasks: LocomotionTasks, horizon: int, spec: PolicySpec) -> list[Row]:
    distribution = Short(tasks, horizon)
    policy = Policy(distribution.environment, spec)
    setting = Setting(distribution, policy, [policy.init(seed) for seed in range(TASKS)])
    with _processes(setting) as (count, in_processes):
        ways = {"sampler": _sampler(setting), "mujoco.rollout": _bare(setting), "AsyncVectorEnv": in_processes}
        if importlib.util.find_spec("envpool"):  # our bench extra has it on Linux
            ways["EnvPool"] = _envpool(setting, envpool_id)
        times = _in_turn(ways)
    # Equivalent to 0.85, 1.3 and 1.6 times the reference's steps per second.
    references = {
        "mujoco.rollout": ("bare mujoco.rollout", 1.176),
        "EnvPool": ("EnvPool", 0.769),
        "AsyncVectorEnv": (f"AsyncVectorEnv of {count}", 0.625),
    }
    return [
        _row(f"{name}: a step of the sampler / of {title}", times["sampler"], times[key], "µs", budget)
        for key, (title, budget) in references.items()
        if key in times
    ]


def _row(name: str, ours: float, reference: float, unit: str, budget: float) -> Row:
    return Row(name, ours, reference, unit, ours / reference, budget, ours / reference <= budget, machine())


def _in_turn(ways: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Times functions that return their number of environment steps; returns median microseconds per step."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.perf_counter()
                steps = way()
                times[name].append((time.perf_counter() - started) / steps * 1e6)
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in times.items()}


def _sampler(setting: Setting) -> Callable[[], int]:
    tasks = setting.distribution.sample_tasks(TASKS, np.random.default_rng(0))

    def run() -> int:
        rng = np.random.default_rng(1)
        batches = collect(setting.distribution, tasks, setting.policy, setting.parameters, TRAJECTORIES, rng=rng)
        return sum(sum(batch.lengths) for batch in batches)

    steps, expected = run(), ROBOTS * setting.distribution.horizon
    if steps != expected:
        raise RuntimeError(f"robots fell: {steps} of {expected} steps; the comparison needs equal numbers")
    return run


def _bare(setting: Setting) -> Callable[[], int]:
    body, horizon = setting.distribution.tasks.body, setting.distribution.horizon
    model, cores = body.model, available_cores()
    models, data = [model] * ROBOTS, [mujoco.MjData(model) for _ in range(cores)]
    pool = rollout.Rollout(nthread=cores)
    start = np.zeros((ROBOTS, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)))
    rng = np.random.default_rng(1)
    for row in start:
        row[1:] = np.concatenate(body.initial(rng))
    initial = start.copy()
    states = np.empty((ROBOTS, body.frame_skip, start.shape[1]))
    sensors = np.empty((ROBOTS, body.frame_skip, model.nsensordata))

    def step(controls: npt.NDArray[np.float64]) -> None:
        pool.rollout(
            models,
            data,
            initial,
            controls,
            skip_checks=True,
            nstep=body.frame_skip,
            state=states,
            sensordata=sensors,
        )
        initial[:] = states[:, -1]

    chosen: list[npt.NDArray[np.float64]] = []

    def observe() -> npt.NDArray[np.float64]:
        return body.observe(initial[:, 1 : 1 + model.nq], initial[:, 1 + model.nq :])

    def choose(actions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        chosen.append(np.repeat(actions[:, None].astype(np.float64), body.frame_skip, axis=1))
        step(chosen[-1])
        return observe()

    setting.loop(observe(), choose, ROBOTS)

    def run() -> int:
        initial[:] = start
        for controls in chosen:
            step(controls)
        return ROBOTS * horizon

    return run


def _envpool(setting: Setting, envpool_id: str) -> Callable[[], int]:
    import envpool

    env = envpool.make_gymnasium(
        envpool_id,
        num_envs=ROBOTS,
        num_threads=available_cores(),
        max_episode_steps=setting.distribution.horizon,
        seed=1,
    )

    def step(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        observations: npt.NDArray[Any] = env.step(actions.astype(np.float64))[0]
        return observations

    def run() -> int:
        return setting.loop(env.reset()[0], step, ROBOTS)

    run()
    return run


@contextmanager
def _processes(setting: Setting) -> Iterator[tuple[int, Callable[[], int]]]:
    """Yields the fastest number of processes, and a function that runs them."""
    # No fork: threads of MuJoCo, EnvPool and torch in this process may hold locks.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__", __name__])
    (task,) = setting.distribution.sample_tasks(1, np.random.default_rng(0))
    best: dict[int, float] = {}

    def make() -> gymnasium.Env[Any, Any]:
        return setting.distribution.make(task)

    def start(count: int, opened_in: ExitStack) -> Callable[[], int]:
        env = AsyncVectorEnv([make] * count, context="forkserver")
        opened_in.callback(env.close)

        def step(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
            observations: npt.NDArray[Any] = env.step(actions)[0]
            return observations

        def run() -> int:
            return setting.loop(env.reset(seed=1)[0], step, count)

        run()
        return run

    for count in PROCESSES:
        with ExitStack() as opened:
            run = start(count, opened)
            started = time.perf_counter()
            steps = sum(run() for _ in range(2))
            best[count] = (time.perf_counter() - started) / steps
    with ExitStack() as opened:
        count = min(best, key=best.__getitem__)
        yield count, start(count, opened)


def _share_row() -> Row:
    """Measures the share of a meta-training iteration spent outside sampling."""
    shares: list[float] = []
    seconds: list[float] = []
    config = TrainConfig(tasks="half-cheetah-direction", iterations=3, meta_batch_size=TASKS, threads=available_cores())
    with tempfile.TemporaryDirectory(prefix="thetaprime-bench-") as folder:

        def ended(progress: Progress) -> None:
            shares.append(1.0 - progress.sampling_share)
            seconds.append(time.perf_counter())

        seconds.append(time.perf_counter())
        train(config, Path(folder), on_iteration=ended)
    # The first iteration warms up.
    whole = float(statistics.median(np.diff(seconds)[1:]))
    return _row(
        "half-cheetah-direction: meta-training outside of sampling / a whole iteration",
        statistics.median(shares[1:]) * whole,
        whole,
        "s",
        0.3,
    )
