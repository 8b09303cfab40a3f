"""Learning curves of a run, which every run writes into its folder, with any tracker."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

HISTORY_NAME: Final = "history.jsonl"
LOG_FOLDER: Final = "tensorboard"
STEPS, PRE, POST = "run/environment_steps", "return/pre_adaptation", "return/post_adaptation"
_ITERATION: Final = "iteration"


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


def append_history(directory: Path, scalars: Mapping[str, float], iteration: int) -> None:
    """Adds the measurements of an iteration to the run's curves."""
    with (directory / HISTORY_NAME).open("a") as file:
        file.write(json.dumps({_ITERATION: iteration, **scalars}) + "\n")


def read_history(directory: Path) -> History | None:
    """The learning curves of the run in a folder; None without any.

    Runs of earlier versions have them in their TensorBoard logs alone.
    """
    rows: dict[int, Mapping[str, float]] = {}
    if (directory / LOG_FOLDER).is_dir():
        rows |= _tensorboard_rows(directory / LOG_FOLDER)
    if (directory / HISTORY_NAME).is_file():
        for line in (directory / HISTORY_NAME).read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the run was killed while it wrote this line
                continue
            # A resumed run repeats the iterations after its checkpoint: the later row counts.
            rows[row[_ITERATION]] = row
    if not rows:
        return None
    return History(*(np.array([rows[index][tag] for index in sorted(rows)]) for tag in (STEPS, PRE, POST)))


def _tensorboard_rows(folder: Path) -> dict[int, Mapping[str, float]]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return {}
    logs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    logs.Reload()
    if STEPS not in logs.Tags()["scalars"]:
        return {}
    rows: dict[int, dict[str, float]] = {}
    for tag in (STEPS, PRE, POST):
        for event in logs.Scalars(tag):
            rows.setdefault(event.step, {})[tag] = event.value
    return {step: row for step, row in rows.items() if len(row) == len((STEPS, PRE, POST))}
