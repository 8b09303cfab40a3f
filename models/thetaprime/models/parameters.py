"""The parameters of a policy: named tensors, their bytes and their identity."""

import hashlib

import torch
from safetensors.torch import load, save

Parameters = dict[str, torch.Tensor]
"""Tensors by name. In meta-training a leading axis of T tasks may stand before each shape."""


class NonFiniteStepError(ArithmeticError):
    """An adaptation step left the finite numbers."""


def check_finite(parameters: Parameters) -> None:
    """Raises `NonFiniteStepError`, naming the parameter, when a number is NaN or infinite."""
    for name, value in parameters.items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteStepError(f"parameter {name} is not finite after the step")


def parameters_to_bytes(parameters: Parameters) -> bytes:
    """The parameters in safetensors form; equal parameters give equal bytes."""
    return save({name: value.detach().contiguous() for name, value in parameters.items()})


def parameters_from_bytes(data: bytes) -> Parameters:
    """Reads what `parameters_to_bytes` wrote.

    Raises:
        safetensors.SafetensorError: the bytes are not in safetensors form.
    """
    return load(data)


def parameters_digest(parameters: Parameters) -> str:
    """The policy id: SHA-256 (hex) of the parameters' bytes. Equal ids, equal policies."""
    return digest_bytes(parameters_to_bytes(parameters))


def digest_bytes(data: bytes) -> str:
    """SHA-256 (hex) of some bytes."""
    return hashlib.sha256(data).hexdigest()
