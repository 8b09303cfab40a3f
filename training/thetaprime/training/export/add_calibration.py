"""Adds the calibration of verdicts to artifacts that were exported without it, or with an earlier one.

Run ``python -m thetaprime.training.export.add_calibration [FOLDER ...]``. It simulates two rounds of fresh
meta-training tasks, as a session would collect them, hands each task to every measurer, and writes the measured tensors
to reference.safetensors, under names with the prefix ``calibration.``, and the manifest again. Every other file and
tensor stays unchanged. Without a folder, it does so for every artifact of the zoo. The same artifact gives the same
bytes again on one kind of processor.

Another measurer joins by an entry in `MEASURERS`. It sees the same simulated rounds, so it costs no simulation:

1. `MEASURERS[name](meta_policy, pilot)` is called once with the rounds of the pilot tasks. A measurer that fits
   anything, such as a whitening of its features, fits it there: held-out tasks then stay exchangeable with the tasks of
   sessions.
2. `observe(rounds)` is called once for each held-out task. It returns tensors by name, of the same names and shapes
   each time. `TaskRounds` says which batches are independent: `fresh.returns` measures R_0 and `second.returns` R_1
   without bias, and their standard errors are those of N independent episodes.
3. `finish(observed)` is called once with those tensors, stacked over the T held-out tasks. It returns the tensors to
   store, by names that begin with ``calibration.``.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch

from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    Parameters,
    find_meta_policies,
    load_meta_policy,
    moving_parameters,
    zoo_directory,
)
from thetaprime.models.artifact import REFERENCE_NAME
from thetaprime.models.manifest import MANIFEST_NAME
from thetaprime.models.parameters import digest_bytes, parameters_to_bytes
from thetaprime.models.verdict.calibration import PREFIX
from thetaprime.training.export.calibrate import FamiliarityMeasurer
from thetaprime.training.export.measure_gain import GainMeasurer
from thetaprime.training.export.simulated_rounds import TaskRounds, simulate_rounds
from thetaprime.training.resources import task_threads
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.protocol import TaskDistribution

HELD_OUT_TASKS: Final = 216
"""Number of held-out tasks, by default. The smallest p-value is 1 / 217."""
_HELD_OUT_PER_PILOT: Final = 9
# A task has no neighbor among one task.
_FEWEST_TASKS: Final = 2
BATCHES: Final = 3
"""Batches of one task in `TaskRounds`."""
_REPORT_SECONDS: Final = 10.0


class Measurer(Protocol):
    """Measures held-out tasks one by one, and sums them up; see the module's description."""

    def observe(self, rounds: TaskRounds) -> Parameters:
        """Measures one held-out task."""

    def finish(self, observed: Parameters) -> Parameters:
        """The tensors to store, from those of `observe` stacked over the held-out tasks."""


MEASURERS: Final[Mapping[str, Callable[[MetaPolicy, Sequence[TaskRounds]], Measurer]]] = {
    "familiarity": FamiliarityMeasurer,
    "gain": GainMeasurer,
}
"""What is measured on the held-out tasks, by name."""


def main(folders: Sequence[str]) -> None:
    """Adds the calibration to some artifacts."""
    for directory in map(Path, folders) if folders else find_meta_policies(zoo_directory()):
        before = (directory / REFERENCE_NAME).stat().st_size
        add_calibration(directory, on_task=_Report(directory))
        after = (directory / REFERENCE_NAME).stat().st_size
        sys.stdout.write(f"{directory}: {REFERENCE_NAME} has {after:,} bytes; it had {before:,}\n")


class _Report:
    """Writes a line on progress, at most every ten seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._done, self._start = directory, 0, time.monotonic()
        self._last = self._start

    def __call__(self) -> None:
        self._done += 1
        now, total = time.monotonic(), HELD_OUT_TASKS + _pilot_tasks(HELD_OUT_TASKS)
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            left = (now - self._start) / self._done * (total - self._done)
            sys.stderr.write(f"{self._directory}: {self._done} of {total} tasks, about {left:.0f} s left\n")


def calibration_work(adaptation: AdaptationSpec, held_out: int) -> int:
    """The number of trajectories that a calibration samples.

    Args:
        adaptation: the inner loop.
        held_out: number of held-out tasks.
    """
    return (held_out + _pilot_tasks(held_out)) * BATCHES * adaptation.trajectories_per_round


def _pilot_tasks(held_out: int) -> int:
    return max(2, held_out // _HELD_OUT_PER_PILOT) if held_out else 0


def add_calibration(
    directory: Path, *, held_out: int = HELD_OUT_TASKS, on_task: Callable[[], None] = lambda: None
) -> MetaPolicy:
    """Calibrates an artifact and writes its reference tensors and manifest again.

    Args:
        directory: the artifact's folder.
        held_out: number of held-out tasks, at least 2.
        on_task: called after each simulated task.

    Returns:
        The artifact, read again.

    Raises:
        ArtifactError: the artifact is damaged.
        ValueError: `held_out` is below 2.
    """
    if held_out < _FEWEST_TASKS:
        raise ValueError(f"held_out: {held_out}; expected at least {_FEWEST_TASKS}")
    meta_policy = load_meta_policy(directory)
    manifest = meta_policy.manifest
    distribution = resolve_tasks(manifest.provenance.distribution)
    kept = {name: value for name, value in meta_policy.reference.items() if not name.startswith(PREFIX)}
    reference = parameters_to_bytes({**kept, **calibrate(meta_policy, distribution, held_out, on_task=on_task)})
    (directory / REFERENCE_NAME).write_bytes(reference)
    files = {**manifest.files, REFERENCE_NAME: digest_bytes(reference)}
    (directory / MANIFEST_NAME).write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())
    return load_meta_policy(directory)


def calibrate(
    meta_policy: MetaPolicy,
    distribution: TaskDistribution,
    held_out: int,
    *,
    on_task: Callable[[], None] = lambda: None,
) -> Parameters:
    """Simulates rounds of meta-training tasks and measures them with every measurer.

    Args:
        meta_policy: θ and its inner loop, with the contract of the reward that is shipped.
        distribution: of its meta-training.
        held_out: number of held-out tasks, at least 2.
        on_task: called after each simulated task.

    Returns:
        The tensors of the calibration, by name; none if no parameter adapts, so that no step needs a verdict.
    """
    manifest = meta_policy.manifest
    if not moving_parameters(meta_policy.parameters, manifest.adaptation, meta_policy.step_sizes):
        return {}
    seed = manifest.provenance.seed
    with task_threads(1):  # each operation of torch on one thread, as in training
        pilot = []
        for rounds in simulate_rounds(meta_policy, distribution, _pilot_tasks(held_out), _seed(seed, 0)):
            pilot.append(rounds)
            on_task()
        measurers = [make(meta_policy, pilot) for make in MEASURERS.values()]
        observed: list[list[Parameters]] = [[] for _ in measurers]
        for rounds in simulate_rounds(meta_policy, distribution, held_out, _seed(seed, 1)):
            for rows, measurer in zip(observed, measurers, strict=True):
                rows.append(measurer.observe(rounds))
            on_task()
        measured: Parameters = {}
        for rows, measurer in zip(observed, measurers, strict=True):
            measured |= measurer.finish({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
    return measured


def _seed(seed: int, part: int) -> np.random.SeedSequence:
    """The seed of the pilot tasks (part 0) or of the held-out tasks (part 1); no other measurement has it."""
    return np.random.SeedSequence(seed, spawn_key=(3, part))


if __name__ == "__main__":
    main(sys.argv[1:])
