"""Runtimes of ONNX files, each installed once into a folder that git ignores."""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest

from tests.support.models.policy_cases import Array

BUILD: Final = Path(__file__).parents[3] / "build" / "runtimes"
_INSTALL_SECONDS: Final = 240


@dataclasses.dataclass(frozen=True)
class Job:
    """A file, S runs of its graph, and the outputs to return.

    Attributes:
        onnx: path of the file.
        inputs: [S, ...] for each input but the state.
        outputs: names of the outputs.
        resets: [S, B]: whether the state of a robot is initial before a run; None for a graph without a state.
        states: of the graph, as the file's metadata lists them.
    """

    onnx: Path
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    resets: Array | None = None
    states: Sequence[Mapping[str, Any]] = ()

    def begins(self, step: int) -> Array:
        """Whether the state of each robot is initial before a run."""
        return np.zeros(0, np.bool_) if self.resets is None else self.resets[step]


Outputs = dict[str, Array]
Runtime = Callable[[Sequence[Job]], list[Outputs]]


def run_newest(jobs: Sequence[Job]) -> list[Outputs]:
    """Runs jobs in the onnxruntime of this environment."""
    results = []
    for job in jobs:
        session = onnxruntime.InferenceSession(job.onnx, providers=["CPUExecutionProvider"])
        runs = []
        state: Outputs = {}
        for step in range(len(next(iter(job.inputs.values())))):
            state = {each["input"]: _begun(each, state, job.begins(step)) for each in job.states}
            feed = {**{name: rows[step] for name, rows in job.inputs.items()}, **state}
            given = session.run([*job.outputs, *(each["output"] for each in job.states)], feed)
            state = {each["input"]: rows for each, rows in zip(job.states, given[len(job.outputs) :], strict=True)}
            runs.append(given[: len(job.outputs)])
        results.append({name: np.stack(each) for name, each in zip(job.outputs, zip(*runs, strict=True), strict=True)})
    return results


def _begun(tensor: Mapping[str, Any], state: Outputs, begins: Array) -> Array:
    """Returns a tensor of the state, initial for the robots whose lifetime begins."""
    initial = np.stack([np.array(tensor["initial"], np.float32)] * len(begins), tensor["axis"])
    if tensor["input"] not in state:
        return initial
    shape = [1] * initial.ndim
    shape[tensor["axis"]] = -1
    return np.where(begins.reshape(shape), initial, state[tensor["input"]])


def installed(name: str, contents: str, install: Callable[[Path], None]) -> Path:
    """Returns a folder that `install` has filled for these contents, here or in another process or run."""
    folder = BUILD / f"{name}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"
    if not folder.exists():
        partial = BUILD / f".{folder.name}.{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            install(partial)
            partial.rename(folder)
        except FileExistsError:  # another process filled the folder first
            pass
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def install_or_skip(package: str, command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} cannot be installed: it took longer than {_INSTALL_SECONDS} s")
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        pytest.skip(f"{package} cannot be installed: {reason[-1]}")


def run_elsewhere(folder: Path, command: Sequence[str], jobs: Sequence[Job]) -> list[Outputs]:
    messages = [
        {
            "onnx": str(job.onnx),
            "inputs": {name: _encode(array) for name, array in job.inputs.items()},
            "outputs": list(job.outputs),
            "resets": None if job.resets is None else job.resets.tolist(),
            "states": list(job.states),
        }
        for job in jobs
    ]
    jobs_path, results_path = folder / "jobs.json", folder / "results.json"
    jobs_path.write_text(json.dumps(messages))
    # Without PYTHONPATH: its packages would come before those that were installed for the run.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*command, str(jobs_path), str(results_path)], capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [{name: _decode(each) for name, each in result.items()} for result in json.loads(results_path.read_text())]


def _encode(array: Array) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"type": str(array.dtype), "dims": list(array.shape), "data": data}


def _decode(message: Mapping[str, Any]) -> Array:
    return np.frombuffer(base64.b64decode(message["data"]), message["type"]).reshape(message["dims"])
