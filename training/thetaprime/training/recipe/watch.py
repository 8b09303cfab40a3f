"""Watches a run: whether it learns, from its returns alone."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

FEWEST_ITERATIONS: Final = 25
"""Iterations before a run is judged."""
_SURE: Final = 2.5
_WINDOW: Final = 5


@dataclasses.dataclass(frozen=True)
class Judgment:
    """What the returns of a run say.

    Attributes:
        learns: whether the return after adaptation, or the gain by adaptation, rises beyond its noise.
        text: the evidence in a sentence.
        advice: what a person would look at; empty where the run learns and adaptation gains.
    """

    learns: bool
    text: str
    advice: str = ""


def judge(pre_returns: Sequence[float], post_returns: Sequence[float]) -> Judgment:
    """Judges a run by the trend of its returns over iterations.

    A trend is the slope of a least-squares line over its standard error, from the residuals around that line.

    Args:
        pre_returns: mean return of θ in each iteration, three or more.
        post_returns: mean return after adaptation in each iteration.
    """
    pre, post = np.asarray(pre_returns), np.asarray(post_returns)
    window = max(1, min(_WINDOW, len(post) // 3))
    rises, gain_rises = _trend(post), _trend(post - pre)
    first, last, best = post[:window].mean(), post[-window:].mean(), _means(post, window).max()
    noise = float(np.std(np.diff(post)) / np.sqrt(2.0 * window))
    text = f"return after adaptation {first:.4g} at first, {last:.4g} now, after {len(post)} iterations"
    if best - last > 4.0 * noise and best - last > 0.5 * (best - first):
        return Judgment(False, f"{text}, and {best:.4g} between: it was learned and lost", "lower max_kl, or outer_lr")
    if max(rises, gain_rises) < _SURE:
        return Judgment(
            False,
            f"{text}: no rise beyond noise",
            "look at the reward (does progress show before the goal is reached?) and at the observations",
        )
    gain = (post - pre)[-window:]
    if abs(gain.mean()) < 2.0 * noise:
        return Judgment(
            True,
            f"{text}; adaptation gains nothing yet",
            "one policy may suit all tasks, or the observations may show the task: compare with --method pretrained",
        )
    return Judgment(True, text)


def _trend(values: npt.NDArray[np.float64]) -> float:
    """The slope of the least-squares line over its standard error."""
    x = np.arange(len(values)) - (len(values) - 1) / 2.0
    slope = float(x @ values / (x @ x))
    residuals = values - values.mean() - slope * x
    error = float(np.sqrt(residuals @ residuals / max(len(values) - 2, 1) / (x @ x)))
    if error <= 1e-12 * max(abs(slope), 1e-300):
        return float(np.sign(slope)) * np.inf if slope else 0.0
    return slope / error


def _means(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    return np.convolve(values, np.full(window, 1.0 / window), mode="valid")
