"""Measures a policy before it acts: loading, the memory of a thousand, and a swap within a control loop."""

import json
import subprocess
import sys
import threading
import time
from statistics import median

import numpy as np

from benchmarks.measure import Row, machine
from benchmarks.policies import OBSERVATION, shipped
from thetaprime.client import AdaptedPolicy, PolicyRunner

LOAD_BUDGET_MS = 2.0
MEMORY_BUDGET_KIB = 256.0
POLICIES = 1000
SWAPS = 200
# A robot's control loop: one step per millisecond.
STEP_SECONDS = 0.001

# Runs in a separate process: memory freed by other benchmarks would be reused first.
_MEMORY = """
import json, sys
from pathlib import Path
from benchmarks.policies import OBSERVATION, shipped
from thetaprime.client import AdaptedPolicy
import numpy as np
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
meta_policy = shipped("half-cheetah-velocity")
onnx = meta_policy.export(meta_policy.parameters).onnx
observation = np.zeros(OBSERVATION, np.float32)
AdaptedPolicy(onnx).act(observation)
before, kept = resident(), []
for _ in range(int(sys.argv[1])):
    kept.append(AdaptedPolicy(bytes(bytearray(onnx))))  # separate bytes for each, as a server sends them
    kept[-1].act(observation)
print(json.dumps([(resident() - before) / len(kept) / 1024, len(onnx) / 1024]))
"""


def rows() -> list[Row]:
    """Measures load, memory and hot swap."""
    meta_policy = shipped("half-cheetah-velocity")
    onnx = meta_policy.export(meta_policy.parameters).onnx
    digest = AdaptedPolicy(onnx).sha256
    return [_load(onnx, digest), _memory(), _swap(onnx)]


def _load(onnx: bytes, digest: str) -> Row:
    """Measures this thread's processor time, because the budget is absolute: other processes must not count."""
    times = []
    for _ in range(300):
        started = time.thread_time()
        AdaptedPolicy(onnx, sha256=digest)
        times.append((time.thread_time() - started) * 1e3)
    ours = median(times)
    ratio = ours / LOAD_BUDGET_MS
    name = f"load of θ′ (digest, session, golden vectors), processor time / {LOAD_BUDGET_MS:g} ms"
    return Row(name, ours, LOAD_BUDGET_MS, "ms", ratio, 1.0, ratio <= 1.0, machine())


def _memory() -> Row:
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(POLICIES)], capture_output=True, text=True, check=True)
    each, _ = json.loads(done.stdout)
    ratio = each / MEMORY_BUDGET_KIB
    name = f"{POLICIES} policies in one process, resident memory of each / {MEMORY_BUDGET_KIB:g} KiB"
    return Row(name, each, MEMORY_BUDGET_KIB, "KiB", ratio, 1.0, ratio <= 1.0, machine())


def _swap(onnx: bytes) -> Row:
    """Compares the slowest call during a swap with the median call.

    It is the median over swaps of each swap's slowest call: the slowest of all calls depends on other processes.
    """
    observation = np.random.default_rng(0).normal(size=OBSERVATION).astype(np.float32)
    starts: list[float] = []
    durations: list[float] = []
    windows: list[tuple[float, float]] = []
    done = threading.Event()
    with PolicyRunner(AdaptedPolicy(onnx)) as runner:

        def loop() -> None:
            while not done.is_set():
                started = time.perf_counter()
                runner.act(observation)
                durations.append(time.perf_counter() - started)
                starts.append(started)
                time.sleep(STEP_SECONDS)

        control = threading.Thread(target=loop)
        control.start()
        for _ in range(SWAPS):
            begun = time.perf_counter()
            runner.replace(onnx).result()
            time.sleep(5 * STEP_SECONDS)  # the first steps of the new policy, and the release of the old one
            windows.append((begun, time.perf_counter()))
        done.set()
        control.join()
    at, took = np.array(starts), np.array(durations) * 1e6
    inside = (took[(at >= begun) & (at <= ended)] for begun, ended in windows)
    slowest = [calls.max() for calls in inside if len(calls)]
    ours, reference = float(median(slowest)), float(np.median(took))
    name = "slowest act during a hot swap (median of 200 swaps) / median act of the loop"
    return Row(name, ours, reference, "µs", ours / reference, 3.0, bool(ours <= 3.0 * reference), machine())
