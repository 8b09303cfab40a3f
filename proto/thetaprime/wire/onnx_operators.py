"""The operators of the ONNX contract: the shape of each result, and what it costs.

A runtime computes constants when it loads a file, so two vectors of a small file can become a matrix of gigabytes. The
shapes here are computed without any number, except those of shapes themselves.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TypeAlias

from thetaprime.wire.errors import WireError
from thetaprime.wire.onnx_fields import shown

Shape: TypeAlias = tuple[int, ...]
"""Lengths of the axes; -k for the axis with k entries for each observation."""


class Ints(tuple[int, ...]):
    """An attribute that is a list of integers."""


class Integers(tuple[int, ...]):
    """The shape of a short list of int64 that a file holds, with its numbers.

    Attributes:
        numbers: the numbers.
    """

    numbers: tuple[int, ...]

    def __new__(cls, shape: Shape, numbers: tuple[int, ...]) -> Self:
        """Makes the shape of a list with these numbers."""
        made = super().__new__(cls, shape)
        made.numbers = numbers
        return made


Attributes: TypeAlias = Mapping[bytes, int | Shape | Ints]
"""The attributes of a node by name: integers, lists of them, and the shapes of tensors."""
Operator: TypeAlias = Callable[[Sequence[Shape], Attributes, str], tuple[Shape, int]]
"""Shapes of the inputs, attributes, path -> the shape of the result, and the operations that it takes."""

_MAX_AXES: Final = 6
_MAX_SPAN: Final = 1 << 20


def count_elements(shape: Shape) -> int:
    """Returns the numbers in a value, for one observation."""
    return abs(math.prod(shape))


def _elementwise(least: int, most: int, inputs: Sequence[Shape], path: str) -> tuple[Shape, int]:
    if not least <= len(inputs) <= most:
        raise WireError(path, f"{len(inputs)} inputs; expected {least} to {most}")
    # A tuple: the numbers of `Integers` are others after an operation.
    shape = tuple(functools.reduce(functools.partial(_broadcast, path), inputs))
    return shape, count_elements(shape) * len(inputs)


def _unary(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    return _elementwise(1, 1, inputs, path)


def _binary(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    return _elementwise(2, 2, inputs, path)


def _softmax(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    shape = _only(inputs, path)
    axis = attributes.get(b"axis")
    _expect_names(attributes, {b"axis"}, path)
    if not isinstance(axis, int) or not 0 <= axis < len(shape) or shape[axis] < 0:
        raise WireError(f"{path}.attribute", f"axis {shown(axis)}; expected one that is not of the observations")
    return _elementwise(1, 1, inputs, path)


def _arg_max(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"axis": (1,), b"keepdims": (0, 1)}, path)
    if len(inputs) != 1 or len(inputs[0]) != 2:
        raise WireError(path, "expected one input with two axes")
    return (inputs[0][0], 1) if attributes[b"keepdims"] else inputs[0][:1], count_elements(inputs[0])


def _cast(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"to": (1,)}, path)
    return _elementwise(1, 1, inputs, path)


def _constant(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    value = attributes.get(b"value")
    if inputs or len(attributes) != 1 or not isinstance(value, tuple) or isinstance(value, Ints):
        raise WireError(path, "expected no input, and the attribute value alone")
    return value, 0


def _gemm(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {b"transB": (1,)}, path)
    if len(inputs) != 3 or len(inputs[0]) != 2 or len(inputs[1]) != 2:
        raise WireError(path, "expected three inputs, the first two with two axes")
    (rows, width), (units, fan_in), bias = inputs
    if fan_in != width or units < 0 or width < 0 or _broadcast(path, (rows, units), bias) != (rows, units):
        raise WireError(path, f"shapes {[list(each) for each in inputs]}; expected [B, I], [U, I] and [U]")
    return (rows, units), abs(rows) * units * width


def _matmul(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    if len(inputs) != 2 or len(inputs[0]) < 2 or not inputs[1]:
        raise WireError(path, "expected a matrix, and a matrix or a vector")
    left, right = inputs
    width = left[-1]
    if width < 0 or right[-2 if len(right) > 1 else 0] != width:
        raise WireError(path, f"shapes {[list(each) for each in inputs]}; expected [M, K] and [K, N] or [K]")
    shape = left[:-1] if len(right) == 1 else (*_broadcast(path, left[:-2], right[:-2]), left[-2], right[-1])
    return _checked(shape, path), count_elements(shape) * width


def _conv(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect_names(attributes, {b"dilations", b"group", b"pads", b"strides"}, path)
    if not 2 <= len(inputs) <= 3 or len(inputs[0]) != len(inputs[1]) or len(inputs[0]) not in (3, 4):
        raise WireError(path, "expected an input [B, C, …] and a weight [U, C, …] with three or four axes each")
    values, weight = inputs[:2]
    group = attributes[b"group"]
    if not isinstance(group, int) or group < 1 or values[1] != weight[1] * group or weight[0] < 1 or weight[0] % group:
        raise WireError(path, f"shapes {[list(each) for each in inputs]} do not fit {shown(group)} groups")
    if len(inputs) == 3 and inputs[2] != weight[:1]:
        raise WireError(path, f"a bias of shape {list(inputs[2])}; expected {list(weight[:1])}")
    places = _places(values[2:], weight[2:], attributes, path)
    shape = (values[0], weight[0], *places)
    return shape, count_elements(shape) * math.prod(weight[1:])


def _pool(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    shape = _only(inputs, path)
    _expect_names(attributes, {b"kernel_shape", b"pads", b"strides"}, path)
    kernel = attributes[b"kernel_shape"]
    if len(shape) != 4 or not isinstance(kernel, Ints) or len(kernel) != 2:
        raise WireError(path, "expected an input with four axes, and two lengths of the kernel")
    result = (*shape[:2], *_places(shape[2:], kernel, attributes, path))
    return result, count_elements(result) * math.prod(kernel)


def _places(lengths: Shape, kernel: Shape, attributes: Attributes, path: str) -> Shape:
    """Gives the places of a kernel along each axis."""
    axes = len(lengths)
    given = {b"dilations": Ints((1,) * axes), **attributes}
    strides, dilations, pads = given[b"strides"], given[b"dilations"], given[b"pads"]
    for name, values, count, least in (
        ("strides", strides, axes, 1),
        ("dilations", dilations, axes, 1),
        ("pads", pads, 2 * axes, 0),
    ):
        if (
            not isinstance(values, Ints)
            or len(values) != count
            or not all(least <= each < _MAX_SPAN for each in values)
        ):
            raise WireError(f"{path}.attribute", f"{name} {shown(values)}; expected {count} integers from {least}")
    places = []
    for axis, (length, reach) in enumerate(zip(lengths, kernel, strict=True)):
        around = pads[axis] + pads[axes + axis]  # type: ignore[index]
        room = length + around - dilations[axis] * (reach - 1) - 1  # type: ignore[index]
        if length < 1 or not 1 <= reach < _MAX_SPAN or room < 0 or max(pads) >= reach * dilations[axis]:  # type: ignore[arg-type, index]
            raise WireError(
                path, f"a kernel of {shown(reach)} on an axis of {shown(length)}, with {shown(around)} added"
            )
        places.append(room // strides[axis] + 1)  # type: ignore[index]
    return tuple(places)


def _reduce(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    shape = _only(inputs, path)
    _expect_names(attributes, {b"axes", b"keepdims"}, path)
    axes, keep = attributes[b"axes"], attributes[b"keepdims"]
    valid = isinstance(axes, Ints) and len(axes) > 0 and len(set(axes)) == len(axes)
    if not valid or not all(0 <= axis < len(shape) and shape[axis] > 0 for axis in axes) or keep not in (0, 1):  # type: ignore[union-attr]
        raise WireError(f"{path}.attribute", f"axes {shown(axes)}; expected different ones, not of the observations")
    kept = [1 if axis in axes else length for axis, length in enumerate(shape) if keep or axis not in axes]  # type: ignore[operator]
    return tuple(kept), count_elements(shape)


def _reshape(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    numbers = _numbers(inputs, 2, path)[0]
    size = math.prod(inputs[0])
    if len(numbers) > _MAX_AXES or numbers.count(-1) > 1 or not all(each == -1 or each > 0 for each in numbers):
        raise WireError(path, f"into the shape {shown(numbers)}; expected lengths, and -1 once at most")
    known = math.prod(each for each in numbers if each != -1)
    shape = tuple(size // known if each == -1 else each for each in numbers)
    if math.prod(shape) != size:
        raise WireError(path, f"{list(inputs[0])} into the shape {shown(numbers)}")
    return shape, 0


def _slice(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect(attributes, {}, path)
    starts, ends, axes = _numbers(inputs, 4, path)
    shape = list(inputs[0])
    if not len(starts) == len(ends) == len(axes) == 1 or not 0 <= axes[0] < len(shape):
        raise WireError(path, f"along {shown(axes)}; expected one axis")
    start, end, axis = starts[0], ends[0], axes[0]
    if not 0 <= start < end <= shape[axis]:
        raise WireError(path, f"from {shown(start)} to {shown(end)} of an axis of {shape[axis]}")
    shape[axis] = end - start
    return tuple(shape), 0


def _transpose(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    shape = _only(inputs, path)
    _expect_names(attributes, {b"perm"}, path)
    order = attributes[b"perm"]
    if not isinstance(order, Ints) or sorted(order) != list(range(len(shape))):
        raise WireError(f"{path}.attribute", f"perm {shown(order)}; expected each of {len(shape)} axes once")
    return tuple(shape[axis] for axis in order), 0


def _concat(inputs: Sequence[Shape], attributes: Attributes, path: str) -> tuple[Shape, int]:
    _expect_names(attributes, {b"axis"}, path)
    axis = attributes[b"axis"]
    if not inputs or not isinstance(axis, int) or not 0 <= axis < len(inputs[0]):
        raise WireError(path, f"along the axis {shown(axis)}; expected one of the inputs'")
    total = 0
    for each in inputs:
        if (
            len(each) != len(inputs[0])
            or each[axis] < 0
            or [*each[:axis], *each[axis + 1 :]]
            != [
                *inputs[0][:axis],
                *inputs[0][axis + 1 :],
            ]
        ):
            raise WireError(path, f"shapes {[list(shape) for shape in inputs[:4]]} do not fit together")
        total += each[axis]
    return (*inputs[0][:axis], total, *inputs[0][axis + 1 :]), 0


OPERATORS: Final[dict[bytes, Operator]] = {
    b"Add": _binary,
    b"ArgMax": _arg_max,
    b"AveragePool": _pool,
    b"Cast": _cast,
    b"Concat": _concat,
    b"Constant": _constant,
    b"Conv": _conv,
    b"Div": _binary,
    b"Erf": _unary,
    b"Exp": _unary,
    b"Gemm": _gemm,
    b"Identity": _unary,
    b"Log": _unary,
    b"MatMul": _matmul,
    b"Max": _binary,
    b"MaxPool": _pool,
    b"Min": _binary,
    b"Mul": _binary,
    b"ReduceMax": _reduce,
    b"ReduceMean": _reduce,
    b"Relu": _unary,
    b"Reshape": _reshape,
    b"Sigmoid": _unary,
    b"Slice": _slice,
    b"Softmax": _softmax,
    b"Sqrt": _unary,
    b"Sub": _binary,
    b"Tanh": _unary,
    b"Transpose": _transpose,
}
"""The operators of contract versions 1 and 2, over all networks and profiles, by name."""


def _only(inputs: Sequence[Shape], path: str) -> Shape:
    if len(inputs) != 1:
        raise WireError(path, f"{len(inputs)} inputs; expected 1")
    return inputs[0]


def _numbers(inputs: Sequence[Shape], count: int, path: str) -> list[tuple[int, ...]]:
    """Gives the numbers of all inputs but the first."""
    found = [each.numbers for each in inputs[1:] if isinstance(each, Integers)]
    if len(inputs) != count or len(found) != count - 1:
        raise WireError(path, f"expected {count} inputs, all but the first short lists of int64 in the file")
    return found


def _checked(shape: Shape, path: str) -> Shape:
    if len(shape) > _MAX_AXES or sum(each < 0 for each in shape) > 1:
        raise WireError(path, f"a result of shape {list(shape)}; expected one axis of observations")
    return shape


def _expect_names(attributes: Attributes, names: set[bytes], path: str) -> None:
    if attributes.keys() != names:
        raise WireError(f"{path}.attribute", f"{shown(sorted(attributes))}; expected {shown(sorted(names))}")


def _expect(attributes: Attributes, expected: Mapping[bytes, tuple[int, ...]], path: str) -> None:
    if attributes.keys() != expected.keys() or any(attributes[name] not in expected[name] for name in expected):
        raise WireError(f"{path}.attribute", f"{shown(dict(attributes))}; expected {shown(dict(expected))}")


def _broadcast(path: str, left: Shape, right: Shape) -> Shape:
    """Gives the shape of an elementwise operation. Only an axis of length 1 stretches."""
    axes: list[int] = []
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    shorter = (1,) * (len(longer) - len(shorter)) + shorter
    for one, other in zip(longer, shorter, strict=True):
        if one != other and 1 not in (one, other):
            raise WireError(path, f"shapes {list(left)} and {list(right)} do not fit together")
        axes.append(other if one == 1 else one)
    return _checked(tuple(axes), path)
