"""Learning curves of a run, read from its TensorBoard logs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LOG_FOLDER = "tensorboard"
STEPS, PRE, POST = "run/environment_steps", "return/pre_adaptation", "return/post_adaptation"


@dataclasses.dataclass(frozen=True)
class History:
    """Learning curves: one number for each iteration.

    Attributes:
        environment_steps: total so far.
        pre_return: mean undiscounted return before adaptation.
        post_return: mean undiscounted return after adaptation; of the policy itself in runs without inner steps.
    """

    environment_steps: npt.NDArray[np.float64]
    pre_return: npt.NDArray[np.float64]
    post_return: npt.NDArray[np.float64]


def read_history(directory: Path) -> History | None:
    """The learning curves of the run in a folder; None without its logs."""
    if not (directory / LOG_FOLDER).is_dir():
        return None
    logs = EventAccumulator(str(directory / LOG_FOLDER), size_guidance={"scalars": 0})
    logs.Reload()
    if STEPS not in logs.Tags()["scalars"]:
        return None
    return History(*(_values(logs.Scalars(tag)) for tag in (STEPS, PRE, POST)))


def _values(events: list[Any]) -> npt.NDArray[np.float64]:
    # A resumed run repeats the iterations after its checkpoint: the later value counts.
    latest = {event.step: event.value for event in events}
    return np.array([latest[step] for step in sorted(latest)])
