"""The value of a lifetime from each of its steps on, which only training knows.

The critic reads what the policy cannot: the task and the time (an asymmetric critic, Pinto et al. 2017). A baseline may
depend on anything but the action, so the policy's gradient stays unbiased, and has less noise.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import Parameters
from thetaprime.models.memory.cells import linear, tanh
from thetaprime.training.tasks.oracle import task_vector
from thetaprime.training.tasks.protocol import Task, TaskDistribution

Floats = npt.NDArray[np.float64]
_PREFIX: Final = "critic."
_SCALE_RATE: Final = 0.1
_TASKS: Final = 256


@dataclasses.dataclass(frozen=True, eq=False)
class TaskScale:
    """Mean and deviation of the numbers of a task, over the distribution.

    Attributes:
        mean: [D] float32.
        deviation: [D] float32, positive.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    def measure(cls, distribution: TaskDistribution, seed: int) -> "TaskScale":
        """Measures 256 tasks, which no other random numbers depend on."""
        vectors = np.stack(
            [task_vector(task) for task in distribution.sample_tasks(_TASKS, np.random.default_rng(seed))]
        )
        deviation = vectors.std(0)
        return cls(vectors.mean(0), np.where(deviation > 0.0, deviation, 1.0).astype(np.float32))

    def normalized(self, tasks: Sequence[Task]) -> torch.Tensor:
        """[T, D] float32."""
        return torch.from_numpy((np.stack([task_vector(task) for task in tasks]) - self.mean) / self.deviation)


def init_critic(inputs: int, sizes: Sequence[int], seed: int) -> Parameters:
    """Draws the critic's parameters: an MLP from `inputs` numbers to one, and the scale of what it predicts."""
    generator = torch.Generator().manual_seed(seed)
    parameters: Parameters = {}
    for index, (fan_in, fan_out) in enumerate(zip((inputs, *sizes), (*sizes, 1), strict=True)):
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        parameters[f"{_PREFIX}{index}.weight"] = torch.empty(fan_out, fan_in).uniform_(
            -bound, bound, generator=generator
        )
        parameters[f"{_PREFIX}{index}.bias"] = torch.zeros(fan_out)
    return parameters


def criticize(parameters: Parameters, inputs: torch.Tensor) -> torch.Tensor:
    """The value at each step, in units of `ValueScale`: [*, I] -> [*]."""
    last = sum(name.startswith(_PREFIX) for name in parameters) // 2 - 1
    values = inputs
    for index in range(last + 1):
        values = linear(values, parameters[f"{_PREFIX}{index}.weight"], parameters[f"{_PREFIX}{index}.bias"])
        if index < last:
            values = tanh(values)
    return values.squeeze(-1)


@dataclasses.dataclass(frozen=True)
class ValueScale:
    """The scale of returns, which follows them as they grow (van Hasselt et al. 2016, PopArt).

    Attributes:
        mean: of the returns.
        deviation: of the returns.
        known: whether any were seen.
    """

    mean: float = 0.0
    deviation: float = 1.0
    known: bool = False

    def followed(self, targets: Floats) -> "ValueScale":
        """The scale after some returns."""
        mean, square = float(targets.mean()), float(np.square(targets).mean())
        if self.known:
            before = self.deviation**2 + self.mean**2
            mean = self.mean + _SCALE_RATE * (mean - self.mean)
            square = before + _SCALE_RATE * (square - before)
        deviation = math.sqrt(max(square - mean**2, 0.0))
        return ValueScale(mean, deviation if deviation > 1e-8 * (1.0 + abs(mean)) else 1.0, known=True)

    def rescaled(self, parameters: Parameters, before: "ValueScale") -> Parameters:
        """The critic with the same values in these units."""
        last = sum(name.startswith(_PREFIX) for name in parameters) // 2 - 1
        weight, bias = f"{_PREFIX}{last}.weight", f"{_PREFIX}{last}.bias"
        factor = before.deviation / self.deviation
        return {
            **parameters,
            weight: parameters[weight] * factor,
            bias: parameters[bias] * factor + (before.mean - self.mean) / self.deviation,
        }


def lifetime_advantages(
    rewards: npt.NDArray[np.float32],
    values: Floats,
    mask: npt.NDArray[np.bool_],
    *,
    discount: float,
    gae_lambda: float,
) -> Floats:
    """Generalized advantages (Schulman et al. 2016) over whole lifetimes.

    An episode's end is a step like any other: what the memory has learned pays in the next episode. Nothing follows
    the end of a lifetime.

    Args:
        rewards: [L, T].
        values: [L, T], of the critic.
        mask: [L, T]; true for the first steps of each lifetime, false in the padding after its end.
        discount: γ.
        gae_lambda: λ.

    Returns:
        [L, T], zero in the padding. With the values they are the targets of the critic.
    """
    advantages = np.zeros_like(values)
    following, value = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for step in range(len(values) - 1, -1, -1):
        residual = rewards[step] + discount * value - values[step]
        following = np.where(mask[step], residual + discount * gae_lambda * following, 0.0)
        value = np.where(mask[step], values[step], 0.0)
        advantages[step] = following
    return advantages
