"""Moments of observations and rewards over a run, which a recurrent policy is normalized with."""

from typing import Final

import numpy as np
import torch

from thetaprime.models import Parameters, PolicySpec
from thetaprime.training.checkpoint import RunState
from thetaprime.training.sampling.lifetimes import Lifetimes

_COUNT, _MEAN, _SQUARES = "moments.count", "moments.mean", "moments.squares"
_CONSTANT: Final = 1e-6  # a deviation below this part of the mean is rounding


class RunningMoments:
    """Mean and variance of all observations and rewards so far (Chan et al. 1979, in float64).

    Args:
        state: from `state`, to go on with; empty for none yet.
    """

    def __init__(self, state: Parameters) -> None:
        self._state = {name: state[name] for name in (_COUNT, _MEAN, _SQUARES)} if _COUNT in state else {}

    @property
    def state(self) -> Parameters:
        """Tensors that a checkpoint keeps."""
        return dict(self._state)

    def add(self, lifetimes: Lifetimes) -> None:
        """Adds the steps of some lifetimes."""
        mask = lifetimes.mask
        values = np.concatenate([lifetimes.observations[mask], lifetimes.rewards[mask][:, None]], 1).astype(np.float64)
        count, mean = float(len(values)), torch.from_numpy(values.mean(0))
        squares = torch.from_numpy(np.square(values - values.mean(0)).sum(0))
        if self._state:
            before, old = float(self._state[_COUNT]), self._state[_MEAN]
            total = before + count
            squares += self._state[_SQUARES] + (mean - old).square() * before * count / total
            mean = old + (mean - old) * count / total
            count = total
        self._state = {_COUNT: torch.tensor(count, dtype=torch.float64), _MEAN: mean, _SQUARES: squares}

    def normalized(self, spec: PolicySpec) -> PolicySpec:
        """A policy's specification with the moments so far, where it names none."""
        memory = spec.memory
        if not self._state or memory is None:
            return spec
        deviation = (self._state[_SQUARES] / self._state[_COUNT]).sqrt()
        constant = deviation <= _CONSTANT * (1.0 + self._state[_MEAN].abs())
        deviation = torch.where(constant, 1.0, deviation)
        changes: dict[str, object] = {}
        if not spec.observation_mean and not spec.observation_std:
            changes["observation_mean"] = tuple(self._state[_MEAN][:-1].tolist())
            changes["observation_std"] = tuple(deviation[:-1].tolist())
        if memory.reward_scale is None:
            changes["memory"] = memory.model_copy(update={"reward_scale": 1.0 / float(deviation[-1])})
        return spec.model_copy(update=changes)


def needs_moments(spec: PolicySpec) -> bool:
    """Whether a specification leaves a normalization to be measured."""
    observation = bool(spec.observation_mean or spec.observation_std)
    return not observation or spec.memory is None or spec.memory.reward_scale is None


def trained_spec(run: RunState) -> PolicySpec:
    """The specification of a run's policy, with the normalization that training has measured so far."""
    return RunningMoments(run.optimizer_state).normalized(run.config.policy)
