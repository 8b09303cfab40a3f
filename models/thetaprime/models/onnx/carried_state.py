"""How a profile carries the state of a policy with a memory.

A program of one's own takes the inputs of the default form. An engine has an input for the observation and one for the
state, begins with a state of zeros, and hands nothing else back. For an engine, the observation is followed by the
reward of the step before and by `prev_done`; and the state is the difference from the initial state, followed by the
previous action in policy units. So zeros are the start of a lifetime.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from thetaprime.models.onnx.memory_graph import (
    INITIAL,
    LAYERS,
    POLICY_PREVIOUS_ACTION,
    PREVIOUS_DONE,
    PREVIOUS_REWARD,
    STATES,
    TENSORS,
    StateTensor,
)
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.tensor import BATCH, Tensor

_PREFIX: Final = "theta."
_OBSERVATION: Final = "observation"
_AFTER: Final = "the observation, raw; then the reward of the step before; then 1 at the first step of a later episode"


@dataclasses.dataclass(frozen=True, eq=False)
class CarriedState:
    """The parts of a head that carry the state.

    Attributes:
        inputs: the observation first.
        outputs: the state's.
        values: names of the values that it reads from the default form's graph.
        reads: operations before the body of the default form.
        nodes: operations after it.
        initializers: its constants.
        states: the state of the graph.
        start: the other inputs of one robot at the start of a lifetime.
        observation: name of the value that holds the observation [batch, O].
        golden_inputs: [K, ...] for each input that the default form does not have, over all steps of all sequences.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor] = ()
    values: Sequence[str] = ()
    reads: Sequence[NodeProto] = ()
    nodes: Sequence[NodeProto] = ()
    initializers: Sequence[TensorProto] = ()
    states: Sequence[StateTensor] = ()
    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    observation: str = "obs"
    golden_inputs: Mapping[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)


def open_state(source: DefaultForm, name: str = "obs") -> CarriedState:
    """The inputs and the state of the default form, for a program of one's own.

    Args:
        source: the default form.
        name: of the observation; other than ``obs`` for a policy without a memory alone.
    """
    observation = Tensor(
        name, TensorProto.FLOAT, (BATCH, source.observation_size), "the environment's", "the observation, raw"
    )
    if source.memory is None:
        return CarriedState([observation], observation=name)
    states = source.states
    size = source.memory["size"]
    shape = (LAYERS, BATCH, size)
    before = [
        Tensor(PREVIOUS_REWARD, TensorProto.FLOAT, (BATCH,), *TENSORS[PREVIOUS_REWARD]),
        Tensor(PREVIOUS_DONE, TensorProto.FLOAT, (BATCH,), *TENSORS[PREVIOUS_DONE]),
    ]
    if source.continuous:
        action = Tensor("prev_action", TensorProto.FLOAT, (BATCH, source.action_size), *TENSORS["prev_action"])
    else:
        action = Tensor("prev_action", TensorProto.INT64, (BATCH,), *TENSORS["prev_action"])
    return CarriedState(
        inputs=[
            observation,
            action,
            *before,
            *(Tensor(each.input, TensorProto.FLOAT, shape, *TENSORS[each.input]) for each in states),
        ],
        outputs=[Tensor(each.output, TensorProto.FLOAT, shape, *TENSORS[each.output]) for each in states],
        values=[each.output for each in states],
        states=states,
        start=source.memory["start"],
    )


def engine_state(source: DefaultForm, name: str, chosen: str = "chosen", *, joined: str = "") -> CarriedState:
    """The state of an engine that hands back nothing but the state, and begins with zeros.

    Args:
        source: the default form.
        name: of the observation.
        chosen: discrete actions: name of the chosen index, [batch] or [batch, 1].
        joined: name of the state if it is one tensor [batch, 1, M], without ``_in`` and ``_out``; empty for one tensor
            [1, batch, size] each, named as in the default form.
    """
    if source.memory is None:
        return open_state(source, name)
    return _EngineState(source, name, chosen, joined).carried()


