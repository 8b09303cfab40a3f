"""Writes the forward pass of a `torch.nn.Module` down as a program, by `torch.export`.

The traced graph is a list of calls of ATen. Each becomes one or a few of our own operations, or is refused by name.
"""

import copy
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx, nn

from thetaprime.models.module.program import CONSTANT, CONTEXTS, OBSERVATIONS, PARAMETER, Call, Program, ProgramError

_ROWS: Final = 5
_CALLS: Final = 3
_SEED: Final = 20170309
_TOLERANCE: Final = 1e-5
_NO_END: Final = 2**31


class ModuleError(ValueError):
    """A module that cannot be a policy's network; the message names the layer or the line, and what to use instead."""


def capture_module(
    module: nn.Module, observation_shape: tuple[int, ...], outputs: int, context_size: int = 0
) -> Program:
    """The program of a module.

    Args:
        module: takes observations [B, *observation_shape], and with a context also contexts [B, C]; returns [B, A].
            Each row of its result depends on the same row of its arguments.
        observation_shape: shape of one observation.
        outputs: A: means of a Gaussian, or logits.
        context_size: C, or 0.

    Raises:
        ModuleError: the module cannot be a policy's network.
    """
    name = type(module).__name__
    _check_layers(module, name)
    _check_parameters(module, name)
    generator = torch.Generator().manual_seed(_SEED)
    arguments = [torch.randn(_ROWS, *observation_shape, generator=generator)]
    if context_size:
        arguments.append(torch.randn(_ROWS, context_size, generator=generator))
    _check_calls(module, name, arguments, outputs)
    exported = _exported(module, name, arguments)
    _check_signature(exported, name)
    try:
        program = _Writer(exported, module, name).program(observation_shape, context_size, outputs)
    except ProgramError as error:
        raise ModuleError(f"{name}: {error}") from error
    _compare(program, module, name, arguments, generator)
    return program


_STATISTICS: Final = "Normalize with nn.LayerNorm or nn.GroupNorm, which keep no statistics between calls."
_REFUSED: Final[tuple[tuple[type[nn.Module], str], ...]] = (
    (nn.modules.batchnorm._BatchNorm, f"keeps running statistics, which θ' could not own. {_STATISTICS}"),
    (nn.RNNBase, "is recurrent: state between steps has no place in this policy. Give past observations as input."),
    (nn.RNNCellBase, "is recurrent: state between steps has no place in this policy. Give past observations as input."),
)


def _check_layers(module: nn.Module, name: str) -> None:
    for path, layer in module.named_modules():
        shown = f"{name}: layer {path or 'itself'} ({type(layer).__name__})"
        for refused, reason in _REFUSED:
            if isinstance(layer, refused) and (
                refused is not nn.modules.batchnorm._BatchNorm or getattr(layer, "track_running_stats", True)
            ):
                raise ModuleError(f"{shown} {reason}")
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ModuleError(
                f"{shown} draws noise, and the policy that acted could not be evaluated again. Leave it out: the "
                "policy's own noise regularizes."
            )
        if isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0:
            raise ModuleError(f"{shown} has dropout {layer.dropout}; expected 0")


def _check_parameters(module: nn.Module, name: str) -> None:
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ModuleError(f"{name} has no parameters; expected a network that can learn")
    for path, value in parameters.items():
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise ModuleError(f"{name}: parameter {path} is {value.dtype} on {value.device}; expected float32 on cpu")
        if not bool(torch.isfinite(value).all()):
            raise ModuleError(f"{name}: parameter {path} is not finite when the module is made")


@torch.no_grad()
def _check_calls(module: nn.Module, name: str, arguments: Sequence[torch.Tensor], outputs: int) -> None:
    """Calls the module twice: shape, numbers, and state."""
    before = {path: value.detach().clone() for path, value in module.state_dict(keep_vars=True).items()}
    try:
        first = module(*arguments)
        second = module(*arguments)
    except Exception as error:
        shapes = " and ".join(str(list(each.shape)) for each in arguments)
        raise ModuleError(f"{name} fails for inputs of shape {shapes}: {type(error).__name__}: {error}") from error
    expected = [len(arguments[0]), outputs]
    if not isinstance(first, torch.Tensor) or list(first.shape) != expected or first.dtype != torch.float32:
        found = f"{first.dtype} {list(first.shape)}" if isinstance(first, torch.Tensor) else type(first).__name__
        raise ModuleError(f"{name} returns {found} for {_ROWS} observations; expected torch.float32 {expected}")
    if not bool(torch.isfinite(first).all()):
        raise ModuleError(f"{name} returns numbers that are not finite, for standard normal observations")
    for path, value in module.state_dict(keep_vars=True).items():
        if not torch.equal(before[path], value.detach()):
            kind = "parameter" if isinstance(value, nn.Parameter) else "buffer"
            raise ModuleError(
                f"{name}: {kind} {path} changes when the module is called; expected a function of parameters and "
                "observations. Parameters move by adaptation alone, and there is no state between calls."
            )
    if not torch.equal(first, second):
        raise ModuleError(
            f"{name} returns two results for the same observations: it keeps state between calls, or draws noise"
        )


