"""Task distributions by name."""

import importlib
from typing import Final

from thetaprime.training.tasks.point_navigation import PointNavigationTasks
from thetaprime.training.tasks.protocol import TaskDistribution

TASKS_OF_RECORD: Final[dict[str, type[TaskDistribution]]] = {
    "point-navigation": PointNavigationTasks,
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
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"tasks: {reference!r} cannot be made: {error}") from error
    if not isinstance(made, TaskDistribution):
        raise ValueError(f"tasks: {reference!r} lacks a member of TaskDistribution: environment, sample_tasks or make")
    return made
