"""The operators of the ONNX contract: the shape of each result, and what it costs.

A runtime computes constants when it loads a file, so two vectors of a small file can become a matrix of gigabytes. The
shapes here are computed without any number.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from thetaprime.wire.errors import WireError
from thetaprime.wire.onnx_fields import shown

Shape: TypeAlias = tuple[int | None, ...]
"""Lengths of the axes; None for the axis with one entry for each observation."""
Attributes: TypeAlias = Mapping[bytes, int | Shape]
"""The attributes of a node by name: integers, and the shapes of tensors."""
Operator: TypeAlias = Callable[[Sequence[Shape], Attributes, str], tuple[Shape, int]]
"""Shapes of the inputs, attributes, path -> the shape of the result, and the operations that it takes."""


def count_elements(shape: Shape) -> int:
    """Returns the numbers in a value, for one observation."""
    return math.prod(each for each in shape if each is not None)


def _elementwise(least: int, most: int, inputs: Sequence[Shape], path: str) -> tuple[Shape, int]:
    if not least <= len(inputs) <= most:
        raise WireError(path, f"{len(inputs)} inputs; expected {least} to {most}")
    shape = functools.reduce(functools.partial(_broadcast, path), inputs)
    return shape, count_elements(shape) * len(inputs)


def _unary(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    return _elementwise(1, 1, inputs, path)


def _binary(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    return _elementwise(2, 2, inputs, path)


def _softmax(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"axis": (1,)}, path)
    return _elementwise(1, 1, inputs, path)


def _arg_max(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"axis": (1,), b"keepdims": (0, 1)}, path)
    if len(inputs) != 1 or len(inputs[0]) != 2:
        raise WireError(path, "expected one input with two axes")
    return (inputs[0][0], 1) if attributes[b"keepdims"] else inputs[0][:1], count_elements(inputs[0])


def _constant(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    value = attributes.get(b"value")
    if inputs or len(attributes) != 1 or not isinstance(value, tuple):
        raise WireError(path, "expected no input, and the attribute value alone")
    return value, 0


def _gemm(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"transB": (1,)}, path)
    if len(inputs) != 3 or len(inputs[0]) != 2 or len(inputs[1]) != 2:
        raise WireError(path, "expected three inputs, the first two with two axes")
    (rows, width), (units, fan_in), bias = inputs
    if fan_in != width or units is None or width is None or _broadcast(path, (rows, units), bias) != (rows, units):
        raise WireError(path, f"shapes {[list(each) for each in inputs]}; expected [B, I], [U, I] and [U]")
    return (rows, units), (rows or 1) * units * width


def _matmul(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    if len(inputs) != 2 or len(inputs[0]) != 2 or len(inputs[1]) not in (1, 2):
        raise WireError(path, "expected a matrix, and a matrix or a vector")
    (rows, width), right = inputs
    if width is None or right[0] != width:
        raise WireError(path, f"shapes {[list(each) for each in inputs]}; expected [M, K] and [K, N] or [K]")
    shape = (rows, *right[1:])
    return shape, count_elements(shape) * width


OPERATORS: Final[dict[bytes, Operator]] = {
    b"Add": _binary,
    b"ArgMax": _arg_max,
    b"Constant": _constant,
    b"Exp": _unary,
    b"Gemm": _gemm,
    b"Identity": _unary,
    b"MatMul": _matmul,
    b"Max": _binary,
    b"Min": _binary,
    b"Mul": _binary,
    b"Relu": _unary,
    b"Softmax": _softmax,
    b"Sub": _binary,
    b"Tanh": _unary,
}
"""The operators of contract version 1, over all profiles, by name."""


def _expect(attributes: Attributes, expected: Mapping[bytes, tuple[int, ...]], path: str) -> None:
    if attributes.keys() != expected.keys() or any(attributes[name] not in expected[name] for name in expected):
        raise WireError(f"{path}.attribute", f"{shown(dict(attributes))}; expected {shown(dict(expected))}")


def _broadcast(path: str, left: Shape, right: Shape) -> Shape:
    """Gives the shape of an elementwise operation. Only an axis of length 1 stretches."""
    axes: list[int | None] = []
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    shorter = (1,) * (len(longer) - len(shorter)) + shorter
    for one, other in zip(longer, shorter, strict=True):
        if one != other and 1 not in (one, other):
            raise WireError(path, f"shapes {list(left)} and {list(right)} do not fit together")
        axes.append(other if one == 1 else one)
    return tuple(axes)
