"""The forward pass of a network as data: a list of calls of known operations.

A module's program is traced once, by `torch.export` (see `capture`). Its file is JSON: the names and shapes of the
parameters, the constants, and the calls. Reading it imports nothing and runs nothing that the file names.
"""

import base64
import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import numpy as np
import torch

from thetaprime.models.errors import ArtifactError
from thetaprime.models.kernels import Activation, layer, rows_of_kernels
from thetaprime.models.module.operations import OPERATIONS, check_call
from thetaprime.models.module.shapes import Shape, ShapeError, result_shape, shown
from thetaprime.models.parameters import Parameters

PROGRAM_NAME: Final = "program.json"
"""Name of the file in an artifact."""
OBSERVATIONS: Final = "observations"
"""The observations [B, *observation_shape], normalized."""
CONTEXTS: Final = "contexts"
"""The context at each observation [B, C]."""
PARAMETER: Final = "theta."
"""Prefix of a parameter in a call."""
CONSTANT: Final = "constant."
"""Prefix of a constant in a call."""

_VERSION: Final = 1
_MAX_BYTES: Final = 8 << 20
_MAX_CALLS: Final = 512
_MAX_TENSORS: Final = 1024
_MAX_CONSTANTS: Final = 1 << 20
_MAX_ELEMENTS: Final = 1 << 20
_MAX_AXES: Final = 6
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}")
_FUSED: Final = ("relu", "tanh")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        operation: its name, one of `OPERATIONS`.
        inputs: names of the values it takes: `OBSERVATIONS`, `CONTEXTS`, a parameter or constant with its prefix, or
            ``%i`` for the result of call i.
        attributes: by name.
    """

    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A network's forward pass.

    Attributes:
        observation_shape: shape of one observation.
        context_size: C; 0 for a network without a context.
        outputs: A, the numbers it returns for one observation.
        parameters: the shape of each parameter by name, in the module's order.
        constants: float32 tensors by name.
        calls: in order; the last one gives the result [B, A].
        shapes: the shape of each call's result.
    """

    observation_shape: tuple[int, ...]
    context_size: int
    outputs: int
    parameters: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, torch.Tensor]
    calls: tuple[Call, ...]
    shapes: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _result_shapes(self))

    def run(
        self,
        parameters: Parameters,
        observations: torch.Tensor,
        contexts: torch.Tensor | None = None,
        *,
        kernels: bool = True,
    ) -> torch.Tensor:
        """The outputs [B, A] at observations [B, *observation_shape].

        Args:
            parameters: by name; others are ignored.
            observations: normalized.
            contexts: [B, C], for a network with a context.
            kernels: run linear layers by `kernels.layer`, which is faster. False under `torch.func`.
        """
        values: dict[str, torch.Tensor] = {OBSERVATIONS: observations}
        if contexts is not None:
            values[CONTEXTS] = contexts
        for name in self.parameters:
            values[PARAMETER + name] = parameters[name]
        for name, constant in self.constants.items():
            values[CONSTANT + name] = constant.to(observations)
        result = observations
        for run, inputs, name in self._fused_steps if kernels else self._steps:
            result = values[name] = run(*[values[each] for each in inputs])
        return result

    @functools.cached_property
    def _steps(self) -> "list[_Step]":
        return [(_bound(call), call.inputs, f"%{index}") for index, call in enumerate(self.calls)]

    @functools.cached_property
    def _fused_steps(self) -> "list[_Step]":
        """The steps with each linear layer of a batch, and the activation after it, as one."""
        used = [name for call in self.calls for name in call.inputs]
        steps: list[_Step] = []
        taken = False
        for index, call in enumerate(self.calls):
            if taken:
                taken = False
                continue
            if call.operation != "linear" or len(self.shape(call.inputs[0])) != 2 or len(call.inputs) != 3:
                steps.append(self._steps[index])
                continue
            following = self.calls[index + 1] if index + 1 < len(self.calls) else None
            result = f"%{index}"
            fused = (
                following is not None
                and following.operation in _FUSED
                and following.inputs == (result,)
                and used.count(result) == 1
            )
            activation: Activation = following.operation if fused and following else "none"  # type: ignore[assignment]
            steps.append((_layer(activation), call.inputs, f"%{index + fused}"))
            taken = fused
        return steps

    def shape(self, name: str) -> Shape:
        """The shape of a value, by its name in a call."""
        if name == OBSERVATIONS:
            return (-1, *self.observation_shape)
        if name == CONTEXTS:
            return (-1, self.context_size)
        if name.startswith(PARAMETER):
            return self.parameters[name.removeprefix(PARAMETER)]
        if name.startswith(CONSTANT):
            return tuple(self.constants[name.removeprefix(CONSTANT)].shape)
        return self.shapes[int(name[1:])]

    def to_bytes(self) -> bytes:
        """The program as JSON; equal programs give equal bytes."""
        content = {
            "version": _VERSION,
            "observation_shape": list(self.observation_shape),
            "context_size": self.context_size,
            "outputs": self.outputs,
            "parameters": {name: list(shape) for name, shape in self.parameters.items()},
            "constants": {
                name: {"shape": list(value.shape), "data": _encoded(value)} for name, value in self.constants.items()
            },
            "calls": [[call.operation, list(call.inputs), dict(call.attributes)] for call in self.calls],
        }
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads a program and checks it: every name, every call and every shape.

        Raises:
            ArtifactError: the bytes are not a program; the error names the call.
        """
        if len(data) > _MAX_BYTES:
            raise ArtifactError(PROGRAM_NAME, f"{len(data)} bytes; expected at most {_MAX_BYTES}")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(PROGRAM_NAME, f"not JSON: {error}") from error
        try:
            return cls(**_parsed(content))
        except ProgramError as error:
            raise ArtifactError(PROGRAM_NAME, str(error)) from error


_Step = tuple[Callable[..., torch.Tensor], tuple[str, ...], str]


class ProgramError(ValueError):
    """A program that cannot run."""


def _bound(call: Call) -> Callable[..., torch.Tensor]:
    run = OPERATIONS[call.operation].run
    return functools.partial(run, **call.attributes) if call.attributes else run


def _layer(activation: Activation) -> Callable[..., torch.Tensor]:
    def run(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return layer(inputs, weight, bias, activation)

    return run


def padded_rows(observations: torch.Tensor) -> torch.Tensor:
    """Observations [B, …] with rows of zeros after them, as many as compiled kernels take; see `rows_of_kernels`."""
    more = rows_of_kernels(len(observations)) - len(observations)
    if not more:
        return observations
    return torch.cat([observations, observations.new_zeros(more, *observations.shape[1:])])


def _result_shapes(program: Program) -> tuple[Shape, ...]:
    """The shape of each result, without memory for any of them."""
    if not program.calls:
        raise ProgramError("calls: empty; expected at least one")
    found: dict[str, Shape] = {OBSERVATIONS: (-1, *program.observation_shape)}
    if program.context_size:
        found[CONTEXTS] = (-1, program.context_size)
    found |= {PARAMETER + name: shape for name, shape in program.parameters.items()}
    found |= {CONSTANT + name: tuple(value.shape) for name, value in program.constants.items()}
    shapes, elements = [], 0
    for index, call in enumerate(program.calls):
        try:
            shape = result_shape(call.operation, [found[name] for name in call.inputs], call.attributes)
        except ShapeError as error:
            raise ProgramError(f"calls[{index}], {call.operation}: {error}") from error
        found[f"%{index}"] = shape
        shapes.append(shape)
        elements += abs(math.prod(shape))
        if elements > _MAX_ELEMENTS:
            raise ProgramError(f"calls[{index}]: more than {_MAX_ELEMENTS} numbers for one observation")
    if shapes[-1] != (-1, program.outputs):
        raise ProgramError(f"the result is {shown(shapes[-1])}; expected {shown((-1, program.outputs))}")
    return tuple(shapes)


def _encoded(value: torch.Tensor) -> str:
    return base64.b64encode(np.ascontiguousarray(value.numpy().astype("<f4")).tobytes()).decode()


def _parsed(content: Any) -> dict[str, Any]:
    _expect(isinstance(content, dict), "expected an object")
    _expect(content.get("version") == _VERSION, f"version {str(content.get('version'))[:20]}; expected {_VERSION}")
    keys = {"version", "observation_shape", "context_size", "outputs", "parameters", "constants", "calls"}
    _expect(content.keys() == keys, f"fields {str(sorted(content))[:200]}; expected {sorted(keys)}")
    parameters = _named_entries(content["parameters"], "parameters")
    constants = _named_entries(content["constants"], "constants")
    context_size, outputs = content["context_size"], content["outputs"]
    for name, value, least in (("context_size", context_size, 0), ("outputs", outputs, 1)):
        valid = type(value) is int and least <= value < 2**31
        _expect(valid, f"{name}: {str(value)[:20]}; expected an integer from {least}")
    known = {OBSERVATIONS, *(PARAMETER + name for name in parameters), *(CONSTANT + name for name in constants)}
    if context_size:
        known.add(CONTEXTS)
    return {
        "observation_shape": _shape_of(content["observation_shape"], "observation_shape"),
        "context_size": context_size,
        "outputs": outputs,
        "parameters": {name: _shape_of(shape, f"parameters.{name}") for name, shape in parameters.items()},
        "constants": _constants(constants),
        "calls": _calls(content["calls"], known),
    }


def _calls(entries: Any, known: set[str]) -> tuple[Call, ...]:
    _expect(isinstance(entries, list) and len(entries) <= _MAX_CALLS, f"calls: expected a list of at most {_MAX_CALLS}")
    calls = []
    for index, entry in enumerate(entries):
        path = f"calls[{index}]"
        _expect(isinstance(entry, list) and len(entry) == 3, f"{path}: expected an operation, inputs and attributes")
        operation, inputs, attributes = entry
        listed = isinstance(inputs, list) and all(isinstance(each, str) for each in inputs)
        _expect(isinstance(operation, str) and listed and isinstance(attributes, dict), f"{path}: expected names")
        problem = check_call(operation, len(inputs), attributes)
        _expect(not problem, f"{path}: {problem}")
        unknown = [name for name in inputs if name not in known]
        _expect(not unknown, f"{path}: takes {str(unknown)[:80]}, which nothing before it computes")
        known.add(f"%{index}")
        calls.append(Call(operation, tuple(inputs), attributes))
    return tuple(calls)


def _named_entries(entries: Any, field: str) -> dict[str, Any]:
    valid = isinstance(entries, dict) and len(entries) <= _MAX_TENSORS
    _expect(valid, f"{field}: expected an object with at most {_MAX_TENSORS} entries")
    for name in entries:
        _expect(bool(_NAME.fullmatch(name)), f"{field}: the name {name[:80]!r}; expected up to 200 visible characters")
    found: dict[str, Any] = entries
    return found


def _constants(entries: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    found, total = {}, 0
    for name, entry in entries.items():
        path = f"constants.{name}"
        _expect(isinstance(entry, dict) and entry.keys() == {"shape", "data"}, f"{path}: expected shape and data")
        shape = _shape_of(entry["shape"], path, least=0)
        total += math.prod(shape)
        _expect(total <= _MAX_CONSTANTS, f"{path}: more than {_MAX_CONSTANTS} numbers in constants")
        try:
            data = base64.b64decode(entry["data"], validate=True)
        except (ValueError, TypeError) as error:
            raise ProgramError(f"{path}: not base64: {error}") from error
        _expect(len(data) == 4 * math.prod(shape), f"{path}: {len(data)} bytes; expected {4 * math.prod(shape)}")
        value = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(shape))
        _expect(bool(torch.isfinite(value).all()), f"{path}: not finite")
        found[name] = value
    return found


def _shape_of(value: Any, path: str, least: int = 0) -> tuple[int, ...]:
    listed = isinstance(value, list) and least <= len(value) <= _MAX_AXES
    valid = listed and all(type(each) is int and 0 < each < 2**31 for each in value)
    _expect(valid, f"{path}: {str(value)[:40]}; expected {least} to {_MAX_AXES} lengths of 1 or more")
    return tuple(value)


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ProgramError(problem)
