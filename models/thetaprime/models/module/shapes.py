"""The shape of each operation's result, from the shapes of its inputs: a program is checked before it takes memory.

torch could tell them, too, on its device without memory. That imports its compiler: 1.2 s and 100 MB in every server.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Shape = tuple[int, ...]
"""Lengths of the axes. -k stands for an axis with k entries for each observation."""
Attributes = Mapping[str, Any]

_MAX_AXES: Final = 6


class ShapeError(ValueError):
    """Inputs that an operation cannot take."""


def result_shape(operation: str, inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    """The shape of the result.

    Args:
        operation: of `OPERATIONS`, with as many inputs and with the attributes that it takes.
        inputs: their shapes.
        attributes: by name.

    Raises:
        ShapeError: the operation cannot take such inputs.
    """
    shape = _RULES.get(operation, _elementwise)(inputs, attributes)
    if len(shape) > _MAX_AXES or sum(each < 0 for each in shape) > 1 or not all(shape):
        raise ShapeError(
            f"a result of shape {shown(shape)}; expected at most {_MAX_AXES} axes of 1 or more, and one of observations"
        )
    return shape


def shown(shape: Shape) -> str:
    """A shape in words, with B observations."""
    axes = ("B" if each == -1 else f"{-each} B" if each < 0 else str(each) for each in shape)
    return f"[{', '.join(axes)}]"


def _expect(condition: bool, inputs: Sequence[Shape], expected: str) -> None:
    if not condition:
        raise ShapeError(f"inputs {', '.join(map(shown, inputs[:4]))}; expected {expected}")


def _elementwise(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    count = max(map(len, inputs))
    padded = [(1,) * (count - len(each)) + each for each in inputs]
    axes = []
    for lengths in zip(*padded, strict=True):
        longer = {each for each in lengths if each != 1}
        _expect(len(longer) <= 1, inputs, "equal axes, or axes of length 1")
        axes.append(longer.pop() if longer else 1)
    return tuple(axes)


def _linear(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    values, weight, *bias = inputs
    fits = len(values) >= 1 and len(weight) == 2 and values[-1] == weight[1] and min(weight) > 0
    _expect(fits and bias in ([], [weight[:1]]), inputs, "[…, I], [U, I] and [U]")
    return (*values[:-1], weight[0])


def _matmul(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    left, right = inputs
    fits = len(left) >= 2 and len(right) >= 2 and left[-1] == right[-2] and left[-1] > 0
    _expect(fits, inputs, "[…, M, K] and […, K, N]")
    return (*_elementwise([left[:-2], right[:-2]], attributes), left[-2], right[-1])


def _conv(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    values, weight, *bias = inputs
    groups = attributes["groups"]
    fits = len(values) == len(weight) and len(values) in (3, 4) and groups >= 1 and min(weight) > 0
    fits = fits and values[1] == weight[1] * groups and weight[0] % groups == 0 and bias in ([], [weight[:1]])
    _expect(fits, inputs, "[B, C, …], [U, C / groups, …] and [U]")
    return (values[0], weight[0], *_places(inputs, values[2:], weight[2:], attributes))


def _pool(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    (values,) = inputs
    _expect(len(values) == 4, inputs, "[B, C, H, W]")
    kernel = attributes["kernel"]
    places = _places(inputs, values[2:], kernel, attributes)
    halves = [2 * padding <= length for padding, length in zip(attributes["padding"], kernel, strict=True)]
    _expect(all(halves), inputs, "a padding of at most half the kernel")
    return (*values[:2], *places)


def _places(inputs: Sequence[Shape], lengths: Shape, kernel: Sequence[int], attributes: Attributes) -> Shape:
    """The places of a kernel along each axis."""
    axes = len(lengths)
    stride, padding = attributes["stride"], attributes["padding"]
    dilation = attributes.get("dilation", [1] * axes)
    counts = all(len(each) == axes for each in (kernel, stride, padding, dilation))
    _expect(counts, inputs, f"{axes} lengths of kernel, stride, padding and dilation")
    valid = min(*lengths, *kernel, *stride, *dilation) >= 1 and min(padding) >= 0
    found = []
    for length, size, step, around, apart in zip(lengths, kernel, stride, padding, dilation, strict=True):
        room = length + 2 * around - apart * (size - 1) - 1
        _expect(valid and room >= 0 and around <= apart * size, inputs, "a kernel within the padded input")
        found.append(room // step + 1)
    return tuple(found)


def _layer_norm(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    values, *affine = inputs
    axes = attributes["axes"]
    fits = 1 <= axes <= len(values)
    last = values[len(values) - axes :] if fits else ()
    _expect(
        fits and min(last) > 0 and all(each == last for each in affine), inputs, "a weight and bias of the last axes"
    )
    return values


def _reduce(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    (values,) = inputs
    axes, keep = attributes["axes"], attributes["keepdim"]
    valid = len(axes) > 0 and len(set(axes)) == len(axes) and all(_is_axis(axis, values) for axis in axes)
    _expect(valid and keep in (0, 1), inputs, "different axes, not of the observations")
    return tuple(1 if axis in axes else each for axis, each in enumerate(values) if keep or axis not in axes)


def _softmax(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    _expect(_is_axis(attributes["axis"], inputs[0]), inputs, "an axis that is not of the observations")
    return inputs[0]


def _is_axis(axis: int, shape: Shape) -> bool:
    return 0 <= axis < len(shape) and shape[axis] > 0


def _reshape(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    shape, size = attributes["shape"], math.prod(inputs[0])
    valid = shape.count(-1) <= 1 and all(each == -1 or each > 0 for each in shape)
    _expect(valid, inputs, "lengths, and -1 once at most")
    known = math.prod(each for each in shape if each != -1)
    result = tuple(size // known if each == -1 else each for each in shape)
    _expect(math.prod(result) == size, inputs, f"as many numbers as in {shape}")
    return result


def _permute(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    axes = attributes["axes"]
    _expect(sorted(axes) == list(range(len(inputs[0]))), inputs, f"each axis once; got {axes}")
    return tuple(inputs[0][axis] for axis in axes)


def _slice(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    (values,) = inputs
    axis, start, end = attributes["axis"], attributes["start"], attributes["end"]
    valid = _is_axis(axis, values) and 0 <= start < end <= values[axis]
    _expect(valid, inputs, f"an axis {axis} with numbers from {start} to {end}")
    return (*values[:axis], end - start, *values[axis + 1 :])


def _cat(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    axis, first = attributes["axis"], inputs[0]
    for each in inputs:
        same = len(each) == len(first) and _is_axis(axis, each)
        _expect(
            same and each[:axis] == first[:axis] and each[axis + 1 :] == first[axis + 1 :], inputs, "equal other axes"
        )
    return (*first[:axis], sum(each[axis] for each in inputs), *first[axis + 1 :])


_RULES: Final[Mapping[str, Callable[[Sequence[Shape], Attributes], Shape]]] = {
    "amax": _reduce,
    "avg_pool": _pool,
    "cat": _cat,
    "conv": _conv,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "max_pool": _pool,
    "mean": _reduce,
    "permute": _permute,
    "reshape": _reshape,
    "slice": _slice,
    "softmax": _softmax,
    "sum": _reduce,
}
