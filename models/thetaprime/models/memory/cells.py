"""Recurrent cells in plain operations: matrix product, sigmoid and arithmetic.

ONNX, `torch.func` and double differentiation take these operations; they do not take `torch.nn.GRU` and
`torch.nn.LSTM`, whose equations and order of gates the cells share:

    GRU     r, z = σ(W_r x + U_r h), σ(W_z x + U_z h)      n = tanh(W_n x + r ⊙ (U_n h))      h′ = (1 − z) ⊙ n + z ⊙ h
    LSTM    i, f, o = σ(W x + U h) each                    g = tanh(W_g x + U_g h)            c′ = f ⊙ c + i ⊙ g
            h′ = o ⊙ tanh(c′)

with a bias in each W and each U. The rows of `memory.weight_ih` are r, z, n, or i, f, g, o.
"""

from typing import Final, Literal

import torch

from thetaprime.models.parameters import Parameters

Cell = Literal["gru", "lstm"]
MemoryState = tuple[torch.Tensor, ...]
"""The state of a memory: h for a GRU, h and c for an LSTM, [B, H] each."""

GATES: Final[dict[Cell, int]] = {"gru": 3, "lstm": 4}
"""Gates of each cell, including the candidate."""
WEIGHT_IH, WEIGHT_HH = "memory.weight_ih", "memory.weight_hh"
BIAS_IH, BIAS_HH = "memory.bias_ih", "memory.bias_hh"
INITIAL, INITIAL_CELL = "memory.initial", "memory.initial_cell"


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Inputs @ weightᵀ + bias.

    Args:
        inputs: [*, I], or [T, *, I] if the weight has a leading axis of T tasks.
        weight: [O, I] or [T, O, I].
        bias: [O] or [T, O].

    Returns:
        [*, O] or [T, *, O].
    """
    if weight.ndim == 2:
        return torch.nn.functional.linear(inputs, weight, bias)
    between = (1,) * (inputs.ndim - 2)
    return inputs @ weight.mT.reshape(len(weight), *between[1:], *weight.mT.shape[1:]) + bias.reshape(
        len(bias), *between, -1
    )


def tanh(values: torch.Tensor) -> torch.Tensor:
    """The hyperbolic tangent, as a sigmoid: torch's own takes seven times as long where MKL computes it (AMD EPYC)."""
    return 2.0 * torch.sigmoid(2.0 * values) - 1.0


def cell_shapes(cell: Cell, inputs: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a cell by name, and of its initial state."""
    rows = GATES[cell] * size
    shapes: dict[str, tuple[int, ...]] = {
        WEIGHT_IH: (rows, inputs),
        WEIGHT_HH: (rows, size),
        BIAS_IH: (rows,),
        BIAS_HH: (rows,),
        INITIAL: (size,),
    }
    return shapes | ({INITIAL_CELL: (size,)} if cell == "lstm" else {})


def init_cell(cell: Cell, inputs: int, size: int, generator: torch.Generator) -> Parameters:
    """Draws a cell's parameters: Glorot-uniform input weights and orthogonal recurrent weights, gate by gate.

    Biases and the initial state are zero, but for the LSTM's forget gate, whose bias is 1 (Jozefowicz et al. 2015).
    """
    gates = GATES[cell]
    parameters = {name: torch.zeros(shape) for name, shape in cell_shapes(cell, inputs, size).items()}
    bound = (6.0 / (inputs + size)) ** 0.5
    parameters[WEIGHT_IH].uniform_(-bound, bound, generator=generator)
    for gate in range(gates):
        rows = slice(gate * size, (gate + 1) * size)
        torch.nn.init.orthogonal_(parameters[WEIGHT_HH][rows], generator=generator)
    if cell == "lstm":
        parameters[BIAS_IH][size : 2 * size] = 1.0
    return parameters


def project_inputs(parameters: Parameters, inputs: torch.Tensor) -> torch.Tensor:
    """W x with its bias, for all steps at once: [*, I] -> [*, G·H]."""
    return linear(inputs, parameters[WEIGHT_IH], parameters[BIAS_IH])


def cell_step(cell: Cell, parameters: Parameters, projected: torch.Tensor, state: MemoryState) -> MemoryState:
    """The next state.

    Args:
        cell: the kind.
        parameters: of the memory; each may have a leading axis of T tasks.
        projected: [B, G·H] or [T, B, G·H], from `project_inputs`.
        state: [B, H] or [T, B, H] each.
    """
    recurrent = linear(state[0], parameters[WEIGHT_HH], parameters[BIAS_HH])
    size = state[0].shape[-1]
    if cell == "gru":
        gates = torch.sigmoid(projected[..., : 2 * size] + recurrent[..., : 2 * size])
        reset, update = gates.chunk(2, -1)
        candidate = tanh(projected[..., 2 * size :] + reset * recurrent[..., 2 * size :])
        return (candidate + update * (state[0] - candidate),)
    sums = projected + recurrent
    gates = torch.sigmoid(torch.cat([sums[..., : 2 * size], sums[..., 3 * size :]], -1))
    admit, forget, release = gates.chunk(3, -1)
    content = forget * state[1] + admit * tanh(sums[..., 2 * size : 3 * size])
    return release * tanh(content), content
