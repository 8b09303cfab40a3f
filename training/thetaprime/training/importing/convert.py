"""Turns an imported network into a policy of ours that takes the same actions."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from thetaprime.models import BoxAction, EnvironmentContract, Parameters, PolicySpec
from thetaprime.models.head import action_scaling
from thetaprime.training.importing.stable_baselines3 import ImportedFileError, ImportedNetwork


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The running statistics that an observation was normalized with, before the network saw it.

    Attributes:
        mean: [O].
        std: [O].
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def read_normalization(path: Path, epsilon: float = 1e-8) -> Normalization:
    """Reads the arrays ``mean`` and ``var`` [O] from an ``.npz`` file.

    ``numpy.savez("normalization.npz", mean=env.obs_rms.mean, var=env.obs_rms.var)`` writes the file from the statistics
    of VecNormalize, which itself is saved as a pickle. VecNormalize also clips the result, at ±10 by default; the
    imported policy does not.

    Args:
        path: the file.
        epsilon: added to the variance, as VecNormalize does.

    Raises:
        ImportedFileError: the file is no such archive, or its arrays are not finite vectors of equal length.
        OSError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, var = (np.asarray(arrays[name], dtype=np.float64).reshape(-1) for name in ("mean", "var"))
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, TypeError) as error:
        raise ImportedFileError(path, f"{error}; expected an .npz file with the arrays mean and var") from error
    if mean.shape != var.shape or not np.isfinite([mean, var]).all() or bool((var < 0).any()):
        raise ImportedFileError(
            path,
            f"mean [{len(mean)}], var [{len(var)}]; expected finite numbers of one length, none of var negative",
        )
    return Normalization(tuple(mean.tolist()), tuple(np.sqrt(var + epsilon).tolist()))


def convert(
    network: ImportedNetwork, environment: EnvironmentContract, normalization: Normalization
) -> tuple[PolicySpec, Parameters]:
    """Returns the specification and the parameters of the policy that takes the network's actions.

    A Gaussian's mean and deviation move from the environment's units into the policy's, where a bounded action lies in
    [−1, 1]; the last layer absorbs the map.

    Args:
        network: as read.
        environment: the contract of the environment that it was trained in.
        normalization: of its observations.

    Raises:
        ValueError: the environment's spaces are not the network's.
    """
    size, actions = environment.observation_size, environment.action.size
    if network.observation_size != size or network.action_size != actions:
        raise ValueError(
            f"the network takes {network.observation_size} numbers and gives {network.action_size}; "
            f"{environment.environment_id} has observations of {size} numbers and actions of {actions}"
        )
    continuous = isinstance(environment.action, BoxAction)
    if continuous != (network.log_std is not None):
        kind = "a Gaussian" if network.log_std is not None else "a categorical"
        raise ValueError(f"the network's actions are from {kind}; {environment.environment_id} takes others")
    if len(normalization.mean) not in (0, size):
        raise ValueError(f"the normalization has {len(normalization.mean)} numbers; an observation has {size}")
    spec = PolicySpec(
        hidden_sizes=network.hidden_sizes,
        activation=network.activation,
        observation_mean=normalization.mean,
        observation_std=normalization.std,
    )
    parameters: Parameters = {}
    for index, (weight, bias) in enumerate(network.layers):
        parameters[f"layers.{index}.weight"] = weight.clone()
        parameters[f"layers.{index}.bias"] = bias.clone()
    if network.log_std is not None:
        _, half, middle = (each.double() for each in action_scaling(environment))
        last = len(network.layers) - 1
        weight, bias = (each.double() for each in network.layers[last])
        parameters[f"layers.{last}.weight"] = (weight / half[:, None]).float()
        parameters[f"layers.{last}.bias"] = ((bias - middle) / half).float()
        parameters["log_std"] = (network.log_std.double() - half.log()).float()
    return spec, parameters
