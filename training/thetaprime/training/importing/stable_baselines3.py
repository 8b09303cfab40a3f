"""Reads the policy network of a model that Stable-Baselines3 saved, without running its code.

A model is a zip archive: ``data`` is JSON in which Python objects are pickled, and ``policy.pth`` is the network's
state dict. The JSON gives the class of the activation in readable form, torch reads the state dict with
``weights_only``: a reader that makes tensors and containers, and refuses every other object. No other member is read.
"""

import dataclasses
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch

Activation = Literal["relu", "tanh"]

# A network of 16 million parameters, with the state of its optimizer beside it in the archive.
_MOST_BYTES: Final = 1 << 28
_MOST_SETTINGS: Final = 1 << 24
_SETTINGS, _WEIGHTS = "data", "policy.pth"
_HIDDEN: Final = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
_OTHER_LAYERS: Final = ("features_extractor.", "pi_features_extractor.", "mlp_extractor.shared_net.", "lstm_actor.")
_ACTIVATIONS: Final[dict[str, Activation]] = {"Tanh": "tanh", "ReLU": "relu"}


class ImportedFileError(ValueError):
    """A file is no model that can be imported. The message says why, and what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


@dataclasses.dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """A multilayer perceptron from an observation to an action distribution, as another library holds it.

    Attributes:
        layers: weight [out, in] and bias [out] of each layer; the last gives the Gaussian's mean in the environment's
            units, or the categorical's logits.
        activation: between layers.
        log_std: [A] log standard deviation in the environment's units; None for a categorical.
        steps: environment steps of its training; 0 if unknown.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    activation: Activation
    log_std: torch.Tensor | None
    steps: int = 0

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(len(bias) for _, bias in self.layers[:-1])

    @property
    def observation_size(self) -> int:
        """O."""
        return int(self.layers[0][0].shape[1])

    @property
    def action_size(self) -> int:
        """A."""
        return len(self.layers[-1][1])


def read_stable_baselines3(path: Path) -> ImportedNetwork:
    """Reads the policy of a model of an on-policy algorithm: PPO, A2C, or TRPO.

    Args:
        path: the archive, as ``model.save`` writes it.

    Raises:
        ImportedFileError: the file is no such archive, is too large, holds pickled objects in place of tensors, or its
            policy is no multilayer perceptron with a Gaussian or categorical head.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            settings = _settings(path, _member(path, archive, _SETTINGS, _MOST_SETTINGS))
            weights = _weights(path, _member(path, archive, _WEIGHTS, _MOST_BYTES))
    except zipfile.BadZipFile as error:
        raise ImportedFileError(path, f"no zip archive ({error}); expected a file of model.save") from error
    return _network(path, settings, weights)


def _member(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        raise ImportedFileError(
            path, f"holds no {name!r}; expected a model of Stable-Baselines3, as model.save writes it"
        ) from None
    if size > most:
        raise ImportedFileError(path, f"{name!r} has {size:,} bytes; at most {most:,} are read")
    # The header may lie about the size.
    with archive.open(name) as opened:
        data = opened.read(most + 1)
    if len(data) > most:
        raise ImportedFileError(path, f"{name!r} has more bytes than the {most:,} that are read")
    return data


def _settings(path: Path, data: bytes) -> Mapping[str, Any]:
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImportedFileError(path, f"{_SETTINGS!r} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ImportedFileError(path, f"{_SETTINGS!r} is a {type(settings).__name__}; expected an object")
    return settings


def _check_unpacked(path: Path, data: bytes) -> None:
    """Refuses weights, an archive in the archive, that would unpack to more than may be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ImportedFileError(path, f"{_WEIGHTS!r} is no archive of torch.save: {error}") from error
    if size > _MOST_BYTES:
        raise ImportedFileError(path, f"{_WEIGHTS!r} unpacks to {size:,} bytes; at most {_MOST_BYTES:,} are read")


def _weights(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    _check_unpacked(path, data)
    try:
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ImportedFileError(
            path, f"{_WEIGHTS!r} is no dictionary of tensors, and nothing else is read: {reason}"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(each, torch.Tensor) for each in weights.values()):
        raise ImportedFileError(path, f"{_WEIGHTS!r} is no dictionary of tensors")
    return weights


def _network(path: Path, settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> ImportedNetwork:
    if "action_net.weight" not in weights:
        first = ", ".join(list(weights)[:4])
        raise ImportedFileError(
            path, f"has no layer action_net, but {first} …; expected the policy of PPO, A2C or TRPO, with MlpPolicy"
        )
    _refuse_others(path, settings, weights)
    hidden = sorted(int(match[1]) for name in weights if (match := _HIDDEN.fullmatch(name)))
    names = [*(f"mlp_extractor.policy_net.{index}" for index in hidden), "action_net"]
    layers = tuple((weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()) for name in names)
    log_std = weights.get("log_std")
    _check_layers(path, names, layers, log_std)
    return ImportedNetwork(
        layers=layers,
        activation=_activation(path, settings),
        log_std=None if log_std is None else log_std.float(),
        steps=int(settings.get("num_timesteps") or 0),
    )


def _refuse_others(path: Path, settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses networks that compute something else than their linear layers say."""
    if settings.get("use_sde"):
        raise ImportedFileError(path, "explores by gSDE (use_sde); its noise depends on the state. Train without")
    for name, value in weights.items():
        if name.startswith(_OTHER_LAYERS):
            raise ImportedFileError(
                path, f"layer {name}: only a policy on the flat observation is read (MlpPolicy, without shared layers)"
            )
        if not bool(torch.isfinite(value).all()):
            raise ImportedFileError(path, f"layer {name} is not finite")


def _check_layers(
    path: Path,
    names: list[str],
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...],
    log_std: torch.Tensor | None,
) -> None:
    width = layers[0][0].shape[-1]
    for name, (weight, bias) in zip(names, layers, strict=True):
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ImportedFileError(
                path, f"layer {name}: weight {list(weight.shape)}, bias {list(bias.shape)}; expected {width} inputs"
            )
        width = len(bias)
    if log_std is not None and log_std.shape != (width,):
        raise ImportedFileError(path, f"log_std has the shape {list(log_std.shape)}; expected [{width}]")


def _activation(path: Path, settings: Mapping[str, Any]) -> Activation:
    """The activation: the class that ``policy_kwargs`` names, by default Tanh."""
    found = re.search(r"torch\.nn\.modules\.activation\.(\w+)", _described(settings.get("policy_kwargs")))
    name = found[1] if found else "Tanh"
    if name not in _ACTIVATIONS:
        raise ImportedFileError(path, f"activation {name}; expected {' or '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _described(value: Any) -> str:
    """The readable part of a value of the settings."""
    return json.dumps(value) if isinstance(value, dict) else str(value or "")
