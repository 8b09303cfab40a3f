"""Task distributions: their interface, the shipped ones, their environments, and the contract test."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from thetaprime.training.tasks.bodies.family import BodyState, MujocoTasks
    from thetaprime.training.tasks.bodies.variations import scale_model
    from thetaprime.training.tasks.conformance import check_task_distribution
    from thetaprime.training.tasks.distributions import (
        BODY_TASKS,
        TASKS_OF_RECORD,
        PointNavigationTasks,
        make_vector,
        resolve_tasks,
    )
    from thetaprime.training.tasks.oracle import (
        OracleTasks,
        oracle_policy,
        task_vector,
    )
    from thetaprime.training.tasks.protocol import (
        BatchedTaskDistribution,
        Park,
        SettableTaskDistribution,
        SpreadTaskDistribution,
        Task,
        TaskDistribution,
    )
    from thetaprime.training.tasks.worker_pool import WorkerError

__all__ = [
    "BODY_TASKS",
    "TASKS_OF_RECORD",
    "BatchedTaskDistribution",
    "BodyState",
    "MujocoTasks",
    "OracleTasks",
    "Park",
    "PointNavigationTasks",
    "SettableTaskDistribution",
    "SpreadTaskDistribution",
    "Task",
    "TaskDistribution",
    "WorkerError",
    "check_task_distribution",
    "make_vector",
    "oracle_policy",
    "resolve_tasks",
    "scale_model",
    "task_vector",
]

_MODULES: Final = {
    "BODY_TASKS": "thetaprime.training.tasks.distributions",
    "BodyState": "thetaprime.training.tasks.bodies.family",
    "MujocoTasks": "thetaprime.training.tasks.bodies.family",
    "scale_model": "thetaprime.training.tasks.bodies.variations",
    "BatchedTaskDistribution": "thetaprime.training.tasks.protocol",
    "OracleTasks": "thetaprime.training.tasks.oracle",
    "Park": "thetaprime.training.tasks.protocol",
    "PointNavigationTasks": "thetaprime.training.tasks.distributions",
    "SettableTaskDistribution": "thetaprime.training.tasks.protocol",
    "SpreadTaskDistribution": "thetaprime.training.tasks.protocol",
    "TASKS_OF_RECORD": "thetaprime.training.tasks.distributions",
    "Task": "thetaprime.training.tasks.protocol",
    "TaskDistribution": "thetaprime.training.tasks.protocol",
    "WorkerError": "thetaprime.training.tasks.worker_pool",
    "check_task_distribution": "thetaprime.training.tasks.conformance",
    "make_vector": "thetaprime.training.tasks.distributions",
    "oracle_policy": "thetaprime.training.tasks.oracle",
    "resolve_tasks": "thetaprime.training.tasks.distributions",
    "task_vector": "thetaprime.training.tasks.oracle",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, without the simulators that others need."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
