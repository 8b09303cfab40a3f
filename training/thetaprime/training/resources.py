"""The machine: its cores, threads that share the tasks, and whether its memory suffices for a run."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from thetaprime.models import EnvironmentContract, MemorySpec
from thetaprime.training.config import TrainConfig

# Matrices [F, F] of the baseline that exist at once: XᵀX, I, their sum and its factorization. Measured: 4.0.
_BASELINE_MATRICES: Final = 4
_KEPT_NUMBERS: Final = 12
_GROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MapTasks(Protocol):
    """Applies a function to each item, possibly in parallel; results are in the items' order."""

    def __call__(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """The results."""


@contextmanager
def task_threads(threads: int) -> Iterator[MapTasks]:
    """Threads that share the tasks; each operation of torch runs on one thread.

    torch releases the interpreter's lock, so threads suffice. No sum is split between cores, so results do not depend
    on the number of threads: a server that adapts on one thread computes the same bits.

    Args:
        threads: how many.
    """
    import torch  # here, since worker processes import this module and use no torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def map_tasks(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
                return list(pool.map(function, items))

            yield map_tasks
    finally:
        torch.set_num_threads(before)


def in_turn(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Applies a function to one item after another, on this thread."""
    return [function(item) for item in items]


class NotEnoughMemoryError(ValueError):
    """A run needs more memory than the machine has available."""


def available_memory() -> int | None:
    """Bytes that this process can allocate without swapping; None where the system does not report them.

    The system's available memory, or the limit of the control group (of the container) where it is lower. All physical
    memory, where the system reports nothing else.
    """
    found = [int(limit) for file in _GROUP_LIMITS if (limit := _read(file).strip()).isdecimal()]
    system = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" in system:
        found.append(int(system["MemAvailable"].split()[0]) * 1024)
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def check_memory(environment: EnvironmentContract, config: TrainConfig) -> None:
    """Refuses a run whose largest arrays do not fit into the available memory. Nothing is allocated for the check.

    - The baseline solves a system of F = 2·O + 5 equations in float64: four matrices [F, F] at once, for one task at a
      time, and two feature matrices [S, F] of its steps.
    - Observations are float32: those of all trajectories of an iteration, and a second time those being sampled.

    Args:
        environment: of the tasks, with the task in the observation where the policy is an oracle.
        config: the run's configuration.

    Raises:
        NotEnoughMemoryError: naming the observation, both sizes, the limit, and what helps.
    """
    available = available_memory()
    if available is None:
        return
    size, H, T = environment.observation_size, environment.horizon, config.meta_batch_size
    if config.policy.memory is not None:
        _check_lifetimes(environment, config, config.policy.memory, available)
        return
    adaptation = config.adaptation
    query, F = adaptation.trajectories_per_round, 2 * size + 5
    support = config.support_trajectories or query
    most = max(query, support) if adaptation.inner_steps else query
    baseline = 8 * F * (_BASELINE_MATRICES * F + 2 * most * H)
    kept = query + adaptation.inner_steps * support
    trajectories = 4 * T * (kept * H + most * (H + 1)) * size
    if baseline + trajectories <= available:
        return
    remedies = ["give a smaller observation (a smaller picture, or features computed from it)"]
    if trajectories > baseline:
        remedies.append("lower meta_batch_size or adaptation.trajectories_per_round")
    raise NotEnoughMemoryError(
        f"observation: {environment.observation_shape} is {size:,} numbers, for which training needs about "
        f"{_gigabytes(baseline + trajectories)} of memory ({_gigabytes(baseline)} for the baseline, whose matrices are "
        f"{F:,} x {F:,} float64; {_gigabytes(trajectories)} for the trajectories of {T} tasks); "
        f"{_gigabytes(available)} are available: {', or '.join(remedies)}"
    )


def _check_lifetimes(environment: EnvironmentContract, config: TrainConfig, memory: MemorySpec, available: int) -> None:
    """Lifetimes are kept whole, twice; backpropagation keeps about twelve numbers a unit and step of a minibatch."""
    steps = config.meta_batch_size * config.rl2.episodes * environment.horizon
    width = environment.observation_size + 3 * environment.action.size + 3 * memory.size + 8
    units = memory.size + sum((*memory.encoder_sizes, *config.policy.hidden_sizes, *config.rl2.value_sizes))
    needed = 4 * steps * (2 * width + _KEPT_NUMBERS * units // config.rl2.minibatches)
    if needed > available:
        raise NotEnoughMemoryError(
            f"{config.meta_batch_size} lifetimes of {config.rl2.episodes} episodes of {environment.horizon} steps need "
            f"about {_gigabytes(needed)} of memory; {_gigabytes(available)} are available: lower meta_batch_size, "
            "rl2.episodes or policy.memory.size, or raise rl2.minibatches"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def made_here(packages: Iterable[str]) -> dict[str, Any]:
    """The time, the machine and the versions that a `Provenance` records, under its names.

    Args:
        packages: distributions whose versions count.
    """
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }
