"""Task distributions by name."""

import importlib
import sys
from pathlib import Path
from typing import Final

from thetaprime.training.tasks.locomotion import (
    AntDirectionTasks,
    AntVelocityTasks,
    HalfCheetahDirectionTasks,
    HalfCheetahVelocityTasks,
)
from thetaprime.training.tasks.point_navigation import PointNavigationTasks
from thetaprime.training.tasks.protocol import TaskDistribution

TASKS_OF_RECORD: Final[dict[str, type[TaskDistribution]]] = {
    "point-navigation": PointNavigationTasks,
    "half-cheetah-velocity": HalfCheetahVelocityTasks,
    "half-cheetah-direction": HalfCheetahDirectionTasks,
    "ant-velocity": AntVelocityTasks,
    "ant-direction": AntDirectionTasks,
}


def resolve_tasks(reference: str) -> TaskDistribution:
    """The task distribution that a person names.

    Args:
        reference: a name of ours (``point-navigation``), or ``package.module:Class`` for a class that can be made
            without arguments.

    Raises:
        ValueError: there is no such name or class, or it is not a `TaskDistribution`.
    """
    if reference in TASKS_OF_RECORD:
        return TASKS_OF_RECORD[reference]()
    module_name, colon, class_name = reference.partition(":")
    if not colon:
        raise ValueError(
            f"tasks: {reference!r} is unknown; expected one of {', '.join(TASKS_OF_RECORD)}, or package.module:Class"
        )
    # A console script does not look there by itself, and it is where a person's own module is.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"tasks: {reference!r} cannot be made: {error}") from error
    if not isinstance(made, TaskDistribution):
        raise ValueError(f"tasks: {reference!r} lacks a member of TaskDistribution: environment, sample_tasks or make")
    return made
