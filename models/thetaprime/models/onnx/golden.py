"""The golden vectors of a file that is put together from another one.

They are computed by the reference implementation of ONNX in numpy, no runtime that the file is meant for, and in
double precision: rounded to single at the end they are the same on every machine, and so is the file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper


def golden_vectors(
    model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[np.float32]], outputs: Sequence[str]
) -> dict[str, Any]:
    """What a graph gives for some inputs, one entry of the batch at a time.

    Args:
        model: the graph.
        inputs: [K, ...] for each of its inputs.
        outputs: those of its outputs that have an entry for each observation.

    Returns:
        ``inputs`` and ``outputs``: by name, K entries each as nested lists.
    """
    from onnx.reference import ReferenceEvaluator  # every operator of ONNX: only where a form is asked for

    evaluator = ReferenceEvaluator(_in_double(model))
    rows: dict[str, list[Any]] = {name: [] for name in outputs}
    for index in range(len(next(iter(inputs.values())))):
        feed = {name: array[index : index + 1].astype(np.float64) for name, array in inputs.items()}
        for name, value in zip(outputs, evaluator.run(list(outputs), feed), strict=True):
            rows[name].append(value[0] if value.dtype == np.int64 else value[0].astype(np.float32))
    return {
        "inputs": {name: array.tolist() for name, array in inputs.items()},
        "outputs": {name: np.stack(row).tolist() for name, row in rows.items()},
    }


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = [attribute.t for node in copy.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in (*copy.graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy
