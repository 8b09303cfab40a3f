"""The trajectories of one task, laid out for learning."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch


@dataclasses.dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """N whole trajectories of one task, end to end: S steps in all.

    Concatenated rather than padded: trajectories may differ in length, and no arithmetic is spent on padding.

    Attributes:
        observations: [S, O] float32.
        actions: [S, A] float32 in policy units, unclipped; or [S] int64, counted from 0.
        rewards: [S] float32.
        lengths: H_n of each trajectory; they add up to S.
        terminated: [N] bool; whether each ended in a terminal state (else it was truncated).
        final_observations: [N, O] float32; what followed each last action.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    lengths: tuple[int, ...]
    terminated: torch.Tensor
    final_observations: torch.Tensor

    @classmethod
    def concatenate(
        cls,
        observations: Sequence[npt.NDArray[Any]],
        actions: Sequence[npt.NDArray[Any]],
        rewards: Sequence[npt.NDArray[Any]],
        terminated: Sequence[bool],
        final_observations: Sequence[npt.NDArray[Any]],
    ) -> Self:
        """Builds a batch from arrays of each trajectory.

        Args:
            observations: N times [H_n, *observation_shape].
            actions: N times [H_n, A] float or [H_n] integer.
            rewards: N times [H_n].
            terminated: N flags.
            final_observations: N times [*observation_shape].
        """
        lengths = tuple(len(each) for each in rewards)
        discrete = actions[0].dtype.kind == "i"
        flat = np.concatenate([each.reshape(len(each), -1) for each in observations])
        return cls(
            observations=torch.from_numpy(flat.astype(np.float32)),
            actions=torch.from_numpy(np.concatenate(actions).astype(np.int64 if discrete else np.float32)),
            rewards=torch.from_numpy(np.concatenate(rewards).astype(np.float32)),
            lengths=lengths,
            terminated=torch.tensor(list(terminated), dtype=torch.bool),
            final_observations=torch.from_numpy(
                np.stack([each.reshape(-1) for each in final_observations]).astype(np.float32)
            ),
        )

    def first(self, trajectories: int) -> Self:
        """The first so many trajectories; all where there are no more."""
        kept = slice(None, sum(self.lengths[:trajectories]))
        return dataclasses.replace(
            self,
            observations=self.observations[kept],
            actions=self.actions[kept],
            rewards=self.rewards[kept],
            lengths=self.lengths[:trajectories],
            terminated=self.terminated[:trajectories],
            final_observations=self.final_observations[:trajectories],
        )

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """[N, max H_n] bool: where a padded layout holds a step."""
        lengths = torch.tensor(self.lengths)
        return torch.arange(max(self.lengths)) < lengths[:, None]

    @functools.cached_property
    def _even(self) -> bool:
        """Whether all trajectories have one length: then nothing is padding, and a mask is not needed."""
        return len(set(self.lengths)) == 1

    @functools.cached_property
    def time(self) -> torch.Tensor:
        """[S] float64: the number of each step within its trajectory, from 0."""
        return self.unpad(torch.arange(max(self.lengths), dtype=torch.float64).expand(self.mask.shape))

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """[S] -> [N, max H_n], zero after each trajectory's end."""
        if self._even:
            return values.reshape(self.mask.shape)
        padded = values.new_zeros(self.mask.shape)
        padded[self.mask] = values
        return padded

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """[N, max H_n] -> [S]: what `pad` made of it."""
        return padded.reshape(-1) if self._even else padded[self.mask]

    @property
    def returns(self) -> torch.Tensor:
        """[N] float64: undiscounted return of each trajectory."""
        return self.pad(self.rewards.double()).sum(dim=1)
