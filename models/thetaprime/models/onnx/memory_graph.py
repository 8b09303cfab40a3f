"""The memory's part of a recurrent policy's ONNX form, contract version 2, and what its file says of the state.

The cells are written in operations that every engine runs: Unity's runs no GRU and no LSTM node. The state is an input
and an output of the graph, with the axis of the layers first.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from thetaprime.models.memory import RecurrentPolicy
from thetaprime.models.parameters import Parameters

LAYERS: Final = 1
STATES: Final = {"gru": ("h",), "lstm": ("h", "c")}
"""The tensors of each cell's state."""
INITIAL: Final = {"h": "memory.initial", "c": "memory.initial_cell"}
"""The parameter that holds the initial value of each."""
PREVIOUS_ACTION: Final = "prev_action"
PREVIOUS_REWARD: Final = "prev_reward"
PREVIOUS_DONE: Final = "prev_done"
# The memory's reading of the previous action: in policy units, or one-hot.
POLICY_PREVIOUS_ACTION: Final = "prev_action_read"
TENSORS: Final = {
    PREVIOUS_ACTION: ("the environment's", "the action of the step before; at the start of a lifetime `start`"),
    PREVIOUS_REWARD: ("the environment's", "the reward of the step before; 0 at the start of a lifetime"),
    PREVIOUS_DONE: ("1 or 0", "1 at the first step of an episode, but 0 at the start of a lifetime"),
    "h_in": ("none", "the state: `initial` at the start of a lifetime, then h_out"),
    "c_in": ("none", "the cell's state: `initial` at the start of a lifetime, then c_out"),
    "h_out": ("none", "the next state"),
    "c_out": ("none", "the cell's next state"),
    "h_initial": ("none", "the initial state of each layer"),
    "c_initial": ("none", "the cell's initial state of each layer"),
}
"""Unit and content of each tensor that version 2 adds."""
RULE: Final = (
    "Set the state to initial, and the other inputs to start, when a lifetime begins: when the robot, its body or its "
    "goal may have changed. Keep the state at the end of an episode, and set prev_done to 1 at the next step."
)
"""When to reset, for people."""


@dataclasses.dataclass(frozen=True, eq=False)
class StateTensor:
    """One tensor of a graph's state.

    Attributes:
        input: name of the graph's input.
        output: name of the output that becomes the next input.
        axis: the axis of the robots.
        initial: float32; the initial value of one robot, without that axis.
    """

    input: str
    output: str
    axis: int
    initial: npt.NDArray[np.float32]

    def rows(self, count: int) -> npt.NDArray[np.float32]:
        """The initial value of some robots, with their axis first: [count, ...]."""
        return np.broadcast_to(self.initial, (count, *self.initial.shape))


