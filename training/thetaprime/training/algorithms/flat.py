"""Parameters <-> one vector, as second-order methods want them.

Always in the order of the names, so that a dictionary that went through a file gives the same vector.
"""

import torch

from thetaprime.models import Parameters


def flatten(parameters: Parameters) -> torch.Tensor:
    """[P]: all parameters end to end."""
    return torch.cat([parameters[name].reshape(-1) for name in sorted(parameters)])


def unflatten(vector: torch.Tensor, like: Parameters) -> Parameters:
    """[P] -> parameters with the names and shapes of `like`; differentiable."""
    names = sorted(like)
    parts = torch.split(vector, [like[name].numel() for name in names])
    return {name: part.view(like[name].shape) for name, part in zip(names, parts, strict=True)}
