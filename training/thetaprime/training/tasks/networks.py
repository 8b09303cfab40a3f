"""The network of a policy in training: the built-in MLP, or a module of the user's by its name."""

import functools
import importlib
from typing import Any

from torch import nn

from thetaprime.models import EnvironmentContract, Policy, PolicySpec
from thetaprime.models.module.capture import capture_module
from thetaprime.models.module.graph_writer import ModuleError
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.training.tasks.distributions import search_working_directory


def make_policy(environment: EnvironmentContract, spec: PolicySpec) -> Policy:
    """The policy of a specification.

    Args:
        environment: the contract of the environment.
        spec: the network; with `spec.module`, the module is imported and traced.

    Raises:
        ModuleError: the module cannot be made, or cannot be a policy's network.
    """
    if not spec.module:
        return Policy(environment, spec)
    made = _resolved(spec.module)
    arguments: tuple[Any, ...] = (environment.observation_shape, environment.action.size)
    if spec.context_size:
        arguments = (*arguments, spec.context_size)
    make = functools.partial(_made, spec.module, made, arguments)
    program = capture_module(make(), environment.observation_shape, environment.action.size, spec.context_size)
    try:
        return ModulePolicy(environment, spec, program, make)
    except ValueError as error:
        raise ModuleError(f"policy.module: {spec.module!r}: {error}") from error


def _resolved(reference: str) -> Any:
    module_name, colon, class_name = reference.partition(":")
    if not colon:
        raise ModuleError(f"policy.module: {reference!r}; expected package.module:Class")
    search_working_directory()
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ModuleError(f"policy.module: {reference!r} cannot be imported: {error}") from error


def _made(reference: str, made: Any, arguments: tuple[Any, ...]) -> nn.Module:
    try:
        module = made(*arguments)
    except Exception as error:
        names = ("observation_shape", "outputs", "context_size")[: len(arguments)]
        raise ModuleError(
            f"policy.module: {reference!r} cannot be made with ({', '.join(names)}) = {arguments}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModuleError(f"policy.module: {reference!r} makes {type(module).__name__}; expected a torch.nn.Module")
    return module
