"""Golden vectors of a derived file: the outputs of its graph, rounded alike on every processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from thetaprime.models.golden import Network, evaluate_rounded


def _patches(
    values: Any, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], fill: Any
) -> Any:
    """[B, C, *S] -> [B, C, *R, *K]: the numbers under a kernel at each place of the result, `fill` beyond the edge."""
    axes = len(kernel)
    edges = [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)]
    padded = values.moved(lambda array: np.pad(array, edges, constant_values=fill if array is values.value else 0.0))
    indices: list[Any] = []
    for axis in range(axes):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        starts = np.arange(0, padded.value.shape[2 + axis] - reach + 1, strides[axis])
        places = starts[:, None] + dilations[axis] * np.arange(kernel[axis])
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = places.shape
        indices.append(places.reshape(shape))
    return padded.moved(lambda array: array[(slice(None), slice(None), *indices)])


def _conv(
    values: Any,
    weight: Any,
    bias: Any = None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Any:
    outputs, channels, *kernel = weight.value.shape
    axes = len(kernel)
    seen = _patches(values, kernel, strides, pads, dilations, 0)
    batch, _, *places = seen.value.shape[: 2 + axes]
    rows, terms = int(np.prod(places)), channels * int(np.prod(kernel))

    def by_place(array: Any) -> Any:
        grouped = array.reshape(batch, group, channels, rows, -1)
        return grouped.transpose(0, 1, 3, 2, 4).reshape(batch, group, rows, terms)

    def by_channel(array: Any) -> Any:
        return array.reshape(1, group, outputs // group, terms).transpose(0, 1, 3, 2)

    product = seen.moved(by_place).product(weight.moved(by_channel))
    result = product.moved(lambda array: array.transpose(0, 1, 3, 2).reshape(batch, outputs, *places))
    return result if bias is None else result + bias.moved(lambda array: array.reshape(1, outputs, *[1] * axes))


def _max_pool(values: Any, *, kernel_shape: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> Any:
    axes = len(kernel_shape)
    least = values.value.min() if values.value.size else 0
    seen = _patches(values, kernel_shape, strides, pads, [1] * axes, least)
    return seen.max(tuple(range(2 + axes, 2 + 2 * axes)), keepdims=False)


def _average_pool(values: Any, *, kernel_shape: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> Any:
    axes = len(kernel_shape)
    seen = _patches(values, kernel_shape, strides, pads, [1] * axes, 0)
    return seen.mean(tuple(range(2 + axes, 2 + 2 * axes)), keepdims=False)


def _slice(values: Any, starts: Any, ends: Any, axes: Any) -> Any:
    index: list[Any] = [slice(None)] * values.value.ndim
    for start, end, axis in zip(starts.value, ends.value, axes.value, strict=True):
        index[int(axis)] = slice(int(start), int(end))
    return values.moved(lambda array: array[tuple(index)])


def _softmax(logits: Any, *, axis: int) -> Any:
    if logits.value.ndim == 2 and axis == 1:
        return logits.softmax()
    # As rows: those are what a softmax takes.
    rows = logits.moved(lambda array: np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])).softmax()
    shape = np.moveaxis(logits.value, axis, -1).shape
    return rows.moved(lambda array: np.moveaxis(array.reshape(shape), -1, axis))


# The operators that the default forms and the heads use.
_OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "Add": lambda left, right: left + right,
    "ArgMax": lambda values, axis, keepdims: values.argmax(keepdims=bool(keepdims)),
    "AveragePool": _average_pool,
    "Cast": lambda values, to: values.as_float(),
    "Concat": lambda *parts, axis: parts[0].joined(parts, axis),
    "Conv": _conv,
    "Div": lambda left, right: left / right,
    "Erf": lambda values: values.erf(),
    "Exp": lambda values: values.exp(),
    "Gemm": lambda rows, weight, bias, transB: rows @ weight.T + bias,
    "Identity": lambda values: values,
    "Log": lambda values: values.log(),
    "MatMul": lambda left, right: left.product(right),
    "Max": lambda left, right: left.maximum(right),
    "MaxPool": _max_pool,
    "Min": lambda left, right: left.minimum(right),
    "Mul": lambda left, right: left * right,
    "ReduceMax": lambda values, axes, keepdims: values.max(tuple(axes), keepdims=bool(keepdims)),
    "ReduceMean": lambda values, axes, keepdims: values.mean(tuple(axes), keepdims=bool(keepdims)),
    "Relu": lambda values: values.relu(),
    "Reshape": lambda values, shape: values.moved(lambda array: array.reshape(shape.value.tolist())),
    "Sigmoid": lambda values: values.sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": lambda values: values.sqrt(),
    "Sub": lambda left, right: left - right,
    "Tanh": lambda values: values.tanh(),
    "Transpose": lambda values, perm: values.moved(lambda array: array.transpose(perm)),
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
    found = evaluate_graph(model, inputs, outputs)
    return {
        "inputs": {name: array.tolist() for name, array in inputs.items()},
        "outputs": {name: found[name].tolist() for name in outputs},
    }


def evaluate_graph(
    model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """The outputs of a graph, rounded alike on every processor; arguments as in `golden_vectors`."""
    return evaluate_rounded(graph_network(model, outputs), inputs)


def graph_network(model: onnx.ModelProto, outputs: Sequence[str], axes: Mapping[str, int] | None = None) -> Network:
    """A graph as a network of exact numbers, whose constants are converted once.

    Args:
        model: the graph.
        outputs: names of the outputs to return.
        axes: by name, the axis of the observations of an input or output; 0 for those that it does not name.
    """
    moved = axes or {}
    constants: dict[type[Any], dict[str, Any]] = {}

    def constants_of(number: type[Any]) -> dict[str, Any]:
        if number not in constants:
            constants[number] = {each.name: number.of(numpy_helper.to_array(each)) for each in model.graph.initializer}
        return constants[number]

    def network(number: type[Any], rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        values = dict(constants_of(number))
        values |= {name: number.of(np.moveaxis(array, 0, moved.get(name, 0))) for name, array in rows.items()}
        for node in model.graph.node:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "Constant":
                result = number.of(numpy_helper.to_array(attributes["value"]))
            else:
                result = _OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
            values[node.output[0]] = result
        return {
            name: values[name].moved(lambda array, axis=moved[name]: np.moveaxis(array, axis, 0))
            if name in moved
            else values[name]
            for name in outputs
        }

    return network
