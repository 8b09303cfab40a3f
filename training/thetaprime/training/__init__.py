"""Meta-training and evaluation: task distributions, simulators, sampler, outer loop, export."""

from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.evaluation.evaluation import evaluate
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.export import ExportRequest, export
from thetaprime.training.run import Progress, train
from thetaprime.training.tasks import (
    BatchedTaskDistribution,
    Task,
    TaskDistribution,
    check_task_distribution,
    resolve_tasks,
)

__all__ = [
    "BatchedTaskDistribution",
    "Evaluation",
    "ExportRequest",
    "Progress",
    "Task",
    "TaskDistribution",
    "TrainConfig",
    "check_task_distribution",
    "evaluate",
    "export",
    "load_config",
    "resolve_tasks",
    "train",
]
