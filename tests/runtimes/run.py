"""Runs every step of some episodes through Python's onnxruntime: ``python run.py FOLDER JOBS RESULTS``.

FOLDER is where onnxruntime is installed. Jobs and results are those of run.mjs. Nothing of this project is imported:
the oldest release that we support needs a numpy that we do not take.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, jobs_path: str, results_path: str) -> None:
    sys.path.insert(0, folder)
    import numpy as np
    import onnxruntime

    assert Path(onnxruntime.__file__).is_relative_to(folder), onnxruntime.__file__
    results = []
    for job in json.loads(Path(jobs_path).read_text()):
        session = onnxruntime.InferenceSession(job["onnx"], providers=["CPUExecutionProvider"])
        inputs = {
            name: np.frombuffer(base64.b64decode(each["data"]), each["type"]).reshape(each["dims"])
            for name, each in job["inputs"].items()
        }
        steps = len(next(iter(inputs.values())))
        runs = []
        state: dict[str, Any] = {}
        for step in range(steps):
            for each in job["states"]:
                name, axis = each["input"], each["axis"]
                initial = np.array(each["initial"], np.float32)
                rows = list(np.moveaxis(state[name], axis, 0)) if name in state else [initial] * len(job["resets"][0])
                rows = [initial if begins else row for begins, row in zip(job["resets"][step], rows, strict=True)]
                state[name] = np.stack(rows, axis)
            feed = {**{name: array[step] for name, array in inputs.items()}, **state}
            found = session.run([*job["outputs"], *(each["output"] for each in job["states"])], feed)
            state = {
                each["input"]: rows for each, rows in zip(job["states"], found[len(job["outputs"]) :], strict=True)
            }
            runs.append(found[: len(job["outputs"])])
        given = {name: np.stack(each) for name, each in zip(job["outputs"], zip(*runs, strict=True), strict=True)}
        results.append(
            {
                name: {
                    "type": str(array.dtype),
                    "dims": list(array.shape),
                    "data": base64.b64encode(array.tobytes()).decode(),
                }
                for name, array in given.items()
            }
        )
    Path(results_path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