class MemoryGraph:
    """The nodes and constants from the observation and the step before to the head's input.

    Args:
        policy: the policy.
        observations: name of the normalized observations [batch, O].
        prefix: of the initializers that hold parameters.

    Attributes:
        nodes: in order.
        initializers: the parameters, as zeros, and the constants.
        inputs: the graph's inputs after the observation.
        outputs: the graph's outputs after those of the head.
        result: name of the head's input [batch, O + H].
    """

    def __init__(self, policy: RecurrentPolicy, observations: str, prefix: str) -> None:
        self._policy, self._prefix = policy, prefix
        self._size = policy.memory.size
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        for name, shape in policy.parameter_shapes.items():
            if name.startswith("memory."):
                self._constant(prefix + name, np.zeros(shape, np.float32))
        states = STATES[policy.memory.cell]
        self.inputs: list[ValueInfoProto] = [
            self._previous_action_input(),
            helper.make_tensor_value_info(PREVIOUS_REWARD, TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info(PREVIOUS_DONE, TensorProto.FLOAT, ["batch"]),
            *(self._state(f"{name}_in", [LAYERS, "batch", self._size]) for name in states),
        ]
        self.outputs: list[ValueInfoProto] = [
            *(self._state(f"{name}_out", [LAYERS, "batch", self._size]) for name in states),
            *(self._state(f"{name}_initial", [LAYERS, self._size]) for name in states),
        ]
        self._constant("column", np.array([-1, 1], np.int64))
        self._constant("state_rows", np.array([-1, self._size], np.int64))
        self._constant("state_layers", np.array([LAYERS, -1, self._size], np.int64))
        self._constant("initial_layers", np.array([LAYERS, self._size], np.int64))
        read = self._read(observations)
        for name in states:
            self._node("Reshape", [f"{name}_in", "state_rows"], name)
            self._node("Reshape", [prefix + INITIAL[name], "initial_layers"], f"{name}_initial")
        remembered = self._gru(read) if policy.memory.cell == "gru" else self._lstm(read)
        self.result = self._node("Concat", [observations, remembered], "remembering", axis=1)

    def _previous_action_input(self) -> ValueInfoProto:
        if self._policy.continuous:
            size = self._policy.environment.action.size
            return helper.make_tensor_value_info(PREVIOUS_ACTION, TensorProto.FLOAT, ["batch", size])
        return helper.make_tensor_value_info(PREVIOUS_ACTION, TensorProto.INT64, ["batch"])

    @staticmethod
    def _state(name: str, shape: list[int | str]) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _read(self, observations: str) -> str:
        """Writes the cell's input: the observation and the step before, encoded."""
        action = self._read_action() if self._policy.continuous else self._read_choice()
        scale = self._policy.memory.reward_scale
        self._constant("reward_scale", np.array([1.0 if scale is None else scale], np.float32))
        self._node("Reshape", [PREVIOUS_REWARD, "column"], "prev_reward_column")
        reward = self._node("Mul", ["prev_reward_column", "reward_scale"], "prev_reward_scaled")
        done = self._node("Reshape", [PREVIOUS_DONE, "column"], "prev_done_column")
        current = self._node("Concat", [observations, action, reward, done], "read", axis=1)
        operator = {"relu": "Relu", "tanh": "Tanh"}[self._policy.spec.activation]
        for index in range(len(self._policy.memory.encoder_sizes)):
            layer = f"memory.encoder.{index}"
            linear = self._linear(layer, current, f"{layer}.weight", f"{layer}.bias")
            current = self._node(operator, [linear], f"{layer}.output")
        return current

    def _read_action(self) -> str:
        clip, half, middle = (each.numpy() for each in self._policy.scaling)
        for name, value in (("low", -clip), ("high", clip), ("half", half), ("middle", middle)):
            self._constant(f"prev_action_{name}", value)
        self._node("Sub", [PREVIOUS_ACTION, "prev_action_middle"], "prev_action_centered")
        self._node("Div", ["prev_action_centered", "prev_action_half"], "prev_action_scaled")
        self._node("Max", ["prev_action_scaled", "prev_action_low"], "prev_action_above_low")
        return self._node("Min", ["prev_action_above_low", "prev_action_high"], POLICY_PREVIOUS_ACTION)

    def _read_choice(self) -> str:
        """Writes the one-hot row: 1 − min(d², 1), where d is the distance of an action from the previous one."""
        start, size = self._policy.action_start, self._policy.environment.action.size
        self._constant("action_names", np.arange(start, start + size, dtype=np.int64))
        self._constant("one", np.array([1.0], np.float32))
        self._node("Reshape", [PREVIOUS_ACTION, "column"], "prev_action_column")
        # The difference of integers first: float32 cannot tell large names apart.
        self._node("Sub", ["prev_action_column", "action_names"], "prev_action_distance")
        self._node("Cast", ["prev_action_distance"], "prev_action_apart", to=TensorProto.FLOAT)
        self._node("Mul", ["prev_action_apart", "prev_action_apart"], "prev_action_square")
        self._node("Min", ["prev_action_square", "one"], "prev_action_other")
        return self._node("Sub", ["one", "prev_action_other"], POLICY_PREVIOUS_ACTION)

    def _gru(self, read: str) -> str:
        """Writes r, z = σ(W x + U h), n = tanh(W_n x + r ⊙ U_n h), h′ = n + z ⊙ (h − n)."""
        size = self._size
        projected, recurrent = self._project(read)
        both = [self._part(name, 0, 2 * size) for name in (projected, recurrent)]
        gates = self._node("Sigmoid", [self._node("Add", both, "memory.gate_sums")], "memory.gates")
        reset, update = self._part(gates, 0, size), self._part(gates, size, 2 * size)
        kept = self._node("Mul", [reset, self._part(recurrent, 2 * size, 3 * size)], "memory.kept")
        summed = self._node("Add", [self._part(projected, 2 * size, 3 * size), kept], "memory.candidate_sum")
        candidate = self._node("Tanh", [summed], "memory.candidate")
        change = self._node("Sub", ["h", candidate], "memory.change")
        held = self._node("Mul", [update, change], "memory.held")
        return self._next("h", self._node("Add", [candidate, held], "h_next"))

    def _lstm(self, read: str) -> str:
        """Writes i, f, o = σ(W x + U h), g = tanh(W_g x + U_g h), c′ = f ⊙ c + i ⊙ g, h′ = o ⊙ tanh(c′)."""
        size = self._size
        sums = self._node("Add", list(self._project(read)), "memory.gate_sums")
        first = self._node("Sigmoid", [self._part(sums, 0, 2 * size)], "memory.gates")
        admit, forget = self._part(first, 0, size), self._part(first, size, 2 * size)
        content = self._node("Tanh", [self._part(sums, 2 * size, 3 * size)], "memory.content")
        release = self._node("Sigmoid", [self._part(sums, 3 * size, 4 * size)], "memory.release")
        kept = self._node("Mul", [forget, "c"], "memory.kept")
        admitted = self._node("Mul", [admit, content], "memory.admitted")
        cell = self._next("c", self._node("Add", [kept, admitted], "c_next"))
        shown = self._node("Tanh", [cell], "memory.shown")
        return self._next("h", self._node("Mul", [release, shown], "h_next"))

    def _project(self, read: str) -> tuple[str, str]:
        """Writes W x + b and U h + b."""
        return (
            self._linear("memory.projected", read, "memory.weight_ih", "memory.bias_ih"),
            self._linear("memory.recurrent", "h", "memory.weight_hh", "memory.bias_hh"),
        )

    def _next(self, name: str, value: str) -> str:
        self._node("Reshape", [value, "state_layers"], f"{name}_out")
        return value

    def _linear(self, layer: str, current: str, weight: str, bias: str) -> str:
        names = [current, self._prefix + weight, self._prefix + bias]
        return self._node("Gemm", names, f"{layer}.linear", transB=1)

    def _part(self, value: str, start: int, end: int) -> str:
        """Writes some columns of a value."""
        names = [f"at.{start}", f"at.{end}", "at.1"]
        for name, number in zip(names, (start, end, 1), strict=True):
            if all(each.name != name for each in self.initializers):
                self._constant(name, np.array([number], np.int64))
        return self._node("Slice", [value, *names], f"{value}.{start}")

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, array: npt.NDArray[Any]) -> None:
        self.initializers.append(numpy_helper.from_array(array, name))


