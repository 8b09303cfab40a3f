"""Turns the nodes of a traced graph into calls of our own operations."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx, nn

from thetaprime.models.module.program import CONSTANT, CONTEXTS, OBSERVATIONS, PARAMETER, Call, Program

_SYMBOLIC: Final = frozenset({operator.mul, operator.add, operator.sub, operator.floordiv})


class ModuleError(ValueError):
    """A module that cannot be a policy's network; the message names the layer or the line, and what to use instead."""


Reference = str
Arguments = Mapping[str, Any]
Write = Callable[["GraphWriter", Arguments], Reference]
"""Writes one call of ATen with its arguments by name."""


class GraphWriter:
    """Turns the nodes of a traced graph into calls."""

    def __init__(
        self, exported: torch.export.ExportedProgram, module: nn.Module, name: str, writers: Mapping[str, Write]
    ) -> None:
        self._writers = writers
        self._exported, self._name = exported, name
        self._parameters = dict(module.named_parameters())
        # A parameter that layers share has several names, the first of which counts.
        first = {id(value): path for path, value in self._parameters.items()}
        self._paths = {path: first[id(value)] for path, value in module.named_parameters(remove_duplicate=False)}
        self._calls: list[Call] = []
        self._constants: dict[str, torch.Tensor] = {}
        self._references: dict[fx.Node, Reference] = {}
        # Values that depend on neither parameters nor observations.
        self._fixed: dict[fx.Node, Any] = {}
        self.node: fx.Node
        self.observation_shape: tuple[int, ...] = ()

    def program(self, observation_shape: tuple[int, ...], context_size: int, outputs: int) -> Program:
        """The whole program."""
        self._read_inputs()
        self.observation_shape = observation_shape
        result: Reference = ""
        for node in self._exported.graph.nodes:
            if node.op == "call_function":
                self._write(node)
            elif node.op == "output":
                (final,) = node.args[0]
                result = self.tensor(final)
        # The last call gives the result; what it does not depend on goes.
        calls, result = self._needed(result)
        if not calls:
            raise ModuleError(f"{self._name} returns its input unchanged; expected a network")
        used = {name for call in calls for name in call.inputs}
        unused = [path for path in self._parameters if PARAMETER + path not in used]
        if unused:
            raise ModuleError(
                f"{self._name}: parameter {unused[0]} has no effect on the result; expected every parameter to count. "
                "Leave it out, or use it."
            )
        return Program(
            observation_shape=observation_shape,
            context_size=context_size,
            outputs=outputs,
            parameters={path: tuple(value.shape) for path, value in self._parameters.items()},
            constants={name: value for name, value in self._constants.items() if CONSTANT + name in used},
            calls=calls,
        )

    def _read_inputs(self) -> None:
        placeholders = {node.name: node for node in self._exported.graph.nodes if node.op == "placeholder"}
        inputs = [OBSERVATIONS, CONTEXTS]
        for spec in self._exported.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind.name == "PARAMETER":
                self._references[node] = PARAMETER + self._paths[str(spec.target)]
            elif spec.kind.name == "USER_INPUT":
                self._references[node] = inputs.pop(0)
            else:
                tensors = {**self._exported.state_dict, **self._exported.constants}
                self._fixed[node] = tensors[str(spec.target)]

    def _write(self, node: fx.Node) -> None:
        self.node = node
        target = str(node.target)
        if target == "aten.sym_size.int" or (node.target in _SYMBOLIC and not self._all_fixed(node)):
            return  # the number of observations, which shapes write as -1
        if node.target is operator.getitem:
            self._references[node] = self._items(node)
            return
        if self._all_fixed(node):
            arguments, named = fx.node.map_arg((node.args, node.kwargs), self._fixed.__getitem__)
            self._fixed[node] = node.target(*arguments, **named)  # type: ignore[operator]
            return
        write = self._writers.get(target)
        if write is None:
            raise ModuleError(
                f"{self._name} uses {target}{self.line()}, which a policy's file cannot hold. Expected of ATen: "
                f"{', '.join(sorted({each.split('.')[1] for each in self._writers if '._' not in each}))}."
            )
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = dict(zip((each.name for each in schema), node.args, strict=False)) | node.kwargs
        missing = {each.name: each.default_value for each in schema if each.has_default_value()}
        self._references[node] = write(self, missing | given)

    def _all_fixed(self, node: fx.Node) -> bool:
        return all(each in self._fixed for each in node.all_input_nodes)

    def _items(self, node: fx.Node) -> Reference:
        source, index = node.args
        parts = self._parts[source]  # type: ignore[index]
        return parts[int(index)]  # type: ignore[arg-type]

    def _needed(self, result: Reference) -> tuple[tuple[Call, ...], Reference]:
        """The calls that the result depends on, with their results numbered again."""
        if not result.startswith("%"):
            return (), result
        last = int(result[1:])
        wanted, needed = [last], set()
        while wanted:
            index = wanted.pop()
            if index not in needed:
                needed.add(index)
                wanted += [int(name[1:]) for name in self._calls[index].inputs if name.startswith("%")]
        order = sorted(needed)
        number = {f"%{old}": f"%{new}" for new, old in enumerate(order)}
        calls = tuple(
            Call(call.operation, tuple(number.get(name, name) for name in call.inputs), call.attributes)
            for call in (self._calls[index] for index in order)
        )
        return calls, number[result]

    # What the writers of single operations use.

    @property
    def _parts(self) -> dict[fx.Node, list[Reference]]:
        found: dict[fx.Node, list[Reference]] = self.__dict__.setdefault("_split", {})
        return found

    def split(self, parts: list[Reference]) -> Reference:
        """Records the results of an operation that has several."""
        self._parts[self.node] = parts
        return ""

    def line(self) -> str:
        """Where the module calls the node, in words."""
        trace = self.node.meta.get("stack_trace") or ""
        lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
        return f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""

    def refuse(self, problem: str) -> ModuleError:
        """The error for a call with arguments that no operation has."""
        return ModuleError(f"{self._name}: {self.node.target}{self.line()}: {problem}")

    def call(self, operation: str, *inputs: Reference, **attributes: Any) -> Reference:
        """Adds a call, and gives the name of its result."""
        self._calls.append(Call(operation, inputs, attributes))
        return f"%{len(self._calls) - 1}"

    def tensor(self, value: Any) -> Reference:
        """The name of an operand: a node, or a number as a constant."""
        if isinstance(value, fx.Node) and value in self._references:
            return self._references[value]
        if isinstance(value, fx.Node) and value not in self._fixed:
            raise self.refuse("computes with the number of observations; expected it in shapes alone")
        fixed = self._fixed[value] if isinstance(value, fx.Node) else value
        constant = torch.as_tensor(fixed, dtype=torch.float32).detach().clone()
        for name, known in self._constants.items():
            if torch.equal(known, constant):
                return CONSTANT + name
        name = f"c{len(self._constants)}"
        self._constants[name] = constant
        return CONSTANT + name

    def shape(self, node: fx.Node | None = None) -> list[int]:
        """The shape of a node's result, with -1 for the axis of the observations."""
        value = (node or self.node).meta["val"]
        shape = [each if isinstance(each, int) else -1 for each in value.shape]
        if shape.count(-1) > 1:
            raise self.refuse("a result with two axes of observations")
        return shape

    def axis(self, index: int, node: fx.Node | None = None, more: int = 0) -> int:
        """An axis counted from 0."""
        axes = len(self.shape(node)) + more
        return index + axes if index < 0 else index

    def axes(self, indices: Any, node: fx.Node) -> list[int]:
        """Axes counted from 0, without that of the observations."""
        count = len(self.shape(node))
        given = [indices] if isinstance(indices, int) else list(indices if indices else range(count))
        found = sorted(each + count if each < 0 else each for each in given)
        if any(self.shape(node)[each] == -1 for each in found):
            raise self.refuse("combines observations with each other; expected each row by itself")
        return found

    def reshape(self, reference: Reference, shape: Sequence[int]) -> Reference:
        """A call of reshape."""
        return self.call("reshape", reference, shape=list(shape))
