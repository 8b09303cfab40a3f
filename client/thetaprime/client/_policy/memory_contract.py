"""Reads what a policy file says of its memory, by the ONNX contract, version 2."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import PolicyVerificationError
from thetaprime.client._policy.contract import check_golden_count, malformed, read_json, runtime_errors

PREVIOUS_ACTION: Final = "prev_action"
PREVIOUS_REWARD: Final = "prev_reward"
PREVIOUS_DONE: Final = "prev_done"
_CELLS: Final = ("gru", "lstm")
_RESETS: Final = ("lifetime", "episode")
_MOST_STATES: Final = 8
_MOST_NUMBERS: Final = 1 << 20

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class StateTensor:
    """One tensor of a policy's state.

    Attributes:
        input: name of the graph's input.
        output: name of the graph's output, which becomes the next input.
        axis: the axis of the robots.
        initial: float32; the initial value of one robot, without the axis of the robots.
    """

    input: str
    output: str
    axis: int
    initial: npt.NDArray[np.float32]

    def shape(self, count: int) -> tuple[int, ...]:
        """The shape of the tensor for some robots."""
        shape = list(self.initial.shape)
        shape.insert(self.axis, count)
        return tuple(shape)

    def rows(self, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of the tensor with the axis of the robots first."""
        return np.moveaxis(tensor, self.axis, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryContract:
    """The memory of a policy, as its file describes it.

    Attributes:
        cell: ``gru`` or ``lstm``.
        layers: number of layers of memory.
        size: numbers of the state, for each layer.
        states: the tensors of the state.
        start: the other inputs of one robot at the first step of a lifetime, by name.
        reset: when the state is reset: at the start of a ``lifetime`` or of each ``episode``.
        rule: the same, for people.
    """

    cell: str
    layers: int
    size: int
    states: tuple[StateTensor, ...]
    start: Mapping[str, Any]
    reset: str
    rule: str


@dataclasses.dataclass(frozen=True, eq=False)
class GoldenSequences:
    """The outputs of a graph over K sequences of T steps.

    Attributes:
        inputs: [K, T, ...] for each input but the state.
        resets: [K, T]: whether a lifetime begins at a step.
        outputs: [K, T, ...] by name.
    """

    inputs: Arrays
    resets: npt.NDArray[np.bool_]
    outputs: Arrays

    @property
    def count(self) -> int:
        """K."""
        return len(self.resets)

    @property
    def steps(self) -> int:
        """T."""
        return int(self.resets.shape[1])


def read_memory(metadata: Mapping[str, str]) -> MemoryContract:
    """Reads the description of the memory from a file's metadata.

    Raises:
        PolicyVerificationError: it is missing or malformed.
    """
    fields = read_json(metadata, "memory")
    with malformed("memory"), np.errstate(over="ignore"):
        cell, reset = fields["cell"], fields["reset"]
        if cell not in _CELLS or reset not in _RESETS:
            raise ValueError(f"cell {str(cell)[:20]!r}, reset {str(reset)[:20]!r}; expected {_CELLS} and {_RESETS}")
        if not 0 < len(fields["states"]) <= _MOST_STATES:
            raise ValueError(f"{len(fields['states'])} states; expected 1 to {_MOST_STATES}")
        states = tuple(_read_state(each) for each in fields["states"])
        return MemoryContract(
            cell=cell,
            layers=int(fields["layers"]),
            size=int(fields["size"]),
            states=states,
            start=dict(fields["start"]),
            reset=reset,
            rule=str(fields["rule"]),
        )


def _read_state(fields: Mapping[str, Any]) -> StateTensor:
    initial = np.asarray(fields["initial"], np.float32)
    axis = fields["axis"]
    if axis not in range(initial.ndim + 1) or not 0 < initial.size <= _MOST_NUMBERS or initial.ndim > 2:
        raise ValueError(f"axis {str(axis)[:20]} of an initial state of shape {list(initial.shape)}")
    if not np.isfinite(initial).all():
        raise ValueError("an initial state that is not finite")
    return StateTensor(str(fields["input"]), str(fields["output"]), int(axis), initial)


def read_sequences(file: wire.OnnxFile) -> GoldenSequences:
    """Reads the golden sequences from a file's metadata.

    Raises:
        PolicyVerificationError: they are missing or malformed, or there are too many steps.
    """
    fields = read_json(file.metadata, "golden")
    with malformed("golden"), np.errstate(over="ignore"):
        resets = np.asarray(fields["resets"])
        if resets.dtype != np.bool_ or resets.ndim != 2 or not resets.size or not resets[:, 0].all():
            raise ValueError(
                f"resets of {resets.dtype} {list(resets.shape)}; expected K sequences that begin with true"
            )
        inputs, outputs = (
            {str(name): _numbers(rows) for name, rows in fields[side].items()} for side in ("inputs", "outputs")
        )
        for name, rows in (*inputs.items(), *outputs.items()):
            if rows.shape[:2] != resets.shape:
                raise ValueError(f"{name[:20]} of shape {list(rows.shape)}; expected {[*resets.shape]} first")
        if not outputs:
            raise ValueError("no outputs")
    check_golden_count(resets.size, file.max_golden_vectors)
    return GoldenSequences(inputs, resets, outputs)


def _numbers(rows: Any) -> npt.NDArray[Any]:
    array = np.asarray(rows)
    if array.dtype.kind not in "fi":
        raise ValueError(f"dtype {array.dtype}; expected numbers")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def check_start(memory: MemoryContract, contract: wire.EnvironmentContract) -> Arrays:
    """Returns the inputs of one robot at the first step of a lifetime, beside observation and state.

    Args:
        memory: the description of the memory in a file of the default profile.
        contract: the environment's contract.

    Raises:
        PolicyVerificationError: an input is missing or malformed.
    """
    box = contract.action_kind is wire.ActionKind.BOX
    shape = (contract.action_size,) if box else ()
    with malformed("memory"), np.errstate(over="ignore"):
        action = np.asarray(memory.start[PREVIOUS_ACTION], np.float32 if box else np.int64)
        reward, done = (np.asarray(memory.start[name], np.float32) for name in (PREVIOUS_REWARD, PREVIOUS_DONE))
        if action.shape != shape or reward.shape or done.shape:
            raise ValueError(f"start has shapes {[list(each.shape) for each in (action, reward, done)]}")
        if not all(np.isfinite(each).all() for each in (action, reward, done)):
            raise ValueError("start is not finite")
    return {PREVIOUS_ACTION: action, PREVIOUS_REWARD: reward, PREVIOUS_DONE: done}


def memory_inputs(memory: MemoryContract, contract: wire.EnvironmentContract) -> dict[str, tuple[str, list[int]]]:
    """The graph's inputs in the default profile beside ``obs``: element type, and the last length where it is fixed."""
    box = contract.action_kind is wire.ActionKind.BOX
    return {
        PREVIOUS_ACTION: ("float", [contract.action_size]) if box else ("int64", []),
        PREVIOUS_REWARD: ("float", []),
        PREVIOUS_DONE: ("float", []),
        **{each.input: ("float", [each.initial.shape[-1]]) for each in memory.states},
    }


def check_state_tensors(session: onnxruntime.InferenceSession, memory: MemoryContract) -> None:
    """Compares the state of a graph with its description.

    Raises:
        PolicyVerificationError: a name, type or shape differs.
    """
    for side, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        found = {value.name: value for value in values}
        for state in memory.states:
            name = state.input if side == "input" else state.output
            value = found.get(name)
            expected = _open_shape(state)
            if value is None:
                raise PolicyVerificationError(f"the graph lacks the {side} {name!r}, which thetaprime.memory describes")
            shape = [length if isinstance(length, int) else None for length in value.shape]
            # A profile may fix the number of robots.
            fixed = [1 if length is None else length for length in expected]
            if value.type != "tensor(float)" or shape not in (expected, fixed):
                raise PolicyVerificationError(
                    f"the graph's {side} {name!r} is {value.type} {value.shape}; thetaprime.memory says "
                    f"tensor(float) {['B' if length is None else length for length in expected]}".replace("'B'", "B")
                )


def _open_shape(state: StateTensor) -> list[int | None]:
    shape: list[int | None] = list(state.initial.shape)
    shape.insert(state.axis, None)
    return shape


def check_initial(session: onnxruntime.InferenceSession, memory: MemoryContract, feeds: Arrays) -> None:
    """Compares the initial state in a file's metadata with the parameters of its graph.

    Args:
        session: the graph's session, of the default profile.
        memory: the description of the memory.
        feeds: any values of the inputs, for one observation.

    Raises:
        PolicyVerificationError: they differ, or the graph does not return the parameters.
    """
    names = [f"{each.input.removesuffix('_in')}_initial" for each in memory.states]
    with runtime_errors("the graph does not return its initial state"):
        found = session.run(names, feeds)
    for name, tensor, state in zip(names, found, memory.states, strict=True):
        if not np.array_equal(tensor, state.initial):
            raise PolicyVerificationError(
                f"the graph's {name} is not the initial state that thetaprime.memory describes"
            )