def state_tensors(policy: RecurrentPolicy, parameters: Parameters) -> list[StateTensor]:
    """The state of a policy's default form."""
    return [
        StateTensor(f"{name}_in", f"{name}_out", 1, parameters[INITIAL[name]].detach().numpy().reshape(LAYERS, -1))
        for name in STATES[policy.memory.cell]
    ]


def start_inputs(policy: RecurrentPolicy) -> dict[str, Any]:
    """The other inputs at the first step of a lifetime, for one robot."""
    middle = policy.scaling[2].tolist() if policy.continuous else policy.action_start - 1
    return {PREVIOUS_ACTION: middle, PREVIOUS_REWARD: 0.0, PREVIOUS_DONE: 0.0}


def describe_memory(cell: str, size: int, states: Sequence[StateTensor], start: Mapping[str, Any]) -> dict[str, Any]:
    """The entry ``thetaprime.memory`` of a file's metadata: everything that a loop needs to run the file.

    Args:
        cell: ``gru`` or ``lstm``.
        size: H.
        states: the state of the file's graph.
        start: the inputs that depend on the step before, at the first step of a lifetime.
    """
    return {
        "cell": cell,
        "layers": LAYERS,
        "size": size,
        "states": [
            {"input": each.input, "output": each.output, "axis": each.axis, "initial": each.initial.tolist()}
            for each in states
        ],
        "start": dict(start),
        "reset": "lifetime",
        "rule": RULE,
    }
