"""Compares two functions by alternating timings, so that noise of the machine affects both alike."""

import dataclasses
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Final

_SCALES: Final = {"ms": 1e3, "µs": 1e6}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results.

    Attributes:
        name: both sides of the comparison.
        ours: median of ThetaPrime.
        reference: median of the reference.
        unit: unit of both.
        ratio: ours / reference.
        budget: upper limit of the ratio.
        holds: whether the ratio is within the budget.
        machine: processor and software of the measurement.
        parts: the parts of ours, in the same unit, each measured separately.
    """

    name: str
    ours: float
    reference: float
    unit: str
    ratio: float
    budget: float
    holds: bool
    machine: str
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    budget: float,
    rounds: int,
    repeats: int = 1,
    unit: str = "ms",
) -> Row:
    """Times both functions alternately, A B A B …, and compares the medians.

    Args:
        name: name of the row.
        ours: runs ThetaPrime once.
        reference: runs the reference once.
        budget: upper limit of ours / reference.
        rounds: pairs of timings.
        repeats: calls in one timing, for functions that take microseconds.
        unit: ms or µs.
    """
    scale = _SCALES[unit]
    for function in (ours, reference):
        function()
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for key, function in (("ours", ours), ("reference", reference)):
                started = time.perf_counter()
                for _ in range(repeats):
                    function()
                times[key].append((time.perf_counter() - started) / repeats * scale)
    finally:
        if collecting:
            gc.enable()
    one, other = median(times["ours"]), median(times["reference"])
    return Row(name, one, other, unit, one / other, budget, one / other <= budget, machine())


def timed(function: Callable[[], object], *, rounds: int, unit: str = "ms") -> float:
    """Returns the median time of a function, after one call to warm up."""
    function()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times) * _SCALES[unit]


def machine() -> str:
    """Returns processor, cores, system and Python version."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
