"""The guard of a session's rounds: which policy is the best so far, and how far the next step may lead from it.

Every round measures one policy: a mean return with its error. The guard compares the policies, and keeps

- the best verified one. A policy that is handed out again is measured again, and its episodes are pooled;
- a trust region around it that grows on a realized gain and shrinks on a loss (Conn et al. 2000). Where the gradients
  of a context are known, the slope that is left at the end of a step tells its length;
- whether to go on. It holds where the region is small, where nothing was gained for several rounds, and where the best
  return is one that policies reach after adaptation in meta-training;
- whether the task has changed: the same policy, measured twice, returns far less the second time. Then the session
  starts again from its first policy.

Everything is a function of the history. Equal histories give equal steps, and a history is plain data.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from thetaprime.models.verdict.evidence import Move
from thetaprime.models.verdict.gain import COVERAGE, student_quantile
from thetaprime.models.verdict.verdict import Estimate


@dataclasses.dataclass(frozen=True)
class Round:
    """The measurement of one round. Returns are in one unit over the session.

    Attributes:
        policy: number of the first round with the same policy; its own number for a new policy.
        mean_return: of the round's trajectories.
        deviation: standard deviation of their returns; None for one trajectory.
        trajectories: N.
        context: c_k of a policy that adapts its context; empty otherwise.
        ascent: the direction −∇L in the context, of length 1; zeros where there is none.
        steepness: the gradient's length beyond its noise, in the unit of the rewards, up to a factor that all rounds of
            a session share; None where it was not measured.
        upper: upper quartile of the returns; None where it was not measured.
    """

    policy: int
    mean_return: float
    deviation: float | None
    trajectories: int
    context: tuple[float, ...] = ()
    ascent: tuple[float, ...] = ()
    steepness: float | None = None
    upper: float | None = None


@dataclasses.dataclass(frozen=True)
class RoundsSpec:
    """The settings of the rounds after the first.

    Attributes:
        first_radius: of the trust region where no slope is known, in lengths of the first step.
        nearest: smallest radius after a gain, likewise.
        smallest_radius: below which the session holds, likewise.
        growth: factor on the radius after a significant gain. Likewise the longest step in lengths of the one before.
        steep: part of a step's first slope; where more is left at its end, the next one goes on in the direction of
            ascent.
        doubling: longest step in lengths of the one before, where the slope is steep; no step is longer than the way so
            far, so that a goal ahead is not passed by more than was gained.
        shrinkage: factor on the radius after a loss.
        meeting: part of the first slope; between two contexts that rise toward each other more steeply, the return has
            its top where their tangents meet.
        retreat: part of the way from the first context that is taken back where the best policy fails at times.
        patience: rounds without a significant gain after which the session holds.
        longest: rounds after which the session holds in any case.
        exploration: weight of the model's standard deviation beside its mean.
        significance: standard errors of a difference that count as a gain.
        slope_share: the share of the known slope that a gradient promises.
        slope_error: its standard deviation.
        change: standard errors by which a policy's second measurement lies below its first where the task has changed.
        change_share: the same as a share of the largest difference between policies.
        reversal: standard errors of a change in either direction that no noise explains. Where the sign of the reward
            changes, the return of a policy that had little left to lose changes little, and for the better.
        reversal_share: the same as a share of the largest difference between policies.
        reversal_trajectories: fewest trajectories of each measurement whose deviation is known well enough for that.
    """

    first_radius: float = 0.35
    nearest: float = 0.2
    smallest_radius: float = 0.03
    growth: float = 1.5
    steep: float = 0.5
    doubling: float = 2.0
    shrinkage: float = 0.6
    meeting: float = 0.35
    retreat: float = 0.15
    patience: int = 6
    longest: int = 10
    exploration: float = 0.5
    significance: float = 2.0
    slope_share: float = 0.9
    slope_error: float = 0.3
    change: float = 5.0
    change_share: float = 0.2
    reversal: float = 5.0
    reversal_share: float = 0.01
    reversal_trajectories: int = 10


class Measured(NamedTuple):
    """A policy's return over all rounds that measured it.

    Attributes:
        mean: mean return.
        error: its standard error.
        trajectories: number of trajectories.
    """

    mean: float
    error: float
    trajectories: int


@dataclasses.dataclass(frozen=True)
class Review:
    """What the rounds so far say.

    Attributes:
        epoch: the first round that counts: later than 0 after a change of the task.
        policies: the policies of the epoch by their first round, with their returns.
        best: the best of them.
        current: the policy of the last round.
        realized: return of the last round's policy less that of the best one before it; None where it is not new.
        radius: of the trust region, in lengths of the first step.
        losses: steps from the best policy that gained nothing since it was measured last.
        steep: whether the return goes on rising steeply at the end of the last step, which gained.
        held: whether to hold.
        enough: whether it holds because the best return is usual after adaptation in meta-training.
        move: what the last round asks for: FORWARD after a gain, SHORTER after a change within noise, BACK after a
            loss.
        contradicted: the change of a policy's return between two measurements, where the task must have changed.
        restart: whether the next round has to measure the first policy again, because the task has changed.
    """

    epoch: int
    policies: dict[int, Measured]
    best: int
    current: int
    realized: Estimate | None
    radius: float
    losses: int
    steep: bool
    held: bool
    enough: bool
    move: Move
    contradicted: Estimate | None
    restart: bool

    @property
    def is_first(self) -> bool:
        """Whether only one policy was measured, so that the first step is still to be taken."""
        return len(self.policies) == 1


def review(
    rounds: Sequence[Round], spec: RoundsSpec, floor: float | None = None, *, floor_trajectories: int = 0
) -> Review:
    """Replays the rounds so far.

    Args:
        rounds: all rounds, in order; at least one.
        spec: the settings.
        floor: a return that is usual after adaptation in meta-training, in the unit of the returns; None if nothing is
            known.
        floor_trajectories: the number of trajectories behind each return that `floor` was taken from, whose noise the
            floor thus includes.

    Raises:
        ValueError: no round, or a number that is not finite.
    """
    _check(rounds)
    state = _State(spec, _typical_deviation(rounds), floor, floor_trajectories)
    for index, each in enumerate(rounds):
        state.see(index, each)
    return state.review(rounds[-1].policy)


def difference(after: Measured, before: Measured) -> Estimate:
    """The difference of two means with its 90 % interval (Welch's)."""
    error = math.hypot(after.error, before.error)
    freedom = max(min(after.trajectories, before.trajectories) - 1, 1)
    gain = after.mean - before.mean
    width = student_quantile(freedom, COVERAGE) * error
    return Estimate(gain, gain - width, gain + width)


def slope_left(before: Round, after: Round) -> float | None:
    """The slope of the return along a step at its end, as a part of the slope at its start.

    1 means that the return goes on rising as steeply as before, 0 that it is level, and −1 that it falls as steeply as
    it rose.

    Returns:
        None where a gradient was not measured, where the contexts are equal, or where the step did not lead upward.
    """
    length = math.dist(before.context, after.context)
    if not length or not before.steepness or after.steepness is None or not before.ascent or not after.ascent:
        return None
    way = [(end - start) / length for start, end in zip(before.context, after.context, strict=True)]
    start = before.steepness * _product(before.ascent, way)
    end = after.steepness * _product(after.ascent, way)
    return end / start if start > 0.0 else None


def _product(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


def _check(rounds: Sequence[Round]) -> None:
    if not rounds:
        raise ValueError("rounds: none; expected at least one")
    size = len(rounds[0].context)
    for index, each in enumerate(rounds):
        numbers = [each.mean_return, each.deviation or 0.0, *each.context, *each.ascent]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"rounds[{index}]: a number is not finite")
        if len(each.context) != size or len(each.ascent) not in (0, size):
            raise ValueError(
                f"rounds[{index}]: a context of {len(each.context)} numbers and an ascent of {len(each.ascent)}; "
                f"expected {size}"
            )


def _typical_deviation(rounds: Sequence[Round]) -> float:
    """Of one trajectory's return, for rounds of one trajectory. Without any other round, its size has to do."""
    known = [each.deviation for each in rounds if each.deviation is not None]
    if known:
        return math.sqrt(sum(value**2 for value in known) / len(known))
    return max(abs(each.mean_return) for each in rounds) / 2.0


class _State:
    """The guard's state, round by round."""

    def __init__(self, spec: RoundsSpec, deviation: float, floor: float | None, floor_trajectories: int) -> None:
        self._spec, self._deviation = spec, deviation
        self._floor, self._floor_trajectories = floor, floor_trajectories
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._policies: dict[int, Measured] = {}
        self._best = 0
        self._realized: Estimate | None = None
        self._radius = self._spec.first_radius
        self._idle = self._losses = 0
        self._held = self._enough = False
        self._move = Move.FORWARD
        self._restart = False
        self._rounds: dict[int, Round] = {}
        self._steep = False

    def see(self, index: int, measured: Round) -> None:
        if self._restart:
            self._begin(index)
        self._contradicted: Estimate | None = None
        found = self._measured(measured)
        self._realized = None
        known = self._policies.get(measured.policy)
        self._rounds.setdefault(measured.policy, measured)
        if known is not None:
            self._see_again(index, measured.policy, known, found)
        elif self._policies:
            self._see_new(measured.policy, found)
        else:
            self._policies[measured.policy], self._best = found, measured.policy
        spec, best = self._spec, self._policies[self._best]
        if self._floor is not None and len(self._policies) > 1:
            # What was enough once stays enough: the mean of a policy that is measured again varies.
            self._enough = self._enough or best.mean - self._excess_error(best) >= self._floor
        self._held = (
            self._held
            or self._enough
            or (
                len(self._policies) > 1
                and (
                    self._radius < spec.smallest_radius
                    or self._idle >= spec.patience
                    or index - self._epoch >= spec.longest
                )
            )
        )

    def review(self, current: int) -> Review:
        return Review(
            epoch=self._epoch,
            policies=dict(self._policies),
            best=self._best,
            current=current,
            realized=self._realized,
            radius=self._radius,
            losses=self._losses,
            steep=self._steep,
            held=self._held,
            enough=self._enough,
            move=self._move,
            contradicted=self._contradicted,
            restart=self._restart,
        )

    def _excess_error(self, found: Measured) -> float:
        """The standard error of a policy's return beyond that of the returns behind the floor."""
        known = self._floor_trajectories
        return found.error * math.sqrt(max(1.0 - found.trajectories / known, 0.0)) if known else found.error

    def _measured(self, measured: Round) -> Measured:
        deviation = self._deviation if measured.deviation is None else measured.deviation
        count = measured.trajectories
        return Measured(measured.mean_return, deviation / math.sqrt(count), count)

    def _see_again(self, index: int, policy: int, known: Measured, found: Measured) -> None:
        change = difference(found, known)
        if self._has_changed(change, known, found):
            self._contradicted = change
            if policy == 0:
                # The first policy has just been measured on the new task.
                again = self._rounds[policy]
                self._begin(index)
                self._policies[policy], self._rounds[policy] = found, again
            else:
                self._restart, self._move = True, Move.BACK
            return
        count = known.trajectories + found.trajectories
        parts = (known.trajectories / count, found.trajectories / count)
        self._policies[policy] = Measured(
            parts[0] * known.mean + parts[1] * found.mean,
            math.hypot(parts[0] * known.error, parts[1] * found.error),
            count,
        )
        self._losses, self._move = 0, Move.FORWARD
        best = self._policies[self._best]
        other = max(self._policies, key=lambda each: self._policies[each].mean)
        if self._policies[other].mean - best.mean > math.hypot(self._policies[other].error, best.error):
            self._best = other

    def _has_changed(self, change: Estimate, known: Measured, found: Measured) -> bool:
        """Whether the task has changed between two measurements of one policy."""
        spec, means = self._spec, [each.mean for each in self._policies.values()]
        spread = max(*means, found.mean) - min(*means, found.mean)
        error = math.hypot(found.error, known.error)
        if change.value < -max(spec.change * error, spec.change_share * spread):
            return True
        counts = min(found.trajectories, known.trajectories)
        # Without a change both have one variance (Student's test): that of one round may be small by chance.
        variance = sum(math.pow(each.error * each.trajectories, 2.0) for each in (found, known))
        error = math.sqrt(variance / found.trajectories / known.trajectories)
        known_well = counts >= spec.reversal_trajectories and len(means) > 1
        return known_well and abs(change.value) > max(spec.reversal * error, spec.reversal_share * spread)

    def _see_new(self, policy: int, found: Measured) -> None:
        spec, best = self._spec, self._policies[self._best]
        left = slope_left(self._rounds[self._best], self._rounds[policy])
        self._steep = False
        self._realized = difference(found, best)
        self._policies[policy] = found
        gain, error = self._realized.value, math.hypot(found.error, best.error)
        if gain > 0.0 and gain > spec.significance * error:
            self._radius = self._widened(policy, left)
            self._steep = left is not None and left > spec.steep
            self._best, self._idle, self._losses, self._move = policy, 0, 0, Move.FORWARD
        elif gain > error:
            self._best, self._losses, self._move = policy, 0, Move.SHORTER
            self._idle += 1
        else:
            self._radius *= spec.shrinkage
            self._idle, self._losses = self._idle + 1, self._losses + 1
            self._move = Move.BACK if self._realized.high < 0.0 else Move.SHORTER

    def _widened(self, policy: int, left: float | None) -> float:
        """The radius after a gain: the distance to where the slope vanishes, by the secant method, if it is known."""
        spec, contexts = self._spec, [each.context for each in self._rounds.values()]
        unit = math.dist(contexts[0], contexts[1])
        if left is None or not unit:
            return self._radius * spec.growth
        length = math.dist(self._rounds[self._best].context, self._rounds[policy].context) / unit
        longest = spec.doubling if left > spec.steep else spec.growth
        part = abs(left) / (1.0 - left) if left < 1.0 else math.inf
        way = math.dist(contexts[0], self._rounds[policy].context) / unit
        return max(min(length * min(part, longest), way), spec.nearest)
