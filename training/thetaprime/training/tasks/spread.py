"""Meta-batches whose tasks are spread evenly.

Each task is distributed as `sample_tasks` has it. The mean over spread tasks has less noise than over independent ones.
"""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from thetaprime.training.tasks.protocol import SpreadTaskDistribution, Task, TaskDistribution


def spread_tasks(distribution: TaskDistribution, count: int, rng: np.random.Generator) -> Sequence[Task]:
    """Samples tasks at the points of a lattice with a random shift.

    Raises:
        ValueError: the distribution makes no tasks of points.
    """
    if not can_spread(distribution):
        raise ValueError(
            f"spread_tasks: true; {type(distribution).__name__} lacks task_dimensions or tasks_at(points), which makes "
            "a task of each point of the unit cube: define both, or leave spread_tasks out"
        )
    return distribution.tasks_at(shifted_lattice(count, distribution.task_dimensions, rng))


def can_spread(distribution: TaskDistribution) -> TypeGuard[SpreadTaskDistribution]:
    """Whether a distribution makes tasks of points."""
    return hasattr(distribution, "tasks_at") and hasattr(distribution, "task_dimensions")


def shifted_lattice(count: int, dimensions: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[count, dimensions]: points of the unit cube, each uniform, together almost as even as a grid.

    Point n is (n / count, n / φ, n / φ², …) modulo 1, with φ the positive root of φ^d = φ + 1 for d dimensions, which
    is the golden ratio in two. One uniform vector shifts all points (Cranley and Patterson 1976). At last each
    coordinate x becomes 1 − |2x − 1|, so that functions whose values at 0 and 1 differ gain as much (Hickernell 2002).
    """
    ratio = 2.0
    for _ in range(64):
        ratio = (1.0 + ratio) ** (1.0 / dimensions)
    number = np.arange(count)[:, None]
    points = np.concatenate([number / count, number * ratio ** -np.arange(1.0, dimensions)], axis=1)
    folded: npt.NDArray[np.float64] = 1.0 - np.abs(2.0 * ((points + rng.random(dimensions)) % 1.0) - 1.0)
    return folded
