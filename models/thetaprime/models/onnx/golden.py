"""Golden vectors of a derived file: the outputs of its graph, rounded alike on every processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from thetaprime.models.golden import evaluate_rounded

# The operators that the default form and the heads use.
_OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "Add": lambda left, right: left + right,
    "ArgMax": lambda values, axis, keepdims: values.argmax(keepdims=bool(keepdims)),
    "Exp": lambda values: values.exp(),
    "Gemm": lambda rows, weight, bias, transB: rows @ weight.T + bias,
    "Identity": lambda values: values,
    "MatMul": lambda left, right: left @ right,
    "Max": lambda left, right: left.maximum(right),
    "Min": lambda left, right: left.minimum(right),
    "Mul": lambda left, right: left * right,
    "Relu": lambda values: values.relu(),
    "Softmax": lambda logits, axis: logits.softmax(),
    "Sub": lambda left, right: left - right,
    "Tanh": lambda values: values.tanh(),
}


def golden_vectors(
    model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[np.float32]], outputs: Sequence[str]
) -> dict[str, Any]:
    """The outputs of a graph for some inputs, computed without any of the runtimes that will load the file.

    Args:
        model: the graph.
        inputs: [K, ...] for each of its inputs.
        outputs: names of the outputs with one entry for each observation.

    Returns:
        ``inputs`` and ``outputs``: by name, K entries each as nested lists.
    """

    def network(number: type[Any], rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        values = {name: number.of(array) for name, array in rows.items()}
        values |= {each.name: number.of(numpy_helper.to_array(each)) for each in model.graph.initializer}
        for node in model.graph.node:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "Constant":
                result = number.of(numpy_helper.to_array(attributes["value"]))
            else:
                result = _OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
            values[node.output[0]] = result
        return {name: values[name] for name in outputs}

    found = evaluate_rounded(network, inputs)
    return {
        "inputs": {name: array.tolist() for name, array in inputs.items()},
        "outputs": {name: found[name].tolist() for name in outputs},
    }
