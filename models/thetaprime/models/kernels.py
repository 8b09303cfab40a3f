"""One layer of a network, activation(W x + b), by the fastest kernel in torch.

torch's own matrix product and tanh come from MKL, which is slow on processors of other makes than Intel's. oneDNN, also
part of torch, takes half the time for a product and a thirteenth for a tanh (AMD EPYC, fifth generation). Without
oneDNN, for few rows, and for the gradient by the weights, torch's own operations are used.
"""

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


def layer(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: Activation = "none"
) -> torch.Tensor:
    """activation(inputs @ weightᵀ + bias), differentiable any number of times.

    Args:
        inputs: [B, I], or [T, B, I].
        weight: [O, I], or [T, O, I].
        bias: [O], or [T, O].
        activation: applied to each number.

    Returns:
        [B, O] or [T, B, O].
    """
    if weight.ndim == 3:
        return _ACTIVATIONS[activation](inputs @ weight.mT + bias.unsqueeze(-2))
    return _differentiable(inputs, weight, bias, activation)


def activation_backward(gradient: torch.Tensor, outputs: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The gradient by an activation's inputs, from the gradient by its outputs."""
    if activation == "tanh":
        gradient = torch.ops.aten.tanh_backward.default(gradient, outputs)
    elif activation == "relu":
        gradient = torch.ops.aten.threshold_backward.default(gradient, outputs, 0)
    return gradient


def rows_of_kernels(rows: int) -> int:
    """The number of rows that a batch is padded to before it goes through the layers.

    oneDNN compiles its kernels for each number of rows that it meets, which takes as long as running them a few times.
    Padded to one of eight sizes in each power of two, at most an eighth more, a batch meets compiled kernels again.
    """
    if rows < _FEW_ROWS or _FUSED is None:
        return rows
    grain = (1 << (rows.bit_length() - 1)) // _SIZES_OF_AN_OCTAVE
    return -(-rows // grain) * grain


class _Layer(torch.autograd.Function):
    """One layer. Its derivative consists of layers again, without bias and activation."""

    # With a `setup_context`, which `torch.func` asks for, each call would inspect its signature.
    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation
    ) -> torch.Tensor:
        outputs = _run(inputs, weight, bias, activation)
        ctx.activation = activation
        ctx.save_for_backward(inputs, weight, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, outputs = ctx.saved_tensors
        by_inputs, by_weight, by_bias, _ = ctx.needs_input_grad
        gradient = activation_backward(gradient, outputs, ctx.activation)
        return (
            product(gradient, weight.mT) if by_inputs else None,
            sum_of_products(gradient, inputs) if by_weight else None,
            gradient.sum(0) if by_bias else None,
            None,
        )


def _differentiable(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation
) -> torch.Tensor:
    # autograd's bookkeeping takes as long as a product of a hundred rows.
    if not torch.is_grad_enabled():
        return _run(inputs, weight, bias, activation)
    outputs: torch.Tensor = _Layer.apply(inputs, weight, bias, activation)  # type: ignore[no-untyped-call]
    return outputs


def _run(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    if _FUSED is not None and len(inputs) >= _FEW_ROWS and inputs.dtype == torch.float32:
        # A thread adopts the process's number of threads when torch first asks for it. oneDNN does not ask, and would
        # take every processor for one product.
        torch.get_num_threads()
        outputs: torch.Tensor = _FUSED(inputs, weight, bias, activation, [], "")
        return outputs
    return _ACTIVATIONS[activation](torch.nn.functional.linear(inputs, weight, bias))


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left @ rightᵀ of [M, K] and [N, K] -> [M, N], differentiable any number of times."""
    return _differentiable(left, right, None, "none")


def sum_of_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """leftᵀ @ right of [B, M] and [B, N] -> [M, N]."""
    # oneDNN would first copy both sides with the axes exchanged: it takes 1.3 times as long as torch's own product,
    # which is fastest with the shorter side first.
    return left.mT @ right if left.shape[1] <= right.shape[1] else (right.mT @ left).mT
