"""The parameters of a policy: named tensors, their bytes and their identity."""

import hashlib
import math

import torch
from safetensors.torch import load, save

Parameters = dict[str, torch.Tensor]
"""Tensors by name. In meta-training each may have a leading axis of T tasks."""


class NonFiniteStepError(ArithmeticError):
    """A parameter is not finite after an adaptation step."""


def check_finite(parameters: Parameters) -> None:
    """Raises `NonFiniteStepError`, with the parameter's name, if a number is NaN or infinite."""
    for name, value in parameters.items():
        # A sum is not finite if a number is not; it may overflow where each number is finite.
        if not math.isfinite(float(value.sum())) and not bool(torch.isfinite(value).all()):
            raise NonFiniteStepError(f"parameter {name} is not finite after the step")


def parameters_to_bytes(parameters: Parameters) -> bytes:
    """The parameters in safetensors form. Equal parameters give equal bytes."""
    return save({name: value.detach().contiguous() for name, value in parameters.items()})


def parameters_from_bytes(data: bytes) -> Parameters:
    """Reads the bytes of `parameters_to_bytes`, sorted by name.

    Raises:
        safetensors.SafetensorError: the bytes are not in safetensors form.
    """
    # safetensors orders them at random.
    return dict(sorted(load(data).items()))


def parameters_digest(parameters: Parameters) -> str:
    """The policy id: SHA-256 (hex) of the parameters' bytes. Equal ids mean equal policies."""
    return digest_bytes(parameters_to_bytes(parameters))


def digest_bytes(data: bytes) -> str:
    """SHA-256 (hex) of bytes."""
    return hashlib.sha256(data).hexdigest()


def interpolate(start: Parameters, end: Parameters, part: float) -> Parameters:
    """The parameters that lie a part of the way from `start` to `end`."""
    return {name: start[name] + part * (value - start[name]) for name, value in end.items()}
