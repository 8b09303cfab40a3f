"""How unusual a batch is: the distances of its features to those of the nearest held-out tasks, in several groups."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.verdict.task_features import Feature

_NEIGHBORS: Final = 5
_TAIL: Final = 0.1
_TINY: Final = 1e-300
_FARTHEST: Final = 1e6
_RIDGE: Final = 1e-6


class Group(NamedTuple):
    """Features whose distance to those of held-out tasks is measured together.

    Attributes:
        prefixes: of the features' names.
        common: whether the features have one scale, that of the most variable one. Otherwise each has its own.
    """

    prefixes: tuple[str, ...]
    common: bool = False


# The return comes along where a feature varies with it: the pair is narrower than the feature.
GROUPS: Final = (
    Group(("return",)),
    Group(("return", "direction_")),
    Group(("return", "return_spread")),
    Group(("return", "reward_spread")),
    Group(("return", "length", "terminated")),
    Group(("reward_function_",), common=True),
    Group(("reward_function_",)),
    Group(("reward_residual",)),
    Group(("reward_residual", "reward_function_0", "reward_function_1")),
    Group(("gradient_norm",)),
    Group(("gradient_norm", "direction_")),
    Group(("drift", "state_response", "action_response", "motion_noise")),
    Group(("states",)),
)
"""Overlapping groups of features."""


def group_columns(group: Group, features: Sequence[Feature]) -> list[int]:
    """The indices of a group's features: those named by a prefix, which itself is a name or ends in an underscore."""
    return [
        index
        for index, feature in enumerate(features)
        if any(feature.name.startswith(each) if each.endswith("_") else feature.name == each for each in group.prefixes)
    ]


class Neighbors:
    """The held-out tasks in standardized features.

    Args:
        features: [T, F], of the held-out tasks.
        described: the F features.

    Attributes:
        described: the F features.
    """

    def __init__(self, features: torch.Tensor, described: Sequence[Feature]) -> None:
        self.described = tuple(described)
        tasks = features.double()
        self._center = tasks.median(0).values.numpy()
        self._scale = (tasks.std(0) + 1e-3 * torch.from_numpy(self._center).abs() + 1e-6).numpy()
        self._columns = [np.array(group_columns(group, described)) for group in GROUPS]
        self._weights = np.zeros((len(self.described), len(GROUPS)))
        for index, (group, columns) in enumerate(zip(GROUPS, self._columns, strict=True)):
            scale = self._scale[columns]
            self._weights[columns, index] = np.square(scale / scale.max()) if group.common else 1.0
        self._tasks = self._standardized(features)

    def _standardized(self, features: torch.Tensor) -> npt.NDArray[np.float64]:
        z = (features.double().numpy() - self._center) / self._scale
        finite: npt.NDArray[np.float64] = np.nan_to_num(z, nan=_FARTHEST, posinf=_FARTHEST, neginf=-_FARTHEST)
        return finite.clip(-_FARTHEST, _FARTHEST)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """[P, F] -> [P, G]: mean distance of each batch to the nearest held-out tasks, by group."""
        return self._distances(features, own=False)

    def held_out_distances(self, features: torch.Tensor) -> torch.Tensor:
        """[T, F] -> [T, G]: the same for each held-out task, without itself; with any number of trajectories."""
        return self._distances(features, own=True)

    def _distances(self, features: torch.Tensor, *, own: bool) -> torch.Tensor:
        count = min(_NEIGHBORS, len(self._tasks) - own)
        rows = []
        for index, point in enumerate(self._standardized(features)):
            squares = np.square(self._tasks - point) @ self._weights
            if own:
                # A task does not count as its own neighbor.
                squares[index] = math.inf
            rows.append(np.sqrt(np.partition(squares, count - 1, axis=0)[:count]).mean(0))
        return torch.from_numpy(np.stack(rows))

    def most_unusual(self, features: torch.Tensor, group: int) -> tuple[int, bool]:
        """The feature of a group that differs most from the nearest tasks', and whether it lies above theirs.

        Args:
            features: [F].
            group: index of the group.
        """
        point, columns = self._standardized(features[None])[0], self._columns[group]
        distances = np.square(self._tasks - point) @ self._weights[:, group]
        nearest = np.argsort(distances, kind="stable")[:_NEIGHBORS]
        weights = np.sqrt(self._weights[columns, group])
        differences = (point[columns] - self._tasks[nearest][:, columns].mean(0)) * weights
        chosen = int(np.abs(differences).argmax())
        return int(columns[chosen]), bool(differences[chosen] > 0)


def nonconformity(distances: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """How far log distances lie in the tails of the held-out tasks'.

    Args:
        distances: [..., G].
        level: [G, 2], from `tails`.

    Returns:
        [..., G]; the largest is the score.
    """
    return (_logs(distances) - level[:, 0].double()) / level[:, 1].double()


def tails(distances: torch.Tensor) -> torch.Tensor:
    """The tails of the held-out tasks' log distances.

    Args:
        distances: [T, G].

    Returns:
        [G, 2] float32: the 90 % quantile, and the mean excess over it (Hill 1975).
    """
    logs = _logs(distances)
    start = logs.quantile(1.0 - _TAIL, dim=0)
    excess = (logs - start).clamp_min(0.0).sum(0) / (logs > start).sum(0).clamp_min(1)
    return torch.stack([start, excess.clamp_min(_RIDGE)], dim=1).float()


def _logs(values: torch.Tensor) -> torch.Tensor:
    return values.double().clamp_min(_TINY).log()
