"""The ONNX form of a program: each operation in a few operators of opset 15.

The opset of `torch.onnx` is 18 or later, and its files compute shapes while they run, which no client could check
before it loads them. Here the number of observations is the only length that a file leaves open.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.module.program import CONSTANT, CONTEXTS, OBSERVATIONS, PARAMETER, Call, Program
from thetaprime.models.spec import CONTEXT

_Attributes = Mapping[str, Any]


class ModuleGraph:
    """The nodes and constants of a module policy, from the normalized observation to the head's input.

    Args:
        policy: the policy.
        inputs: name of the normalized observations [batch, O].
        result: name of the means or logits.
        prefix: of the initializers that hold parameters.

    Attributes:
        nodes: in order.
        initializers: the parameters, as zeros, and the constants.
    """

    def __init__(self, policy: ModulePolicy, inputs: str, result: str, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._program: Program = policy.program
        self._prefix = prefix
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._values: dict[str, str] = {OBSERVATIONS: inputs}
        for name, shape in policy.program.parameters.items():
            self._add_initializer(prefix + name, np.zeros(shape, np.float32))
            self._values[PARAMETER + name] = prefix + name
        for name, value in policy.program.constants.items():
            self._values[CONSTANT + name] = self.constant(value.numpy())
        if policy.program.context_size:
            self._add_initializer(prefix + CONTEXT, np.zeros(policy.program.context_size, np.float32))
            # Zeros for each observation, and the context added to them.
            column = self.sliced(inputs, axis=1, start=0, end=1)
            self._values[CONTEXTS] = self.add("Add", self.add("Mul", column, self.number(0.0)), prefix + CONTEXT)
        if len(policy.environment.observation_shape) > 1:
            self._values[OBSERVATIONS] = self.reshaped(inputs, (-1, *policy.environment.observation_shape))
        for index, call in enumerate(policy.program.calls):
            self._values[f"%{index}"] = self._write(call)
        self.nodes.append(helper.make_node("Identity", [self._values[f"%{len(policy.program.calls) - 1}"]], [result]))

    def _write(self, call: Call) -> str:
        shapes = [self._program.shape(name) for name in call.inputs]
        return _WRITERS[call.operation](self, [self._values[name] for name in call.inputs], shapes, call.attributes)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node, and gives the name of its result."""
        name = f"network.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        """The name of a constant; equal ones share an initializer."""
        array = np.ascontiguousarray(array) if array.ndim else array
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant.{len(self._known)}"
            self._add_initializer(self._known[key], array)
        return self._known[key]

    def number(self, value: float) -> str:
        """The name of a float32 number."""
        return self.constant(np.array([value], np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """The name of a list of int64."""
        return self.constant(np.array(values, np.int64))

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """A value in another shape, with -1 for the axis of the observations."""
        return self.add("Reshape", name, self.integers(shape))

    def sliced(self, name: str, *, axis: int, start: int, end: int) -> str:
        """A part of a value along an axis."""
        return self.add("Slice", name, self.integers([start]), self.integers([end]), self.integers([axis]))

    def _add_initializer(self, name: str, array: npt.NDArray[Any]) -> None:
        self.initializers.append(numpy_helper.from_array(array, name))


_Shapes = Sequence[tuple[int, ...]]
_Write = Callable[[ModuleGraph, Sequence[str], _Shapes, _Attributes], str]


def _plain(operator: str) -> _Write:
    return lambda graph, inputs, shapes, attributes: graph.add(operator, *inputs)


def _linear(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    values, weight, *bias = inputs
    if len(shapes[0]) == 2:
        added = bias[0] if bias else graph.constant(np.zeros(shapes[1][0], np.float32))
        return graph.add("Gemm", values, weight, added, transB=1)
    product = graph.add("MatMul", values, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Add", product, bias[0]) if bias else product


def _conv(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    return graph.add(
        "Conv",
        *inputs,
        strides=attributes["stride"],
        pads=attributes["padding"] * 2,
        dilations=attributes["dilation"],
        group=attributes["groups"],
    )


def _pool(operator: str) -> _Write:
    def write(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
        return graph.add(
            operator,
            *inputs,
            kernel_shape=attributes["kernel"],
            strides=attributes["stride"],
            pads=attributes["padding"] * 2,
        )

    return write


def _reduce(operator: str, *, total: bool = False) -> _Write:
    def write(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
        axes, keep = attributes["axes"], attributes["keepdim"]
        found = graph.add(operator, *inputs, axes=axes, keepdims=keep)
        return graph.add("Mul", found, graph.number(math.prod(shapes[0][axis] for axis in axes))) if total else found

    return write


def _layer_norm(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    values, *affine = inputs
    count = len(shapes[0])
    axes = list(range(count - attributes["axes"], count))
    centered = graph.add("Sub", values, graph.add("ReduceMean", values, axes=axes, keepdims=1))
    variance = graph.add("ReduceMean", graph.add("Mul", centered, centered), axes=axes, keepdims=1)
    spread = graph.add("Sqrt", graph.add("Add", variance, graph.number(attributes["epsilon"])))
    result = graph.add("Div", centered, spread)
    for operator, each in zip(("Mul", "Add"), affine, strict=False):
        result = graph.add(operator, result, each)
    return result


def _clamp(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    (result,) = inputs
    for operator, bound in (("Max", attributes["low"]), ("Min", attributes["high"])):
        if math.isfinite(bound):
            result = graph.add(operator, result, graph.number(bound))
    return result


def _parts(graph: ModuleGraph, value: str) -> tuple[str, str]:
    """The positive and the negative part of a value."""
    zero = graph.number(0.0)
    return graph.add("Max", value, zero), graph.add("Min", value, zero)


def _leaky_relu(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    positive, negative = _parts(graph, inputs[0])
    return graph.add("Add", positive, graph.add("Mul", negative, graph.number(attributes["slope"])))


def _elu(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    positive, negative = _parts(graph, inputs[0])
    below = graph.add("Sub", graph.add("Exp", negative), graph.number(1.0))
    return graph.add("Add", positive, graph.add("Mul", below, graph.number(attributes["alpha"])))


def _negated(graph: ModuleGraph, value: str) -> str:
    return graph.add("Mul", value, graph.number(-1.0))


def _softplus(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    (value,) = inputs
    decayed = graph.add("Exp", graph.add("Min", value, _negated(graph, value)))
    added = graph.add("Log", graph.add("Add", decayed, graph.number(1.0)))
    return graph.add("Add", graph.add("Max", value, graph.number(0.0)), added)


def _abs(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    return graph.add("Max", inputs[0], _negated(graph, inputs[0]))


def _gelu(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    return _gated(graph, inputs[0], graph.add("Erf", graph.add("Mul", inputs[0], graph.number(math.sqrt(0.5)))))


def _gelu_tanh(graph: ModuleGraph, inputs: Sequence[str], shapes: _Shapes, attributes: _Attributes) -> str:
    (value,) = inputs
    cube = graph.add("Mul", graph.add("Mul", value, value), value)
    inner = graph.add("Add", value, graph.add("Mul", cube, graph.number(0.044715)))
    return _gated(graph, value, graph.add("Tanh", graph.add("Mul", inner, graph.number(math.sqrt(2.0 / math.pi)))))


def _gated(graph: ModuleGraph, value: str, gate: str) -> str:
    """Gives value · (1 + gate) / 2."""
    opened = graph.add("Mul", graph.add("Add", gate, graph.number(1.0)), graph.number(0.5))
    return graph.add("Mul", value, opened)


_WRITERS: Final[Mapping[str, _Write]] = {
    "abs": _abs,
    "add": _plain("Add"),
    "amax": _reduce("ReduceMax"),
    "avg_pool": _pool("AveragePool"),
    "cat": lambda graph, inputs, shapes, attributes: graph.add("Concat", *inputs, axis=attributes["axis"]),
    "clamp": _clamp,
    "conv": _conv,
    "div": _plain("Div"),
    "elu": _elu,
    "exp": _plain("Exp"),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "log": _plain("Log"),
    "matmul": _plain("MatMul"),
    "max_pool": _pool("MaxPool"),
    "maximum": _plain("Max"),
    "mean": _reduce("ReduceMean"),
    "minimum": _plain("Min"),
    "mul": _plain("Mul"),
    "permute": lambda graph, inputs, shapes, attributes: graph.add("Transpose", *inputs, perm=attributes["axes"]),
    "relu": _plain("Relu"),
    "reshape": lambda graph, inputs, shapes, attributes: graph.reshaped(inputs[0], attributes["shape"]),
    "sigmoid": _plain("Sigmoid"),
    "slice": lambda graph, inputs, shapes, attributes: graph.sliced(inputs[0], **attributes),
    "softmax": lambda graph, inputs, shapes, attributes: graph.add("Softmax", *inputs, axis=attributes["axis"]),
    "softplus": _softplus,
    "sqrt": _plain("Sqrt"),
    "sub": _plain("Sub"),
    "sum": _reduce("ReduceMean", total=True),
    "tanh": _plain("Tanh"),
}
