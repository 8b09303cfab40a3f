"""The oracle's tasks: the policy observes the task (Finn et al. 2017, section 5.3)."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TransformObservation
from gymnasium.wrappers.vector import TransformObservation as TransformVectorObservation

from thetaprime.models import EnvironmentContract, Policy, PolicySpec
from thetaprime.training.tasks.distributions import make_vector
from thetaprime.training.tasks.environment_share import Loss
from thetaprime.training.tasks.networks import make_policy
from thetaprime.training.tasks.protocol import Park, Task, TaskDistribution


def task_vector(task: Task) -> npt.NDArray[np.float32]:
    """The task's parameters as one vector, sorted by name."""
    return np.concatenate([np.atleast_1d(np.asarray(task[name], np.float32)) for name in sorted(task)])


def oracle_policy(environment: EnvironmentContract, spec: PolicySpec) -> Policy:
    """The network of an oracle, whose normalization leaves the task's parameters unchanged.

    Args:
        environment: of `OracleTasks`.
        spec: of the policy that the oracle is compared with.
    """
    size = environment.observation_size
    mean, std = spec.observation_mean, spec.observation_std
    changes = {
        "observation_mean": mean and (*mean, *[0.0] * (size - len(mean))),
        "observation_std": std and (*std, *[1.0] * (size - len(std))),
    }
    return make_policy(environment, spec.model_copy(update=changes))


class OracleTasks:
    """A task distribution with the task's parameters appended to each (flattened) observation.

    Args:
        distribution: makes the tasks and their environments.
    """

    def __init__(self, distribution: TaskDistribution) -> None:
        self._distribution = distribution
        task_size = len(task_vector(distribution.sample_tasks(1, np.random.default_rng(0))[0]))
        size = distribution.environment.observation_size + task_size
        self.environment: EnvironmentContract = distribution.environment.model_copy(
            update={"observation_shape": (size,)}
        )
        self._space = Box(-np.inf, np.inf, (size,), np.float32)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples tasks from the distribution."""
        return self._distribution.sample_tasks(count, rng)

    @property
    def task_dimensions(self) -> int:
        """As the distribution has it; no attribute if it has none."""
        dimensions: int = self._distribution.task_dimensions  # type: ignore[attr-defined]
        return dimensions

    @property
    def tasks_at(self) -> Callable[[npt.NDArray[np.float64]], Sequence[Task]]:
        """The distribution's method; no attribute if it has none."""
        method: Callable[[npt.NDArray[np.float64]], Sequence[Task]] = self._distribution.tasks_at  # type: ignore[attr-defined]
        return method

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the task's environment, with the task in its observation."""
        return _ObservedTask(self._distribution.make(task), task_vector(task), self._space)

    @property
    def set_task(self) -> Callable[[gymnasium.Env[Any, Any], Task], None]:
        """Gives an environment another task; no attribute if the distribution has no such method."""
        tell: Callable[[gymnasium.Env[Any, Any], Task], None] = self._distribution.set_task  # type: ignore[attr-defined]

        def set_task(env: gymnasium.Env[Any, Any], task: Task) -> None:
            if not isinstance(env, _ObservedTask):
                raise TypeError(f"env: {env}; expected an environment that make made")
            tell(env.env, task)
            env.parameters = task_vector(task)

        return set_task

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes the tasks' environments, with each task in its observation."""
        parameters = np.stack([task_vector(task) for task in tasks])
        return _OracleVector(
            make_vector(self._distribution, tasks),
            lambda observation: _join(np.reshape(observation, (len(tasks), -1)), parameters),
            single_observation_space=self._space,
        )


class _ObservedTask(TransformObservation[Any, Any, Any]):
    """An environment whose observations hold the task's parameters."""

    def __init__(self, env: gymnasium.Env[Any, Any], parameters: npt.NDArray[np.float32], space: Box) -> None:
        super().__init__(env, lambda observation: _join(np.ravel(observation), self.parameters), space)
        self.parameters = parameters


class _OracleVector(TransformVectorObservation[Any, Any, Any]):
    """A vector environment with the tasks in the observations. It parks environments if the one inside does."""

    @property
    def tolerate(self) -> Callable[[], list[Loss]] | None:
        """The method `tolerate` of the environment inside; None without one."""
        return getattr(self.env, "tolerate", None)

    @property
    def park(self) -> Park | None:
        """The method `park` of the environment inside; None without one."""
        return getattr(self.env, "park", None)


def _join(observation: npt.NDArray[Any], parameters: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.concatenate([observation, parameters], axis=-1, dtype=np.float32, casting="unsafe")
