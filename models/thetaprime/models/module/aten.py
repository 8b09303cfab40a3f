"""What each call of ATen is in our own operations."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx

from thetaprime.models.module.graph_writer import Arguments, GraphWriter, Reference, Write
from thetaprime.models.module.program import OBSERVATIONS

_NO_END: Final = 2**31


def _simple(operation: str, *names: str) -> Write:
    def write(writer: GraphWriter, a: Arguments) -> Reference:
        return writer.call(operation, *(writer.tensor(a[name]) for name in names))

    return write


def _scaled(operation: str) -> Write:
    def write(writer: GraphWriter, a: Arguments) -> Reference:
        other = writer.tensor(a["other"])
        if a.get("alpha", 1) != 1:
            other = writer.call("mul", other, writer.tensor(a["alpha"]))
        return writer.call(operation, writer.tensor(a["self"]), other)

    return write


def _same(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.tensor(a["self"])


def _no_dropout(writer: GraphWriter, a: Arguments) -> Reference:
    if a["p"]:
        raise writer.refuse(f"draws noise, p = {a['p']}; expected 0")
    return writer.tensor(a["input"])


def _cast(writer: GraphWriter, a: Arguments) -> Reference:
    if writer.node.meta["val"].dtype != torch.float32:
        raise writer.refuse(f"gives {writer.node.meta['val'].dtype}; expected float32")
    return writer.tensor(a["self"])


def _reshaped(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.reshape(writer.tensor(a["self"]), writer.shape())


def _linear(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call(
        "linear", *(writer.tensor(a[name]) for name in ("input", "weight", "bias") if a[name] is not None)
    )


def _addmm(writer: GraphWriter, a: Arguments) -> Reference:
    product = writer.call("matmul", writer.tensor(a["mat1"]), writer.tensor(a["mat2"]))
    return writer.call("add", product, writer.tensor(a["self"]))


def _convolution(writer: GraphWriter, a: Arguments) -> Reference:
    if isinstance(a["padding"], str):
        raise writer.refuse(f"padding {a['padding']!r}; expected numbers")
    axes = len(writer.shape(a["weight"])) - 2
    if len(writer.shape(a["input"])) != axes + 2:
        raise writer.refuse("expected an axis of observations, then channels")

    def per_axis(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * axes if len(values) == 1 else values

    inputs = [writer.tensor(a[name]) for name in ("input", "weight", "bias") if a[name] is not None]
    return writer.call(
        "conv",
        *inputs,
        stride=per_axis(a["stride"]),
        padding=per_axis(a["padding"]),
        dilation=per_axis(a["dilation"]),
        groups=a["groups"],
    )


def _pool(operation: str) -> Write:
    def write(writer: GraphWriter, a: Arguments) -> Reference:
        def pair(value: Any) -> list[int]:
            values = [value] if isinstance(value, int) else list(value)
            return values * 2 if len(values) == 1 else values

        padding = pair(a["padding"])
        dilated = pair(a.get("dilation", 1)) != [1, 1]
        counted = operation == "avg_pool" and any(padding)
        if a.get("ceil_mode") or dilated or counted or a.get("divisor_override") or len(writer.shape(a["self"])) != 4:
            raise writer.refuse("expected [B, channels, height, width], and no ceil_mode, dilation or padding in means")
        kernel = pair(a["kernel_size"])
        stride = pair(a["stride"]) if a["stride"] else kernel
        return writer.call(operation, writer.tensor(a["self"]), kernel=kernel, stride=stride, padding=padding)

    return write


def _adaptive_mean(writer: GraphWriter, a: Arguments) -> Reference:
    if list(a["output_size"]) != [1, 1]:
        raise writer.refuse(f"output size {list(a['output_size'])}; expected 1, or nn.AvgPool2d")
    axes = len(writer.shape(a["self"]))
    return writer.call("mean", writer.tensor(a["self"]), axes=[axes - 2, axes - 1], keepdim=1)


def _layer_norm(writer: GraphWriter, a: Arguments) -> Reference:
    tensors = [writer.tensor(a[name]) for name in ("input", "weight", "bias") if a[name] is not None]
    return writer.call("layer_norm", *tensors, axes=len(a["normalized_shape"]), epsilon=a["eps"])


def _group_norm(writer: GraphWriter, a: Arguments) -> Reference:
    shape = writer.shape()
    grouped = writer.reshape(writer.tensor(a["input"]), [-1, a["num_groups"], _product(shape[1:]) // a["num_groups"]])
    result = writer.reshape(writer.call("layer_norm", grouped, axes=1, epsilon=a["eps"]), shape)
    channels = [shape[1]] + [1] * (len(shape) - 2)
    for name, operation in (("weight", "mul"), ("bias", "add")):
        if a[name] is not None:
            result = writer.call(operation, result, writer.reshape(writer.tensor(a[name]), channels))
    return result


def _product(lengths: Sequence[int]) -> int:
    product = 1
    for each in lengths:
        product *= each
    return product


def _attention(writer: GraphWriter, a: Arguments) -> Reference:
    if a["attn_mask"] is not None or a["is_causal"] or a["dropout_p"] or a.get("enable_gqa"):
        raise writer.refuse("expected attention without a mask, causality, dropout or grouped queries")
    query, key, value = (writer.tensor(a[name]) for name in ("query", "key", "value"))
    axes = list(range(len(writer.shape(a["key"]))))
    turned = writer.call("permute", key, axes=[*axes[:-2], axes[-1], axes[-2]])
    scale = a["scale"] or writer.shape(a["query"])[-1] ** -0.5
    scores = writer.call("mul", writer.call("matmul", query, turned), writer.tensor(scale))
    return writer.call("matmul", writer.call("softmax", scores, axis=axes[-1]), value)


def _transposed(writer: GraphWriter, a: Arguments) -> Reference:
    axes = list(range(len(writer.shape())))
    first, second = (writer.axis(a[name]) for name in ("dim0", "dim1"))
    axes[first], axes[second] = axes[second], axes[first]
    return writer.call("permute", writer.tensor(a["self"]), axes=axes)


def _turned(writer: GraphWriter, a: Arguments) -> Reference:
    axes = list(range(len(writer.shape())))
    return writer.call("permute", writer.tensor(a["self"]), axes=axes[::-1])


def _permuted(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call("permute", writer.tensor(a["self"]), axes=[writer.axis(each) for each in a["dims"]])


def _sliced(writer: GraphWriter, reference: Reference, node: fx.Node, axis: int, start: int, end: int) -> Reference:
    length = writer.shape(node)[axis]
    if length == -1:
        if start == 0 and end >= _NO_END:
            return reference
        raise writer.refuse("takes some of the observations; expected all of them")
    start, end = (min(each + length if each < 0 else each, length) for each in (start, end))
    if (start, end) == (0, length):
        return reference
    return writer.call("slice", reference, axis=axis, start=start, end=end)


def _slice(writer: GraphWriter, a: Arguments) -> Reference:
    if a["step"] != 1:
        raise writer.refuse(f"step {a['step']}; expected 1")
    start, end = a["start"] or 0, _NO_END if a["end"] is None else a["end"]
    return _sliced(writer, writer.tensor(a["self"]), a["self"], writer.axis(a["dim"], a["self"]), start, end)


def _select(writer: GraphWriter, a: Arguments) -> Reference:
    axis, index = writer.axis(a["dim"], a["self"]), a["index"]
    length = writer.shape(a["self"])[axis]
    if length == -1:
        raise writer.refuse("takes one of the observations; expected all of them")
    index += length if index < 0 else 0
    part = _sliced(writer, writer.tensor(a["self"]), a["self"], axis, index, index + 1)
    return writer.reshape(part, writer.shape())


def _split(writer: GraphWriter, a: Arguments) -> Reference:
    axis = writer.axis(a["dim"], a["self"])
    length = writer.shape(a["self"])[axis]
    sizes = a.get("split_sizes", a.get("split_size"))
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(_sliced(writer, writer.tensor(a["self"]), a["self"], axis, start, start + size))
        start += size
    return writer.split(parts)


def _cat(writer: GraphWriter, a: Arguments) -> Reference:
    axis = writer.axis(a["dim"])
    if writer.shape()[axis] == -1:
        raise writer.refuse("joins observations; expected another axis")
    return writer.call("cat", *(writer.tensor(each) for each in a["tensors"]), axis=axis)


def _stack(writer: GraphWriter, a: Arguments) -> Reference:
    axis, shape = writer.axis(a["dim"]), writer.shape()
    one = [1 if index == axis else length for index, length in enumerate(shape)]
    return writer.call("cat", *(writer.reshape(writer.tensor(each), one) for each in a["tensors"]), axis=axis)


def _expand(writer: GraphWriter, a: Arguments) -> Reference:
    result, before, after = writer.tensor(a["self"]), writer.shape(a["self"]), writer.shape()
    fixed = [1 if each == -1 else each for each in after]
    if [1] * (len(after) - len(before)) + [1 if each == -1 else each for each in before] != fixed:
        result = writer.call("mul", result, writer.tensor(torch.ones(fixed)))
    if -1 in after and -1 not in before:
        # A zero for each observation repeats what is added to it.
        count = _product(writer.observation_shape)
        first = writer.call("slice", writer.reshape(OBSERVATIONS, [-1, count]), axis=1, start=0, end=1)
        zeros = writer.call("mul", first, writer.tensor(0.0))
        result = writer.call("add", writer.reshape(zeros, [-1 if each == -1 else 1 for each in after]), result)
    return result


def _reduced(operation: str) -> Write:
    def write(writer: GraphWriter, a: Arguments) -> Reference:
        axes = writer.axes(a["dim"], a["self"])
        return writer.call(operation, writer.tensor(a["self"]), axes=axes, keepdim=int(a["keepdim"]))

    return write


def _softmax(writer: GraphWriter, a: Arguments) -> Reference:
    (axis,) = writer.axes(a["dim"], a["self"])
    return writer.call("softmax", writer.tensor(a["self"]), axis=axis)


def _silu(writer: GraphWriter, a: Arguments) -> Reference:
    value = writer.tensor(a["self"])
    return writer.call("mul", value, writer.call("sigmoid", value))


def _gelu(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call("gelu" if a["approximate"] == "none" else "gelu_tanh", writer.tensor(a["self"]))


def _elu(writer: GraphWriter, a: Arguments) -> Reference:
    if a["scale"] != 1 or a["input_scale"] != 1:
        raise writer.refuse("expected the plain form, nn.ELU")
    return writer.call("elu", writer.tensor(a["self"]), alpha=float(a["alpha"]))


def _leaky_relu(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call("leaky_relu", writer.tensor(a["self"]), slope=float(a["negative_slope"]))


def _softplus(writer: GraphWriter, a: Arguments) -> Reference:
    if (a["beta"], a["threshold"]) != (1, 20):
        raise writer.refuse(f"beta {a['beta']} and threshold {a['threshold']}; expected 1 and 20")
    return writer.call("softplus", writer.tensor(a["self"]))


def _clamp(low: str, high: str) -> Write:
    def write(writer: GraphWriter, a: Arguments) -> Reference:
        least = float("-inf") if a.get(low) is None else float(a[low])
        most = float("inf") if a.get(high) is None else float(a[high])
        return writer.call("clamp", writer.tensor(a["self"]), low=least, high=most)

    return write


def _power(writer: GraphWriter, a: Arguments) -> Reference:
    value, exponent = writer.tensor(a["self"]), a["exponent"]
    if exponent == 0.5:
        return writer.call("sqrt", value)
    if exponent not in (1, 2, 3, 4):
        raise writer.refuse(f"exponent {exponent}; expected 0.5, 1, 2, 3 or 4")
    result = value
    for _ in range(int(exponent) - 1):
        result = writer.call("mul", result, value)
    return result


def _negated(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call("mul", writer.tensor(a["self"]), writer.tensor(-1.0))


def _reversed_division(writer: GraphWriter, a: Arguments) -> Reference:
    return writer.call("div", writer.tensor(1.0), writer.tensor(a["self"]))


WRITERS: Final[Mapping[str, Write]] = {
    **{
        f"aten.{name}.default": _simple(name, "self")
        for name in ("abs", "exp", "log", "relu", "sigmoid", "sqrt", "tanh")
    },
    **{f"aten.{name}.{form}": _scaled(name) for name in ("add", "sub") for form in ("Tensor", "Scalar")},
    **{
        f"aten.{name}.{form}": _simple(name, "self", "other")
        for name in ("mul", "div")
        for form in ("Tensor", "Scalar")
    },
    **{f"aten.{name}.default": _simple(name, "self", "other") for name in ("maximum", "minimum", "matmul")},
    "aten.mm.default": _simple("matmul", "self", "mat2"),
    "aten.bmm.default": _simple("matmul", "self", "mat2"),
    "aten.addmm.default": _addmm,
    "aten.linear.default": _linear,
    "aten.conv1d.default": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.max_pool2d.default": _pool("max_pool"),
    "aten.avg_pool2d.default": _pool("avg_pool"),
    "aten.adaptive_avg_pool2d.default": _adaptive_mean,
    "aten.layer_norm.default": _layer_norm,
    "aten.group_norm.default": _group_norm,
    "aten.scaled_dot_product_attention.default": _attention,
    **{
        f"aten.{name}": _reshaped
        for name in (
            *("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int"),
            *("unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default"),
        )
    },
    **{f"aten.{name}.default": _same for name in ("contiguous", "clone", "alias")},
    # Dropout of 0, since any other layer is refused.
    **{f"aten.{name}.default": _no_dropout for name in ("dropout", "feature_dropout")},
    **{f"aten.{name}": _cast for name in ("to.dtype", "_to_copy.default", "to.device", "to.dtype_layout")},
    "aten.transpose.int": _transposed,
    "aten.t.default": _turned,
    "aten.numpy_T.default": _turned,
    "aten.permute.default": _permuted,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.cat.default": _cat,
    "aten.stack.default": _stack,
    "aten.expand.default": _expand,
    "aten.mean.dim": _reduced("mean"),
    "aten.sum.dim_IntList": _reduced("sum"),
    "aten.amax.default": _reduced("amax"),
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.silu.default": _silu,
    "aten.gelu.default": _gelu,
    "aten.elu.default": _elu,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.softplus.default": _softplus,
    "aten.clamp.default": _clamp("min", "max"),
    "aten.clamp_min.default": _clamp("min", ""),
    "aten.hardtanh.default": _clamp("min_val", "max_val"),
    "aten.pow.Tensor_Scalar": _power,
    "aten.neg.default": _negated,
    "aten.reciprocal.default": _reversed_division,
}
