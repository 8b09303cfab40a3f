"""The calibration of verdicts: held-out meta-training tasks, measured at export and kept in the artifact.

`reference.safetensors` holds one group of tensors for each kind of policy that collects episodes, under the prefix
``calibration.theta.`` (θ) and ``calibration.adapted.`` (θ_1, after the shipped inner step on N trajectories):

| tensor | shape | contents |
|---|---|---|
| ``observation``, ``action`` | [2, O], [2, A] | mean and standard deviation, over pilot tasks |
| ``change`` | [O] | standard deviation of one step's change of the observation |
| ``dynamics`` | [K, O] | least squares from a step's inputs (see `transitions`) to its standardized change |
| ``dynamics_noise`` | [K + 1, O] | deviation over pilot tasks of what that model leaves unexplained |
| ``inputs_noise`` | [2, K − 1] | mean and deviation over pilot tasks of the mean input |
| ``rewards`` | [K + O, Q] | a bank of reward functions, linear in inputs and change, that spans those of pilot tasks |
| ``features`` | [T, F] | `batch_features` of T held-out tasks |
| ``trajectories`` | [L] | numbers of trajectories that are calibrated |
| ``levels`` | [L, G, 2] | tail of each group's log distances, with so many trajectories |
| ``scores`` | [L, T] | nonconformity score of each held-out task |

``calibration.pairs`` [T] holds the smaller of each held-out task's two p-values.
"""

import dataclasses
import weakref
from typing import Final, Self

import torch

from thetaprime.models.artifact import REFERENCE_NAME, MetaPolicy
from thetaprime.models.errors import ArtifactError
from thetaprime.models.parameters import Parameters

PREFIX: Final = "calibration."
"""Prefix of the names of all calibration tensors."""
THETA: Final = "theta"
"""Name of the calibration of episodes that θ collected."""
ADAPTED: Final = "adapted"
"""Name of the calibration of episodes that θ_1 collected."""
_PAIRS: Final = "pairs"


@dataclasses.dataclass(frozen=True, eq=False)
class Lens:
    """What `batch_features` compares the transitions of a batch with; see the module's table for the shapes."""

    observation: torch.Tensor
    action: torch.Tensor
    change: torch.Tensor
    dynamics: torch.Tensor
    dynamics_noise: torch.Tensor
    inputs_noise: torch.Tensor
    rewards: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out tasks under one kind of policy; see the module's table for the shapes."""

    features: torch.Tensor
    trajectories: torch.Tensor
    levels: torch.Tensor
    scores: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class StageCalibration:
    """The calibration of episodes of one kind of policy.

    Attributes:
        lens: the models that features are measured with.
        tasks: the held-out tasks.
    """

    lens: Lens
    tasks: HeldOut

    def tensors(self, stage: str) -> Parameters:
        """The tensors by their names in an artifact.

        Args:
            stage: `THETA` or `ADAPTED`.
        """
        parts = {**_fields(self.lens), **_fields(self.tasks)}
        return {f"{PREFIX}{stage}.{name}": value.float() for name, value in parts.items()}

    @classmethod
    def read(cls, reference: Parameters, stage: str) -> Self:
        """Reads the tensors of one kind of policy.

        Raises:
            ArtifactError: a tensor is missing.
        """
        found = {}
        for kind in (Lens, HeldOut):
            for field in dataclasses.fields(kind):
                name = f"{PREFIX}{stage}.{field.name}"
                if name not in reference:
                    raise ArtifactError(REFERENCE_NAME, f"{name} is missing; calibrate the artifact again")
                found[field.name] = reference[name]
        names = [field.name for field in dataclasses.fields(Lens)]
        lens = Lens(**{name: found.pop(name) for name in names})
        return cls(lens, HeldOut(**found))


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The calibration of a meta-policy.

    Attributes:
        theta: of episodes that θ collected.
        adapted: of episodes that θ_1 collected.
        pairs: [T], ascending: the smaller one of each held-out task's p-values under θ and under θ_1.
    """

    theta: StageCalibration
    adapted: StageCalibration
    pairs: torch.Tensor

    def tensors(self) -> Parameters:
        """The tensors by their names in an artifact."""
        return {
            **self.theta.tensors(THETA),
            **self.adapted.tensors(ADAPTED),
            PREFIX + _PAIRS: self.pairs.float(),
        }


_LOADED: "weakref.WeakKeyDictionary[MetaPolicy, Calibration | None]" = weakref.WeakKeyDictionary()


def load_calibration(meta_policy: MetaPolicy) -> Calibration | None:
    """The calibration in an artifact; None for an artifact without one.

    Raises:
        ArtifactError: a tensor of the calibration is missing or does not fit the network.
    """
    if meta_policy not in _LOADED:
        _LOADED[meta_policy] = _read(meta_policy)
    return _LOADED[meta_policy]


def _read(meta_policy: MetaPolicy) -> Calibration | None:
    reference = meta_policy.reference
    if PREFIX + _PAIRS not in reference:
        return None
    theta, adapted = (StageCalibration.read(reference, stage) for stage in (THETA, ADAPTED))
    calibration = Calibration(theta, adapted, pairs=reference[PREFIX + _PAIRS])
    _check(meta_policy, calibration)
    return calibration


def _check(meta_policy: MetaPolicy, calibration: Calibration) -> None:
    """Checks that the shapes fit each other and the network, and that all numbers are finite."""
    environment = meta_policy.manifest.environment
    size, actions = environment.observation_size, environment.action.size
    K, T = 1 + 2 * size + 2 * actions, len(calibration.pairs) if calibration.pairs.ndim else 0
    for stage, part in ((THETA, calibration.theta), (ADAPTED, calibration.adapted)):
        L, F, G, Q = (
            len(part.tasks.trajectories) if part.tasks.trajectories.ndim else 0,
            part.tasks.features.shape[-1],
            part.tasks.levels.shape[1] if part.tasks.levels.ndim > 1 else 0,
            part.lens.rewards.shape[-1],
        )
        expected = {
            "observation": (2, size),
            "action": (2, actions),
            "change": (size,),
            "dynamics": (K, size),
            "dynamics_noise": (K + 1, size),
            "inputs_noise": (2, K - 1),
            "rewards": (K + size, Q),
            "features": (T, F),
            "trajectories": (L,),
            "levels": (L, G, 2),
            "scores": (L, T),
        }
        for name, value in {**_fields(part.lens), **_fields(part.tasks)}.items():
            label = f"{PREFIX}{stage}.{name}"
            if tuple(value.shape) != expected[name] or not value.numel():
                raise ArtifactError(REFERENCE_NAME, f"{label} is {list(value.shape)}; expected {list(expected[name])}")
            if not bool(torch.isfinite(value).all()):
                raise ArtifactError(REFERENCE_NAME, f"{label} is not finite")


def _fields(part: Lens | HeldOut) -> Parameters:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
