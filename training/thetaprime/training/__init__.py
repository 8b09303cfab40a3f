"""Meta-training and evaluation of policies: task distributions, sampling, algorithms, evaluation, export.

Importing this package registers its environments with Gymnasium. It imports neither torch nor a simulator: a public
name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

from thetaprime.training import registration as registration

if TYPE_CHECKING:
    from thetaprime.training.config import (
        TrainConfig,
        load_config,
    )
    from thetaprime.training.evaluation.evaluation import EvaluationPlan, evaluate
    from thetaprime.training.evaluation.scores import Evaluation
    from thetaprime.training.export.export import (
        compare_meta_policy,
        export_meta_policy,
    )
    from thetaprime.training.export.request import CompareRequest, ExportRequest
    from thetaprime.training.run import (
        Progress,
        train,
    )
    from thetaprime.training.tasks import (
        BatchedTaskDistribution,
        Task,
        TaskDistribution,
        check_task_distribution,
        resolve_tasks,
    )

__all__ = [
    "BatchedTaskDistribution",
    "CompareRequest",
    "Evaluation",
    "EvaluationPlan",
    "ExportRequest",
    "Progress",
    "Task",
    "TaskDistribution",
    "TrainConfig",
    "check_task_distribution",
    "compare_meta_policy",
    "evaluate",
    "export_meta_policy",
    "load_config",
    "resolve_tasks",
    "train",
]

_MODULES: Final = {
    "BatchedTaskDistribution": "tasks",
    "CompareRequest": "export.request",
    "Evaluation": "evaluation.scores",
    "EvaluationPlan": "evaluation.evaluation",
    "ExportRequest": "export.request",
    "Progress": "run",
    "Task": "tasks",
    "TaskDistribution": "tasks",
    "TrainConfig": "config",
    "check_task_distribution": "tasks",
    "compare_meta_policy": "export.export",
    "evaluate": "evaluation.evaluation",
    "export_meta_policy": "export.export",
    "load_config": "config",
    "resolve_tasks": "tasks",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: the configuration comes without torch, whose import takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
