"""Tests whether the policy that trajectories name chose their actions.

REINFORCE is on-policy: actions of another policy, or actions that were scaled, clipped or made deterministic, give a
wrong gradient without any error. The test keeps a few sums of each upload, so that a round is tested as a whole,
however it was split into uploads. An honest round is refused less than once in 10⁷ rounds.

- `evidence`: why, and how evidence adds up.
- `gaussian`, `categorical`: the sums, and the alternatives that they are tested against.
- `noise`: finds trajectories that repeat the noise of another one.
- `doubt`: says what is wrong.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from thetaprime.models.behavior.categorical import CategoricalTest
from thetaprime.models.behavior.doubt import (
    BehaviorDoubt,
    Reason,
    explain_categorical,
    explain_gaussian,
    in_environment_units,
)
from thetaprime.models.behavior.evidence import ROUND_BOUND, Array, log_sum, log_weights, single_bound
from thetaprime.models.behavior.gaussian import GaussianTest
from thetaprime.models.behavior.noise import NOISE_NUMBERS, beginning_noise, find_repeated_noise
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch

__all__ = [
    "NOISE_NUMBERS",
    "ROUND_BOUND",
    "BehaviorDoubt",
    "BehaviorMeasurement",
    "Reason",
    "RoundDoubt",
    "behavior_evidence",
    "doubt_round",
    "find_repeated_noise",
    "measure_behavior",
    "round_evidence",
    "single_bound",
    "statistics_test",
]

# Earlier policies are evaluated at this many steps of an upload: enough at a KL of 0.2.
_EARLIER_STEPS: Final = 256


@dataclasses.dataclass(frozen=True, eq=False)
class BehaviorMeasurement:
    """What the test keeps of one upload's trajectories.

    Attributes:
        policy: the network.
        trajectories: [N, K] float64: the sums over each trajectory.
        evidence: [N + 1]: the evidence against each trajectory, then against all together, in nats.
        noise: [N, 8] float16: how the noise of each trajectory begins. NaN where it is shorter, or cannot be known.
        outputs: the named policy's outputs, as from `Policy.outputs`.
        batch: the trajectories.
    """

    policy: Policy
    trajectories: Array
    evidence: Array
    noise: Array
    outputs: tuple[torch.Tensor, ...]
    batch: TrajectoryBatch

    @property
    def statistics(self) -> Array:
        """[K] float64: the sums over the upload."""
        total: Array = self.trajectories.sum(axis=0)
        return total

    def doubts(self, uploads: int = 0, trajectories: int = 0) -> Iterator[BehaviorDoubt]:
        """Yields the reasons to refuse the upload by itself, the first trajectory's first.

        Args:
            uploads: how many uploads the round had before.
            trajectories: how many trajectories they had.
        """
        count = len(self.trajectories)
        for index in np.flatnonzero(self.evidence[:-1] >= single_bound(trajectories + np.arange(count))).tolist():
            start = sum(self.batch.lengths[:index])
            steps = slice(start, start + self.batch.lengths[index])
            yield self._explain(self.trajectories[index], index, steps)
        # The only upload of a round is also the round.
        bound = single_bound(uploads) if uploads else ROUND_BOUND
        if self.evidence[-1] >= bound:
            yield self._explain(self.statistics, None, slice(None))

    def _explain(self, statistics: Array, trajectory: int | None, steps: slice) -> BehaviorDoubt:
        return _explain(self.policy, statistics, trajectory, self._units(steps))

    def _units(self, steps: slice = slice(None)) -> bool:
        return self.policy.continuous and in_environment_units(self.policy, self.outputs, self.batch.actions, steps)


@dataclasses.dataclass(frozen=True, eq=False)
class RoundDoubt:
    """A reason to refuse the uploads of a round together.

    Attributes:
        reason: a code for programs.
        message: the found and the expected value, over all uploads.
        evidence: the evidence against the round, in nats.
        without: [U]: the evidence against the round without each upload.
    """

    reason: Reason
    message: str
    evidence: float
    without: Array


@torch.no_grad()
def measure_behavior(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    outputs: tuple[torch.Tensor, ...] | None = None,
    earlier: Sequence[Parameters] = (),
) -> BehaviorMeasurement:
    """Measures how the actions of trajectories fit the named policy.

    Args:
        policy: the network.
        parameters: of the named policy.
        batch: the trajectories.
        outputs: the result of `Policy.outputs` for them, if already computed.
        earlier: at most two policies that may have chosen the actions instead: the previous one and the first.
    """
    if outputs is None:
        outputs = policy.outputs(parameters, batch.observations)
    test = statistics_test(policy)
    # Actions that overflow give infinities, and then evidence that is infinite.
    with np.errstate(all="ignore"):
        trajectories = test.measure(policy, outputs, batch, _earlier_ratios(policy, outputs, batch, earlier))
        evidence = round_evidence(policy, np.concatenate([trajectories, trajectories.sum(axis=0, keepdims=True)]))
        noise = beginning_noise(policy, outputs, batch)
    return BehaviorMeasurement(policy, trajectories, evidence, noise, outputs, batch)


def behavior_evidence(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    outputs: tuple[torch.Tensor, ...] | None = None,
) -> list[BehaviorDoubt]:
    """Tests each trajectory of a round, then all together, against the named behavior policy.

    Args:
        policy: the network.
        parameters: of the named policy.
        batch: the trajectories.
        outputs: the result of `Policy.outputs` for them, if already computed.

    Returns:
        Doubts, the first trajectory's first; empty if the actions are plausible.
    """
    return list(measure_behavior(policy, parameters, batch, outputs).doubts())


def round_evidence(policy: Policy, statistics: Array) -> Array:
    """Returns the evidence against the claim that the named policy chose the actions.

    Args:
        policy: the network.
        statistics: [R, K]: sums over sets of trajectories.

    Returns:
        [R] in nats; infinite for numbers that no policy yields.
    """
    test = statistics_test(policy)
    coefficients, weights = _linear(test)
    with np.errstate(all="ignore"):
        curved = [logs for _, logs in test.curved_ratios(statistics).values()]
        return log_sum(np.concatenate([statistics @ coefficients, *curved], axis=1) + weights)


@functools.lru_cache(maxsize=64)
def _linear(test: GaussianTest | CategoricalTest) -> tuple[Array, Array]:
    """[K, F'] the coefficients of the linear log likelihood ratios, and [F] the log weights of all, in their order."""
    unit = np.eye(test.columns)
    linear = test.linear_ratios(unit)
    coefficients = np.concatenate([logs for _, logs in linear.values()], axis=1)
    return coefficients, log_weights({**linear, **test.curved_ratios(unit)})


def doubt_round(
    policy: Policy, uploads: Array, last: BehaviorMeasurement | None = None, bound: float = ROUND_BOUND
) -> RoundDoubt | None:
    """Tests the uploads of a round together.

    Args:
        policy: the network.
        uploads: [U, K]: the statistics of each upload.
        last: the measurement of the last upload, where it is at hand.
        bound: the evidence, in nats, at which the round is implausible.

    Returns:
        The doubt, or None if the round is plausible.
    """
    total = uploads.sum(axis=0)
    (evidence,) = round_evidence(policy, total[None])
    if evidence < bound:
        return None
    found = _explain(policy, total, None, last is not None and last._units())
    return RoundDoubt(found.reason, found.message, float(evidence), round_evidence(policy, total - uploads))


def statistics_test(policy: Policy) -> GaussianTest | CategoricalTest:
    """Returns the test of a policy: what its statistics are, and the alternatives that they are tested against."""
    size = policy.environment.action.size
    return GaussianTest(size) if policy.continuous else CategoricalTest(size)


def _explain(policy: Policy, statistics: Array, trajectory: int | None, environment_units: bool) -> BehaviorDoubt:
    test = statistics_test(policy)
    with np.errstate(all="ignore"):
        if isinstance(test, CategoricalTest):
            return explain_categorical(test, statistics, trajectory)
        return explain_gaussian(test, statistics, trajectory, environment_units)


def _earlier_ratios(
    policy: Policy, outputs: tuple[torch.Tensor, ...], batch: TrajectoryBatch, earlier: Sequence[Parameters]
) -> Array:
    """[2, S]: the log likelihood ratios of earlier policies at some of the steps; 0 at the others."""
    steps = sum(batch.lengths)
    ratios = np.zeros((2, steps), np.float32)
    if earlier:
        some = slice(None, None, -(-steps // _EARLIER_STEPS))
        observations, actions = batch.observations[some], batch.actions[some]
        named = policy.log_prob((outputs[0][some], *outputs[1:]), actions)
        # All of them in one pass: at so few steps, a pass takes as long as its calls.
        stacked = {name: torch.stack([each[name] for each in earlier]) for name in earlier[0]}
        found = policy.outputs(stacked, observations.expand(len(earlier), *observations.shape))
        ratios[: len(earlier), some] = policy.log_prob(found, actions.expand(len(earlier), *actions.shape)) - named
    return ratios
