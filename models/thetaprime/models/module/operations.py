"""The operations of a program: what each takes, and the torch function that runs it.

A program can call these and nothing else. So a file that holds a program can compute, and can do nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import torch
from torch.nn import functional

Kind = Literal["int", "ints", "float"]
"""The type of an attribute: an integer, a list of integers, or a number."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        run: takes the tensors in order and the attributes by name.
        least: fewest tensors.
        most: most tensors.
        attributes: the type of each attribute; every call gives all of them.
    """

    run: Callable[..., torch.Tensor]
    least: int
    most: int
    attributes: Mapping[str, Kind] = dataclasses.field(default_factory=dict)


def _convolution(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    convolve = functional.conv1d if weight.ndim == 3 else functional.conv2d
    return convolve(inputs, weight, bias, stride, padding, dilation, groups)


def _layer_norm(
    inputs: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    axes: int,
    epsilon: float,
) -> torch.Tensor:
    return functional.layer_norm(inputs, inputs.shape[inputs.ndim - axes :], weight, bias, epsilon)


def _slice(inputs: torch.Tensor, *, axis: int, start: int, end: int) -> torch.Tensor:
    return inputs.narrow(axis, start, end - start)


_POOL: Final[Mapping[str, Kind]] = {"kernel": "ints", "stride": "ints", "padding": "ints"}
_REDUCE: Final[Mapping[str, Kind]] = {"axes": "ints", "keepdim": "int"}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "abs": Operation(torch.abs, 1, 1),
    "add": Operation(torch.add, 2, 2),
    "amax": Operation(lambda x, *, axes, keepdim: x.amax(axes, bool(keepdim)), 1, 1, _REDUCE),
    "avg_pool": Operation(
        lambda x, *, kernel, stride, padding: functional.avg_pool2d(
            x, kernel, stride, padding, count_include_pad=False
        ),
        1,
        1,
        _POOL,
    ),
    "cat": Operation(lambda *tensors, axis: torch.cat(tensors, axis), 1, 64, {"axis": "int"}),
    "clamp": Operation(lambda x, *, low, high: x.clamp(low, high), 1, 1, {"low": "float", "high": "float"}),
    "conv": Operation(_convolution, 2, 3, {"stride": "ints", "padding": "ints", "dilation": "ints", "groups": "int"}),
    "div": Operation(torch.div, 2, 2),
    "elu": Operation(lambda x, *, alpha: functional.elu(x, alpha), 1, 1, {"alpha": "float"}),
    "exp": Operation(torch.exp, 1, 1),
    "gelu": Operation(functional.gelu, 1, 1),
    "gelu_tanh": Operation(lambda x: functional.gelu(x, approximate="tanh"), 1, 1),
    "layer_norm": Operation(_layer_norm, 1, 3, {"axes": "int", "epsilon": "float"}),
    "leaky_relu": Operation(lambda x, *, slope: functional.leaky_relu(x, slope), 1, 1, {"slope": "float"}),
    "linear": Operation(functional.linear, 2, 3),
    "log": Operation(torch.log, 1, 1),
    "matmul": Operation(torch.matmul, 2, 2),
    "max_pool": Operation(
        lambda x, *, kernel, stride, padding: functional.max_pool2d(x, kernel, stride, padding), 1, 1, _POOL
    ),
    "maximum": Operation(torch.maximum, 2, 2),
    "mean": Operation(lambda x, *, axes, keepdim: x.mean(axes, bool(keepdim)), 1, 1, _REDUCE),
    "minimum": Operation(torch.minimum, 2, 2),
    "mul": Operation(torch.mul, 2, 2),
    "permute": Operation(lambda x, *, axes: x.permute(axes), 1, 1, {"axes": "ints"}),
    "relu": Operation(torch.relu, 1, 1),
    "reshape": Operation(lambda x, *, shape: x.reshape(shape), 1, 1, {"shape": "ints"}),
    "sigmoid": Operation(torch.sigmoid, 1, 1),
    "slice": Operation(_slice, 1, 1, {"axis": "int", "start": "int", "end": "int"}),
    "softmax": Operation(lambda x, *, axis: x.softmax(axis), 1, 1, {"axis": "int"}),
    "softplus": Operation(functional.softplus, 1, 1),
    "sqrt": Operation(torch.sqrt, 1, 1),
    "sub": Operation(torch.sub, 2, 2),
    "sum": Operation(lambda x, *, axes, keepdim: x.sum(axes, bool(keepdim)), 1, 1, _REDUCE),
    "tanh": Operation(torch.tanh, 1, 1),
}
"""The operations by name. In ``reshape``, -1 stands for the axis of the observations."""


def check_call(name: str, tensors: int, attributes: Mapping[str, Any]) -> str:
    """What is wrong with a call, or an empty text.

    Args:
        name: of the operation.
        tensors: how many it is called with.
        attributes: by name.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        return f"operation {name[:40]!r}; expected one of {', '.join(OPERATIONS)}"
    if not operation.least <= tensors <= operation.most:
        return f"{name} takes {operation.least} to {operation.most} tensors; got {tensors}"
    if attributes.keys() != operation.attributes.keys():
        return f"{name} takes {sorted(operation.attributes)}; got {str(sorted(attributes))[:80]}"
    for key, kind in operation.attributes.items():
        if not _fits(attributes[key], kind):
            return f"{name}.{key} is {str(attributes[key])[:40]}; expected {_NAMES[kind]}"
    return ""


_NAMES: Final[Mapping[Kind, str]] = {
    "int": "an integer below 2^31",
    "ints": "at most 8 integers below 2^31",
    "float": "a number",
}


def _fits(value: Any, kind: Kind) -> bool:
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if kind == "ints":
        return isinstance(value, list) and len(value) <= 8 and all(_fits(each, "int") for each in value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
