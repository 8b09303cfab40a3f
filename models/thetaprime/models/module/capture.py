"""Writes the forward pass of a `torch.nn.Module` down as a program, by `torch.export`.

The traced graph is a list of calls of ATen. Each becomes one or a few of our own operations, or is refused by name.
"""

import copy
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import nn

from thetaprime.models.module.aten import WRITERS
from thetaprime.models.module.graph_writer import GraphWriter, ModuleError
from thetaprime.models.module.program import Program, ProgramError

_ROWS: Final = 5
_CALLS: Final = 3
_SEED: Final = 20170309
_TOLERANCE: Final = 1e-5


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
        program = GraphWriter(exported, module, name, WRITERS).program(observation_shape, context_size, outputs)
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
    taken_apart = {each for each in called if str(each) not in WRITERS and each is not torch.ops.aten.detach.default}
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
