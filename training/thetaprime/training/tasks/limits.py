"""Limits on environments that fail, each an environment variable with a default."""

import math
import os
from typing import Final

RESTARTS_VARIABLE: Final = "THETAPRIME_TRAINING_RESTARTS"
"""Environment variable: how often an episode whose environment failed is sampled again before training stops."""
SECONDS_VARIABLE: Final = "THETAPRIME_TRAINING_STEP_SECONDS"
"""Environment variable: seconds that a reset or a step may take in a worker process before the worker is killed."""
MEMORY_VARIABLE: Final = "THETAPRIME_TRAINING_WORKER_MEGABYTES"
"""Environment variable: megabytes by which a worker process may grow before it is started again."""

RESTARTS: Final = 3
SECONDS: Final = 60.0


def positive_setting(variable: str, default: float | None) -> float | None:
    """The number in an environment variable, or the default where it is not set.

    Raises:
        ValueError: the text is not a positive number.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ValueError(f"{variable}={text!r}; expected a positive number")
    return value


def restarts() -> int:
    """How often an episode is sampled again."""
    text = os.environ.get(RESTARTS_VARIABLE)
    if not text:
        return RESTARTS
    if not text.isdecimal():
        raise ValueError(f"{RESTARTS_VARIABLE}={text!r}; expected a number of restarts, 0 or more")
    return int(text)


def step_seconds() -> float:
    """Seconds that a reset or a step may take in a worker."""
    return positive_setting(SECONDS_VARIABLE, SECONDS) or SECONDS
