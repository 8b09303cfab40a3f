"""The options that name an environment, and the environment that they name."""

import importlib
import json
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import gymnasium

    from thetaprime.training.tasks import TaskDistribution

_TASK_SEED: Final = 2026
"""Of the task that is sampled where none is given. Evaluations use streams of their own."""
_OUR_NAMESPACE: Final = "thetaprime/"
_OUR_MODULE: Final = "thetaprime.training"


class KeyJson(click.ParamType[tuple[str, Any]]):
    """An argument of the environment, as ``KEY=JSON``."""

    name = "KEY=JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parses one argument of the environment."""
        key, separator, text = str(value).partition("=")
        if not separator or not key.isidentifier():
            self.fail(f"{value!r}; expected KEY=JSON, such as goal=[0.3,-0.2]", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            self.fail(f"{key}={text}; {text!r} is not JSON (text takes double quotes)", param, ctx)


def importing_id(env_id: str) -> str:
    """The id with which gymnasium imports the module that registers the environment, for ours: ``module:Id``."""
    return f"{_OUR_MODULE}:{env_id}" if env_id.startswith(_OUR_NAMESPACE) else env_id


def make_environment(env_id: str, arguments: dict[str, Any]) -> "gymnasium.Env[Any, Any]":
    """Makes the environment without gymnasium's checker: `check_environment` compares it with the policy's contract.

    Args:
        env_id: of Gymnasium, or ``package.module:Class`` of a task distribution, which makes one task's environment.
        arguments: of the environment; or the task's numbers, of which the others are sampled.
    """
    import gymnasium

    try:
        tasks = _task_distribution(env_id)
        if tasks is not None:
            return _environment_of_task(tasks, arguments)
        return gymnasium.make(importing_id(env_id), disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise click.BadParameter(f"{env_id}: {error}", param_hint="--env") from error


def _task_distribution(env_id: str) -> "TaskDistribution | None":
    """The task distribution that an id names; None where it is an id of Gymnasium."""
    module_name, colon, class_name = env_id.partition(":")
    if not colon or not class_name.isidentifier():
        return None
    from thetaprime.training.tasks.distributions import resolve_tasks, search_working_directory

    search_working_directory()
    if not hasattr(importlib.import_module(module_name), class_name):
        return None
    return resolve_tasks(env_id)


def _environment_of_task(tasks: "TaskDistribution", numbers: dict[str, Any]) -> "gymnasium.Env[Any, Any]":
    import numpy as np

    (sampled,) = tasks.sample_tasks(1, np.random.default_rng(_TASK_SEED))
    if unknown := numbers.keys() - sampled.keys():
        raise ValueError(f"a task has no {', '.join(sorted(unknown))}; expected some of {', '.join(sampled)}")
    return tasks.make({**sampled, **numbers})
