"""One layer of a network, activation(W x + b), by the fastest kernel that torch brings.

torch's own matrix product and tanh are MKL's, which leaves a processor of another make than Intel's below its best:
on an AMD EPYC of the fifth generation oneDNN, which torch brings too, takes half the time for a product and a
thirteenth for a tanh. Where torch has no oneDNN, and for few rows, torch's own do the same.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Final, Literal

import torch

Activation = Literal["none", "relu", "tanh"]

_ACTIVATIONS: Final[dict[Activation, Callable[[torch.Tensor], torch.Tensor]]] = {
    "none": lambda values: values,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
# The kernel that `torch.compile` gives a linear layer.
_FUSED: Any = (
    torch.ops.mkldnn._linear_pointwise.default
    if torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)
_FEW_ROWS: Final = 64
_SIZES_OF_AN_OCTAVE: Final = 8


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGradient:
    """What a gradient came by on its way through one layer, z = W x + b.

    Attributes:
        index: which layer, counted from 0.
        inputs: [S or more, I]: x at each step.
        outputs: [S or more, O]: the loss's derivative by z at each step; zeros after the last.
    """

    index: int
    inputs: torch.Tensor
    outputs: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Notes:
    """Takes down what a gradient comes by in one layer.

    Attributes:
        index: which layer.
        found: where it is appended to.
    """

    index: int
    found: list[LayerGradient]


def layer(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    activation: Activation = "none",
    notes: Notes | None = None,
) -> torch.Tensor:
    """activation(inputs @ weightᵀ + bias), differentiable any number of times.

    Args:
        inputs: [B, I], or [T, B, I].
        weight: [O, I], or [T, O, I].
        bias: [O], or [T, O].
        activation: what is applied to each number.
        notes: take down the first gradient that passes; without an axis of tasks.

    Returns:
        [B, O] or [T, B, O].
    """
    if weight.ndim == 3:
        return _ACTIVATIONS[activation](inputs @ weight.mT + bias.unsqueeze(-2))
    outputs: torch.Tensor = _Layer.apply(inputs, weight, bias, activation, notes)  # type: ignore[no-untyped-call]
    return outputs


def rows_of_kernels(rows: int) -> int:
    """The least size of a batch, at or above this one, that is worth kernels of its own.

    oneDNN compiles its kernels for each size that it meets, which takes as long as running them a few times. A batch
    that is filled up to one of eight sizes in each power of two, at most an eighth more than it has, meets them again.
    """
    if rows < _FEW_ROWS or _FUSED is None:
        return rows
    grain = (1 << (rows.bit_length() - 1)) // _SIZES_OF_AN_OCTAVE
    return -(-rows // grain) * grain


class _Layer(torch.autograd.Function):
    """One layer; its derivative is made of layers again, without bias and activation."""

    # With a `setup_context`, as `torch.func` asks for, each call would take its signature apart.
    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: Activation,
        notes: Notes | None,
    ) -> torch.Tensor:
        outputs = _run(inputs, weight, bias, activation)
        ctx.activation, ctx.notes = activation, notes
        ctx.save_for_backward(inputs, weight, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, outputs = ctx.saved_tensors
        by_inputs, by_weight, by_bias, *_ = ctx.needs_input_grad
        if ctx.activation == "tanh":
            gradient = torch.ops.aten.tanh_backward.default(gradient, outputs)
        elif ctx.activation == "relu":
            gradient = torch.ops.aten.threshold_backward.default(gradient, outputs, 0)
        if ctx.notes is not None:
            ctx.notes.found.append(LayerGradient(ctx.notes.index, inputs.detach(), gradient.detach()))
        return (
            _product(gradient, weight.mT) if by_inputs else None,
            _product(gradient.mT, inputs.mT) if by_weight else None,
            gradient.sum(0) if by_bias else None,
            None,
            None,
        )


def _run(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    if _FUSED is not None and len(inputs) >= _FEW_ROWS and inputs.dtype == torch.float32:
        # A thread takes over the process's number of threads when torch first asks for it; oneDNN does not ask, and
        # would take every processor for one product.
        torch.get_num_threads()
        outputs: torch.Tensor = _FUSED(inputs, weight, bias, activation, [], "")
        return outputs
    return _ACTIVATIONS[activation](torch.nn.functional.linear(inputs, weight, bias))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Gives left @ rightᵀ of [M, K] and [N, K] -> [M, N]."""
    # Of two sides that are shorter than what is summed over, the kernel wants the shorter one first.
    swap = left.shape[1] > left.shape[0] > right.shape[0]
    product: torch.Tensor = _Layer.apply(*((right, left) if swap else (left, right)), None, "none", None)  # type: ignore[no-untyped-call]
    return product.mT if swap else product
