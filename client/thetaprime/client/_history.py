"""The returns of a session's policies, and how two of them compare."""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, Self

from thetaprime.client._types import AdaptationReport
from thetaprime.client._verdict import Estimate, Verdict

_NORMAL_QUANTILE: Final = NormalDist().inv_cdf(0.95)  # both ends of a 90 % interval


@dataclasses.dataclass(frozen=True)
class RoundResult:
    """The episodes of θ_k, and the step that was taken from them.

    Attributes:
        round: k; 0 is θ.
        trajectories: number of episodes with θ_k.
        mean_return: mean of their undiscounted returns.
        std_return: standard deviation over the episodes.
        report: the report of the step from θ_k; None for a policy that was verified without another step.
    """

    round: int
    trajectories: int
    mean_return: float
    std_return: float
    report: AdaptationReport | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the step from θ_k; None without a step, and where the server gives none."""
        return None if self.report is None else self.report.verdict

    @property
    def name(self) -> str:
        """The policy's symbol: θ, θ′₁, θ′₂ and so on."""
        return "θ" if self.round == 0 else "θ′" + str(self.round).translate(_SUBSCRIPTS)

    def __str__(self) -> str:
        episodes = f"{self.trajectories} episode{'s'[: self.trajectories != 1]}"
        return f"{self.name}: return {self.mean_return:.4g} ± {self.std_return:.4g} ({episodes})"

    @classmethod
    def of_report(cls, report: AdaptationReport) -> Self:
        """The episodes that a step was taken from."""
        return cls(report.round, report.trajectories, report.mean_return, report.std_return, report)

    @classmethod
    def of_returns(cls, round_index: int, returns: Sequence[float]) -> Self:
        """The episodes of a policy that no step was taken from, by their returns; at least one."""
        mean = math.fsum(returns) / len(returns)
        std = math.hypot(*(value - mean for value in returns)) / math.sqrt(len(returns))
        return cls(round_index, len(returns), mean, std)


_SUBSCRIPTS: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def pooled(results: Sequence[RoundResult]) -> RoundResult:
    """Returns one policy's results over several rounds, at least one, as those of the last round."""
    *_, last = results
    if len(results) == 1:
        return last
    count = sum(each.trajectories for each in results)
    mean = math.fsum(each.trajectories / count * each.mean_return for each in results)
    std = math.hypot(
        *(
            math.sqrt(each.trajectories / count) * math.hypot(each.std_return, each.mean_return - mean)
            for each in results
        )
    )
    return RoundResult(last.round, count, mean, std, last.report)


def gain(after: RoundResult, before: RoundResult) -> Estimate:
    """Returns the difference of two policies' mean returns, with its 90 % interval (Welch 1947).

    The interval has no end where a policy has a single episode, which tells nothing of its spread.
    """
    difference = after.mean_return - before.mean_return
    if min(after.trajectories, before.trajectories) < 2:
        return Estimate(difference, -math.inf, math.inf)
    # In a unit of the returns' own: squares of tiny and of huge returns have no float.
    unit = max(after.std_return, before.std_return)
    if unit == 0.0:
        return Estimate(difference, difference, difference)
    # Squared standard errors of the means; std_return divides by N, not by N - 1.
    squares = [(each.std_return / unit) ** 2 / (each.trajectories - 1) for each in (after, before)]
    total = sum(squares)
    parts = [square / total for square in squares]
    freedom = 1.0 / sum(part**2 / (each.trajectories - 1) for part, each in zip(parts, (after, before), strict=True))
    half = _student_quantile(freedom) * math.sqrt(total) * unit
    return Estimate(difference, difference - half, difference + half)


def choose(history: Sequence[RoundResult], best_round: int | None) -> RoundResult:
    """Returns the policy to hand out: the last, or the best one before where that had the higher return.

    Args:
        history: every policy that was measured, the last one included.
        best_round: the best of the policies before the last, as the server says; None where the server does not say.
    """
    *before, last = history
    named = [each for each in before if each.round == best_round]
    best = max(named or before, key=lambda each: each.mean_return, default=last)
    return last if last.mean_return >= best.mean_return else best


def _student_quantile(freedom: float) -> float:
    """The 95 % quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5); to 1 % from 2 degrees of freedom on."""
    z = _NORMAL_QUANTILE
    if freedom < 2.0:
        # Exact at one degree: tan(0.45 π).
        one, two = math.tan(0.45 * math.pi), _student_quantile(2.0)
        return float(one ** (2.0 - freedom) * two ** (freedom - 1.0))
    terms = (
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160.0,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