def _exported(module: nn.Module, name: str, arguments: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    # A copy: tracing may assign attributes.
    traced = copy.deepcopy(module)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exported = torch.export.export(
                traced,
                tuple(arguments),
                dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in arguments),
                strict=False,
            )
    except Exception as error:
        raise ModuleError(_explained(error, name)) from error
    for each in caught:
        found = re.search(r"tensor attributes? (\S+(?:, \S+)*) (?:was|were) assigned during export", str(each.message))
        if found:
            raise ModuleError(f"{name}: {found[1]} is assigned when the module is called: it keeps state between calls")
    for node in exported.graph.nodes:
        if node.op == "call_function" and "set_grad_enabled" in str(node.target):
            raise ModuleError(
                f"{name}: a part of it runs without gradients (torch.no_grad); expected gradients throughout"
            )
    # Operations without a writer are taken apart where torch knows how.
    called = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    taken_apart = {each for each in called if str(each) not in _WRITERS and each is not torch.ops.aten.detach.default}
    table = {each: rule for each, rule in _decompositions() if each in taken_apart}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simplified: torch.export.ExportedProgram = exported.run_decompositions(table)
    return simplified


def _decompositions() -> Iterable[tuple[Any, Any]]:
    rules: Any = torch.export.default_decompositions()
    found: Iterable[tuple[Any, Any]] = rules.items()
    return found


def _explained(error: Exception, name: str) -> str:
    text = str(error)
    line = re.search(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.+)', text)
    where = f" at {line[1]}, line {line[2]}: {line[4].strip()}" if line else ""
    if "data-dependent" in text:
        return (
            f"{name} branches on the numbers that it computes{where}. Expected the same operations for every "
            "observation; compute both cases, and choose by torch.maximum, torch.minimum, clamp or a sigmoid's weight."
        )
    if "specialized" in text.lower() or "constraint" in text.lower():
        return f"{name} works for one number of observations only; expected any: take it from observations.shape[0]"
    return f"{name} cannot be traced{where}: {type(error).__name__}: {text.splitlines()[0][:300] if text else ''}"


def _check_signature(exported: torch.export.ExportedProgram, name: str) -> None:
    for each in exported.graph_signature.output_specs:
        if each.kind.name != "USER_OUTPUT":
            raise ModuleError(
                f"{name}: {each.target} changes when the module is called; expected a function of parameters and "
                "observations"
            )


