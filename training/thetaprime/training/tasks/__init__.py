"""Distributions of tasks: what they are, ours, and yours."""

from thetaprime.training.sampling.vector_env import make_vector
from thetaprime.training.sampling.worker_pool import WorkerError
from thetaprime.training.tasks.conformance import check_task_distribution
from thetaprime.training.tasks.oracle import OracleTasks, oracle_policy, task_vector
from thetaprime.training.tasks.point_navigation import PointNavigationTasks
from thetaprime.training.tasks.protocol import BatchedTaskDistribution, Park, Task, TaskDistribution
from thetaprime.training.tasks.registry import TASKS_OF_RECORD, resolve_tasks

__all__ = [
    "TASKS_OF_RECORD",
    "BatchedTaskDistribution",
    "OracleTasks",
    "Park",
    "PointNavigationTasks",
    "Task",
    "TaskDistribution",
    "WorkerError",
    "check_task_distribution",
    "make_vector",
    "oracle_policy",
    "resolve_tasks",
    "task_vector",
]
