"""The action side of a policy: from a network's outputs to a distribution, to actions, to the environment's units."""

import math
from typing import Final

import torch
from torch.distributions import Categorical, Distribution, Independent, Normal

from thetaprime.models.parameters import Parameters
from thetaprime.models.spec import BoxAction, EnvironmentContract, PolicySpec

LOG_STD: Final = "log_std"
"""Name of the parameter [A] that sets a Gaussian policy's noise."""


class ActionHead:
    """A Gaussian or categorical head: what policies of any network have in common.

    Attributes:
        environment: the contract of the environment.
        spec: the network.
    """

    def __init__(self, environment: EnvironmentContract, spec: PolicySpec) -> None:
        self.environment = environment
        self.spec = spec
        self._clip, self._half, self._middle = action_scaling(environment)
        self._observation_mean, self._observation_factor = _normalization(environment, spec)

    @property
    def continuous(self) -> bool:
        """Whether actions are drawn from a Gaussian (otherwise from a categorical)."""
        return isinstance(self.environment.action, BoxAction)

    def log_std(self, parameters: Parameters) -> torch.Tensor:
        """[A] (or [T, A]): the Gaussian's log standard deviation, at or above its floor."""
        return parameters[LOG_STD].clamp_min(self.spec.min_log_std)

    def distribution_of(self, outputs: tuple[torch.Tensor, ...]) -> Distribution:
        """The action distribution with the arguments `outputs`: the head, and for box actions the log deviation.

        A Gaussian's log-probability is summed over the action's dimensions.
        """
        head, *log_std = outputs
        if not log_std:
            return Categorical(logits=head, validate_args=False)
        std = log_std[0].exp().unsqueeze(-2).expand_as(head)
        return Independent(Normal(head, std, validate_args=False), 1, validate_args=False)

    def log_prob(self, outputs: tuple[torch.Tensor, ...], actions: torch.Tensor) -> torch.Tensor:
        """The log-probability of each action, equal to `distribution_of(outputs).log_prob(actions)` and cheaper.

        Args:
            outputs: the arguments of the action distribution.
            actions: [B, A] or [T, B, A], in policy units; [B] or [T, B] counted from 0.

        Returns:
            [B] or [T, B].
        """
        if not self.continuous:
            return self.distribution_of(outputs).log_prob(actions)
        mean, log_std = outputs
        # One logarithm and one exponential for each dimension; the distribution computes them at every step.
        squares = ((actions - mean) * (-log_std).exp().unsqueeze(-2)).square()
        constant = log_std.sum(-1, keepdim=True) + 0.5 * math.log(2.0 * math.pi) * mean.shape[-1]
        return -0.5 * squares.sum(-1) - constant

    @torch.no_grad()
    def noise_scores(self, parameters: Parameters, mean: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """The derivative of each action's log-probability by the log standard deviation, ((a − μ) / σ)² − 1.

        Args:
            parameters: of a Gaussian policy.
            mean: [B, A].
            actions: [B, A], in policy units.

        Returns:
            [B, A].
        """
        squares = ((actions - mean) / self.log_std(parameters).exp()).square()
        # Below its floor the standard deviation does not move.
        return (squares - 1.0) * (parameters[LOG_STD] >= self.spec.min_log_std).to(squares.dtype)

    @torch.no_grad()
    def sample_of(self, outputs: tuple[torch.Tensor, ...], generator: torch.Generator) -> torch.Tensor:
        """Draws an action from each distribution with the arguments `outputs`.

        Returns:
            box: [*, B, A] float in policy units, unclipped. discrete: [*, B] int64, counted from 0.
        """
        head, *log_std = outputs
        if log_std:
            noise = torch.randn(head.shape, generator=generator)
            return head + log_std[0].exp().unsqueeze(-2) * noise
        # Gumbel-max draws with a generator and any number of leading axes.
        exponential = torch.empty_like(head).exponential_(generator=generator)
        return (head - exponential.log()).argmax(-1)

    def action_of(self, head: torch.Tensor) -> torch.Tensor:
        """The deterministic action for each of the head's outputs, as the environment takes it.

        Returns:
            box: [*, B, A] float, scaled and clipped. discrete: [*, B] int64.
        """
        if self.continuous:
            return self.to_environment(head)
        return head.argmax(-1) + self.action_start

    def to_environment(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions in policy units (or counted from 0) -> actions as the environment takes them."""
        if not self.continuous:
            return actions + self.action_start
        return actions.clamp(-self._clip, self._clip) * self._half + self._middle

    def from_environment(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions as the environment takes them -> actions in policy units, clipped (or counted from 0)."""
        if not self.continuous:
            return actions - self.action_start
        return ((actions - self._middle) / self._half).clamp(-self._clip, self._clip)

    @property
    def normalization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two [O]: subtract the first from the observation, then multiply by the second."""
        return self._observation_mean, self._observation_factor

    @property
    def scaling(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Three [A]: clip at ±clip, then multiply by half, then add middle."""
        return self._clip, self._half, self._middle

    @property
    def action_start(self) -> int:
        """The environment's name of the first discrete action; 0 for box actions."""
        action = self.environment.action
        return 0 if isinstance(action, BoxAction) else action.start


def _normalization(environment: EnvironmentContract, spec: PolicySpec) -> tuple[torch.Tensor, torch.Tensor]:
    """[O] to subtract from an observation, and [O] to multiply by."""
    size = environment.observation_size
    for name, values in (("observation_mean", spec.observation_mean), ("observation_std", spec.observation_std)):
        if len(values) not in (0, size):
            raise ValueError(f"policy.{name} has {len(values)} numbers; the observation has {size}")
    mean = torch.tensor(spec.observation_mean or (0.0,) * size)
    return mean, 1.0 / torch.tensor(spec.observation_std or (1.0,) * size)


def action_scaling(environment: EnvironmentContract) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How actions in policy units become those of the environment: clipped at ±clip, times half, plus middle.

    Returns:
        clip, half and middle, [A] each; a dimension without both bounds passes unchanged. Empty for discrete actions.
    """
    action = environment.action
    if not isinstance(action, BoxAction):
        return torch.empty(0), torch.empty(0), torch.empty(0)
    low, high = torch.tensor(action.low, dtype=torch.float64), torch.tensor(action.high, dtype=torch.float64)
    bounded = torch.isfinite(low) & torch.isfinite(high)
    clip = torch.where(bounded, 1.0, math.inf)
    half = torch.where(bounded, (high - low) / 2, 1.0)
    middle = torch.where(bounded, (high + low) / 2, 0.0)
    return clip.float(), half.float(), middle.float()