@torch.no_grad()
def _compare(
    program: Program,
    module: nn.Module,
    name: str,
    arguments: Sequence[torch.Tensor],
    generator: torch.Generator,
) -> None:
    """Compares the program with the module, at random parameters and for another number of observations."""
    parameters = {
        path: value + 0.1 * torch.randn(value.shape, generator=generator) for path, value in module.named_parameters()
    }
    more = [torch.cat([each, each.flip(0) * 0.5]) for each in arguments]
    # Called again and again: a count of calls shows.
    expected = torch.stack([torch.func.functional_call(module, parameters, tuple(more)) for _ in range(_CALLS)])
    found = program.run(parameters, *more)
    if not torch.allclose(found.expand_as(expected), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        worst = float((found - expected).abs().max())
        raise ModuleError(
            f"{name}: its traced program differs from the module by {worst:.3g} at random parameters: the module keeps "
            "state between calls, or depends on something else than parameters and observations"
        )
    alone = program.run(parameters, *(each[1:2] for each in more))
    if not torch.allclose(alone, found[1:2], rtol=1e-4, atol=1e-5):
        raise ModuleError(
            f"{name} mixes observations: a row of its result depends on other rows. Expected each row to depend on its "
            "own observation; axis 0 is that of the observations."
        )


Reference = str
_Arguments = Mapping[str, Any]


class _Writer:
    """Turns the nodes of a traced graph into calls."""

    def __init__(self, exported: torch.export.ExportedProgram, module: nn.Module, name: str) -> None:
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
        write = _WRITERS.get(target)
        if write is None:
            raise ModuleError(
                f"{self._name} uses {target}{self.line()}, which a policy's file cannot hold. Expected of ATen: "
                f"{', '.join(sorted({each.split('.')[1] for each in _WRITERS if '._' not in each}))}."
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


_SYMBOLIC: Final = frozenset({operator.mul, operator.add, operator.sub, operator.floordiv})
_Write = Callable[[_Writer, _Arguments], Reference]


def _simple(operation: str, *names: str) -> _Write:
    def write(writer: _Writer, a: _Arguments) -> Reference:
        return writer.call(operation, *(writer.tensor(a[name]) for name in names))

    return write


def _scaled(operation: str) -> _Write:
    def write(writer: _Writer, a: _Arguments) -> Reference:
        other = writer.tensor(a["other"])
        if a.get("alpha", 1) != 1:
            other = writer.call("mul", other, writer.tensor(a["alpha"]))
        return writer.call(operation, writer.tensor(a["self"]), other)

    return write


def _same(writer: _Writer, a: _Arguments) -> Reference:
    return writer.tensor(a["self"])


def _no_dropout(writer: _Writer, a: _Arguments) -> Reference:
    if a["p"]:
        raise writer.refuse(f"draws noise, p = {a['p']}; expected 0")
    return writer.tensor(a["input"])


def _cast(writer: _Writer, a: _Arguments) -> Reference:
    if writer.node.meta["val"].dtype != torch.float32:
        raise writer.refuse(f"gives {writer.node.meta['val'].dtype}; expected float32")
    return writer.tensor(a["self"])


def _reshaped(writer: _Writer, a: _Arguments) -> Reference:
    return writer.reshape(writer.tensor(a["self"]), writer.shape())


def _linear(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call(
        "linear", *(writer.tensor(a[name]) for name in ("input", "weight", "bias") if a[name] is not None)
    )


def _addmm(writer: _Writer, a: _Arguments) -> Reference:
    product = writer.call("matmul", writer.tensor(a["mat1"]), writer.tensor(a["mat2"]))
    return writer.call("add", product, writer.tensor(a["self"]))


def _convolution(writer: _Writer, a: _Arguments) -> Reference:
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


def _pool(operation: str) -> _Write:
    def write(writer: _Writer, a: _Arguments) -> Reference:
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


def _adaptive_mean(writer: _Writer, a: _Arguments) -> Reference:
    if list(a["output_size"]) != [1, 1]:
        raise writer.refuse(f"output size {list(a['output_size'])}; expected 1, or nn.AvgPool2d")
    axes = len(writer.shape(a["self"]))
    return writer.call("mean", writer.tensor(a["self"]), axes=[axes - 2, axes - 1], keepdim=1)


def _layer_norm(writer: _Writer, a: _Arguments) -> Reference:
    tensors = [writer.tensor(a[name]) for name in ("input", "weight", "bias") if a[name] is not None]
    return writer.call("layer_norm", *tensors, axes=len(a["normalized_shape"]), epsilon=a["eps"])


def _group_norm(writer: _Writer, a: _Arguments) -> Reference:
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


def _attention(writer: _Writer, a: _Arguments) -> Reference:
    if a["attn_mask"] is not None or a["is_causal"] or a["dropout_p"] or a.get("enable_gqa"):
        raise writer.refuse("expected attention without a mask, causality, dropout or grouped queries")
    query, key, value = (writer.tensor(a[name]) for name in ("query", "key", "value"))
    axes = list(range(len(writer.shape(a["key"]))))
    turned = writer.call("permute", key, axes=[*axes[:-2], axes[-1], axes[-2]])
    scale = a["scale"] or writer.shape(a["query"])[-1] ** -0.5
    scores = writer.call("mul", writer.call("matmul", query, turned), writer.tensor(scale))
    return writer.call("matmul", writer.call("softmax", scores, axis=axes[-1]), value)


def _transposed(writer: _Writer, a: _Arguments) -> Reference:
    axes = list(range(len(writer.shape())))
    first, second = (writer.axis(a[name]) for name in ("dim0", "dim1"))
    axes[first], axes[second] = axes[second], axes[first]
    return writer.call("permute", writer.tensor(a["self"]), axes=axes)


def _turned(writer: _Writer, a: _Arguments) -> Reference:
    axes = list(range(len(writer.shape())))
    return writer.call("permute", writer.tensor(a["self"]), axes=axes[::-1])


def _permuted(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call("permute", writer.tensor(a["self"]), axes=[writer.axis(each) for each in a["dims"]])


def _sliced(writer: _Writer, reference: Reference, node: fx.Node, axis: int, start: int, end: int) -> Reference:
    length = writer.shape(node)[axis]
    if length == -1:
        if start == 0 and end >= _NO_END:
            return reference
        raise writer.refuse("takes some of the observations; expected all of them")
    start, end = (min(each + length if each < 0 else each, length) for each in (start, end))
    if (start, end) == (0, length):
        return reference
    return writer.call("slice", reference, axis=axis, start=start, end=end)


def _slice(writer: _Writer, a: _Arguments) -> Reference:
    if a["step"] != 1:
        raise writer.refuse(f"step {a['step']}; expected 1")
    start, end = a["start"] or 0, _NO_END if a["end"] is None else a["end"]
    return _sliced(writer, writer.tensor(a["self"]), a["self"], writer.axis(a["dim"], a["self"]), start, end)


def _select(writer: _Writer, a: _Arguments) -> Reference:
    axis, index = writer.axis(a["dim"], a["self"]), a["index"]
    length = writer.shape(a["self"])[axis]
    if length == -1:
        raise writer.refuse("takes one of the observations; expected all of them")
    index += length if index < 0 else 0
    part = _sliced(writer, writer.tensor(a["self"]), a["self"], axis, index, index + 1)
    return writer.reshape(part, writer.shape())


def _split(writer: _Writer, a: _Arguments) -> Reference:
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


def _cat(writer: _Writer, a: _Arguments) -> Reference:
    axis = writer.axis(a["dim"])
    if writer.shape()[axis] == -1:
        raise writer.refuse("joins observations; expected another axis")
    return writer.call("cat", *(writer.tensor(each) for each in a["tensors"]), axis=axis)


def _stack(writer: _Writer, a: _Arguments) -> Reference:
    axis, shape = writer.axis(a["dim"]), writer.shape()
    one = [1 if index == axis else length for index, length in enumerate(shape)]
    return writer.call("cat", *(writer.reshape(writer.tensor(each), one) for each in a["tensors"]), axis=axis)


def _expand(writer: _Writer, a: _Arguments) -> Reference:
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


def _reduced(operation: str) -> _Write:
    def write(writer: _Writer, a: _Arguments) -> Reference:
        axes = writer.axes(a["dim"], a["self"])
        return writer.call(operation, writer.tensor(a["self"]), axes=axes, keepdim=int(a["keepdim"]))

    return write


def _softmax(writer: _Writer, a: _Arguments) -> Reference:
    (axis,) = writer.axes(a["dim"], a["self"])
    return writer.call("softmax", writer.tensor(a["self"]), axis=axis)


def _silu(writer: _Writer, a: _Arguments) -> Reference:
    value = writer.tensor(a["self"])
    return writer.call("mul", value, writer.call("sigmoid", value))


def _gelu(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call("gelu" if a["approximate"] == "none" else "gelu_tanh", writer.tensor(a["self"]))


def _elu(writer: _Writer, a: _Arguments) -> Reference:
    if a["scale"] != 1 or a["input_scale"] != 1:
        raise writer.refuse("expected the plain form, nn.ELU")
    return writer.call("elu", writer.tensor(a["self"]), alpha=float(a["alpha"]))


def _leaky_relu(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call("leaky_relu", writer.tensor(a["self"]), slope=float(a["negative_slope"]))


def _softplus(writer: _Writer, a: _Arguments) -> Reference:
    if (a["beta"], a["threshold"]) != (1, 20):
        raise writer.refuse(f"beta {a['beta']} and threshold {a['threshold']}; expected 1 and 20")
    return writer.call("softplus", writer.tensor(a["self"]))


def _clamp(low: str, high: str) -> _Write:
    def write(writer: _Writer, a: _Arguments) -> Reference:
        least = float("-inf") if a.get(low) is None else float(a[low])
        most = float("inf") if a.get(high) is None else float(a[high])
        return writer.call("clamp", writer.tensor(a["self"]), low=least, high=most)

    return write


def _power(writer: _Writer, a: _Arguments) -> Reference:
    value, exponent = writer.tensor(a["self"]), a["exponent"]
    if exponent == 0.5:
        return writer.call("sqrt", value)
    if exponent not in (1, 2, 3, 4):
        raise writer.refuse(f"exponent {exponent}; expected 0.5, 1, 2, 3 or 4")
    result = value
    for _ in range(int(exponent) - 1):
        result = writer.call("mul", result, value)
    return result


def _negated(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call("mul", writer.tensor(a["self"]), writer.tensor(-1.0))


def _reversed_division(writer: _Writer, a: _Arguments) -> Reference:
    return writer.call("div", writer.tensor(1.0), writer.tensor(a["self"]))


_WRITERS: Final[Mapping[str, _Write]] = {
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