class _EngineState:
    def __init__(self, source: DefaultForm, name: str, chosen: str, joined: str) -> None:
        memory = source.memory or {}
        self._source, self._name, self._chosen, self._joined = source, name, chosen, joined
        self._size: int = memory["size"]
        self._states = STATES[memory["cell"]]
        self._reads: list[NodeProto] = []
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}

    def carried(self) -> CarriedState:
        source, width = self._source, self._source.observation_size
        for value, start, end in (
            (_OBSERVATION, 0, width),
            ("prev_reward_column", width, width + 1),
            ("prev_done_column", width + 1, width + 2),
        ):
            self._slice(self._reads, self._name, value, start, end)
        tensors = self._join() if self._joined else self._keep_apart()
        read = np.concatenate(
            [
                source.golden_inputs["obs"].reshape(-1, width),
                *(source.golden_inputs[each].reshape(-1, 1) for each in (PREVIOUS_REWARD, PREVIOUS_DONE)),
            ],
            axis=1,
        )
        return CarriedState(
            inputs=[
                Tensor(self._name, TensorProto.FLOAT, (BATCH, width + 2), "the environment's", _AFTER),
                *(Tensor(f"{name}_in", TensorProto.FLOAT, shape, "none", what) for name, shape, what in tensors),
            ],
            outputs=[
                Tensor(f"{name}_out", TensorProto.FLOAT, shape, "none", f"the next {name}_in")
                for name, shape, _ in tensors
            ],
            values=[*(f"{name}_next" for name in self._states), "mean_clipped" if source.continuous else "logits"],
            reads=self._reads,
            nodes=self._nodes,
            initializers=[numpy_helper.from_array(value, name) for name, value in self._constants.items()],
            states=[
                StateTensor(f"{name}_in", f"{name}_out", shape.index(BATCH), np.zeros((1, int(shape[2])), np.float32))
                for name, shape, _ in tensors
            ],
            observation=_OBSERVATION,
            golden_inputs={self._name: read},
        )

    def _keep_apart(self) -> list[tuple[str, tuple[int | str, ...], str]]:
        """Writes one tensor for each part of the state; the previous action goes with h."""
        found: list[tuple[str, tuple[int | str, ...], str]] = []
        for name in self._states:
            size = self._size + (self._source.action_size if name == "h" else 0)
            rows = self._reshape(self._reads, f"{name}_in", f"{name}_carried", (-1, size))
            if name == "h":
                self._slice(self._reads, rows, "h_offset", 0, self._size)
                self._slice(self._reads, rows, POLICY_PREVIOUS_ACTION, self._size, size)
                rows = "h_offset"
            self._from_initial(name, rows)
            parts = [self._to_initial(name), *([self._taken()] if name == "h" else [])]
            joined = self._concat(parts, f"{name}_kept")
            self._reshape(self._nodes, joined, f"{name}_out", (LAYERS, -1, size))
            what = "the state and the previous action" if name == "h" else "the cell's state"
            found.append((name, (LAYERS, BATCH, size), f"{what}: zeros at the start of a lifetime, then {name}_out"))
        return found

    def _join(self) -> list[tuple[str, tuple[int | str, ...], str]]:
        """Writes one tensor for the whole state and the previous action."""
        sizes = [*(self._size for _ in self._states), self._source.action_size]
        total, start = sum(sizes), 0
        rows = self._reshape(self._reads, f"{self._joined}_in", "carried", (-1, total))
        for name, size in zip(self._states, sizes, strict=False):
            self._slice(self._reads, rows, f"{name}_offset", start, start + size)
            self._from_initial(name, f"{name}_offset")
            start += size
        self._slice(self._reads, rows, POLICY_PREVIOUS_ACTION, start, total)
        parts = [*(self._to_initial(name) for name in self._states), self._taken()]
        self._reshape(self._nodes, self._concat(parts, "kept"), f"{self._joined}_out", (-1, 1, total))
        what = f"the state and the previous action: zeros at the start of a lifetime, then {self._joined}_out"
        return [(self._joined, (BATCH, 1, total), what)]

    def _from_initial(self, name: str, offset: str) -> None:
        self._reads.append(helper.make_node("Add", [offset, _PREFIX + INITIAL[name]], [name]))

    def _to_initial(self, name: str) -> str:
        kept = f"{name}_next_offset"
        self._nodes.append(helper.make_node("Sub", [f"{name}_next", _PREFIX + INITIAL[name]], [kept]))
        return kept

    def _taken(self) -> str:
        """The action of this step as the memory reads it at the next: in policy units, or one-hot."""
        if self._source.continuous:
            return "mean_clipped"
        self._constants["indices"] = np.arange(self._source.action_size, dtype=np.int64)
        self._constants["whole"] = np.array([1.0], np.float32)
        column = self._reshape(self._nodes, self._chosen, "taken_column", (-1, 1))
        for operator, inputs, output in (
            ("Sub", [column, "indices"], "taken_distance"),
            ("Cast", ["taken_distance"], "taken_apart"),
            ("Mul", ["taken_apart", "taken_apart"], "taken_square"),
            ("Min", ["taken_square", "whole"], "taken_other"),
            ("Sub", ["whole", "taken_other"], "taken"),
        ):
            attributes: dict[str, Any] = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
            self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return "taken"

    def _concat(self, parts: list[str], output: str) -> str:
        if len(parts) == 1:
            return parts[0]
        self._nodes.append(helper.make_node("Concat", parts, [output], axis=1))
        return output

    def _reshape(self, nodes: list[NodeProto], value: str, output: str, shape: tuple[int, ...]) -> str:
        name = f"shape_of.{output}"
        self._constants[name] = np.array(shape, np.int64)
        nodes.append(helper.make_node("Reshape", [value, name], [output]))
        return output

    def _slice(self, nodes: list[NodeProto], value: str, output: str, start: int, end: int) -> None:
        names = [f"column.{each}" for each in (start, end, 1)]
        self._constants |= {name: np.array([each], np.int64) for name, each in zip(names, (start, end, 1), strict=True)}
        nodes.append(helper.make_node("Slice", [value, *names], [output]))
