"""Golden sequences: the outputs of a graph that carries a state, over some steps of some lifetimes.

Each step starts from the state that the step before gave, rounded like every output. So a sequence is as many golden
vectors as it has steps: equal on every processor, without an error that grows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch

from thetaprime.models.golden import evaluate_rounded
from thetaprime.models.memory import MemoryInputs, RecurrentPolicy
from thetaprime.models.onnx.golden import graph_network
from thetaprime.models.onnx.memory_graph import (
    PREVIOUS_ACTION,
    PREVIOUS_DONE,
    PREVIOUS_REWARD,
    StateTensor,
    start_inputs,
)
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.template import MEMORY_CONTRACT_VERSION as _VERSION
from thetaprime.models.parameters import Parameters

STEPS: Final = 6
"""Steps of each sequence."""
MOST_SEQUENCES: Final = 3

_Arrays = dict[str, npt.NDArray[Any]]


def golden_inputs(
    policy: RecurrentPolicy, observations: npt.NDArray[np.float32]
) -> tuple[_Arrays, npt.NDArray[np.bool_]]:
    """The inputs of a policy's golden sequences, equal on every machine.

    Args:
        policy: the policy.
        observations: [N, O], flattened; each sequence walks through them.

    Returns:
        [K, T, ...] for each input but the state; and [K, T], whether a lifetime begins at a step. One begins at the
        first step of each sequence, and another one in its middle.
    """
    count, total = min(len(observations), MOST_SEQUENCES), len(observations)
    sequence, step = np.arange(count)[:, None], np.arange(STEPS)
    resets = (step == 0) | (step == STEPS // 2 + sequence % 2)
    pattern = 7 * step + 5 * sequence
    inputs: _Arrays = {
        "obs": observations[(sequence + step) % total],
        PREVIOUS_ACTION: _golden_actions(policy, pattern),
        PREVIOUS_REWARD: ((pattern % 7 - 3) / 2).astype(np.float32),
        PREVIOUS_DONE: np.broadcast_to(step % 3 == 2, resets.shape).astype(np.float32),
    }
    for name, value in start_inputs(policy).items():
        inputs[name][resets] = value
    return inputs, resets


def _golden_actions(policy: RecurrentPolicy, pattern: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """[K, T, A], in quarters of the range of each dimension; or [K, T] int64."""
    size = policy.environment.action.size
    if not policy.continuous:
        return policy.action_start + pattern % size
    quarters = ((pattern[..., None] + 3 * np.arange(size)) % 9 - 4).astype(np.float32) / np.float32(4)
    _, half, middle = (each.numpy() for each in policy.scaling)
    actions: npt.NDArray[Any] = quarters * half + middle
    return actions


def golden_sequences(
    model: onnx.ModelProto,
    inputs: Mapping[str, npt.NDArray[Any]],
    resets: npt.NDArray[np.bool_],
    states: Sequence[StateTensor],
    outputs: Sequence[str],
) -> dict[str, Any]:
    """The outputs of a graph over sequences, computed without any of the runtimes that will load the file.

    Args:
        model: the graph.
        inputs: [K, T, ...] for each of its inputs but the state.
        resets: [K, T]: whether the state is initial before a step.
        states: the graph's state.
        outputs: names of the outputs with one entry for each observation, without the state.

    Returns:
        ``inputs`` and ``outputs``: by name, K entries of T steps each as nested lists; and ``resets`` likewise.
    """
    axes = {name: each.axis for each in states for name in (each.input, each.output)}
    network = graph_network(model, [*outputs, *(each.output for each in states)], axes)
    count, steps = resets.shape
    initial = {each.input: each.rows(count) for each in states}
    state, found = initial, []
    for step in range(steps):
        begins = resets[:, step]
        state = {
            name: np.where(begins.reshape(-1, *[1] * (rows.ndim - 1)), initial[name], rows)
            for name, rows in state.items()
        }
        given = evaluate_rounded(network, {**{name: rows[:, step] for name, rows in inputs.items()}, **state})
        state = {each.input: given[each.output] for each in states}
        found.append(given)
    return {
        "inputs": {name: rows.tolist() for name, rows in inputs.items()},
        "resets": resets.tolist(),
        "outputs": {name: np.stack([each[name] for each in found], axis=1).tolist() for name in outputs},
    }


@torch.no_grad()
def sequence_actions(policy: RecurrentPolicy, parameters: Parameters, source: DefaultForm) -> npt.NDArray[Any]:
    """What torch does over the golden sequences of a file: [K, T, A] float32, or [K, T] int64.

    Raises:
        ValueError: the file has no golden sequences, or those of another policy.
    """
    if source.resets is None:
        raise ValueError(f"thetaprime.contract_version is that of a policy without a memory; expected {_VERSION!r}")
    try:
        inputs = {name: torch.from_numpy(rows) for name, rows in source.golden_inputs.items()}
        previous = policy.from_environment(inputs[PREVIOUS_ACTION])
        count, steps = source.resets.shape
        initial = policy.initial_state(parameters, count)
        state, found = initial, []
        for step in range(steps):
            begins = torch.from_numpy(source.resets[:, step].copy()).unsqueeze(-1)
            state = tuple(torch.where(begins, at, now) for at, now in zip(initial, state, strict=True))
            read = (rows[:, step] for rows in (inputs["obs"], previous, inputs[PREVIOUS_REWARD], inputs[PREVIOUS_DONE]))
            outputs, state = policy.step(parameters, MemoryInputs(*read), state)
            found.append(policy.action_of(outputs[0]).numpy())
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"its golden sequences do not fit the policy: {error}") from error
    return np.stack(found, axis=1)
