"""What happens to the rewards of a round before the upload: units, noise, delay, faults."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime import wire

_OTHER_TASKS: Final = frozenset({"offset", "constant", "flip", "square", "clip"})

Rewards = npt.NDArray[np.float64]


def transform(
    trajectories: Sequence[wire.Trajectory], change: str, round_index: int, rng: np.random.Generator
) -> list[wire.Trajectory]:
    """Changes the rewards of one round's episodes.

    Args:
        trajectories: the episodes, with the rewards of the environment.
        change: words that are applied from left to right: ``scale 10``, ``offset -1``, ``noise 0.5`` (standard
            deviation of one step), ``constant 3``, ``sign``, ``flip 2`` (the sign, from round 2 on), ``late`` (all paid
            in the last step), ``delay 3`` (steps), ``square`` (−r²), ``clip 1``, ``spoil 4`` (episode 4 has the
            opposite sign). Empty for none.
        round_index: k.
        rng: generator of the noise.

    Returns:
        The episodes to upload, with float32 rewards.
    """
    words = change.split()
    changed = [np.asarray(each.rewards, np.float64) for each in trajectories]
    while words:
        name = words.pop(0)
        value = float(words.pop(0)) if words and _is_number(words[0]) else 0.0
        if name == "spoil":
            changed[int(value)] = -changed[int(value)]
        else:
            changed = [_change(name, value, rewards, round_index, rng) for rewards in changed]
    return [
        dataclasses.replace(each, rewards=rewards.astype(np.float32))
        for each, rewards in zip(trajectories, changed, strict=True)
    ]


def judged(trajectories: Sequence[wire.Trajectory], change: str, rounds: int) -> list[float]:
    """The returns by which a session is judged.

    They have the environment's units and no noise. But where a change makes another task of it (an offset, another
    sign, a square), they are the user's: a session cannot know what the user does not pay for.

    Args:
        trajectories: episodes with the rewards of the environment.
        change: as in `transform`.
        rounds: of the session, at whose end it is judged.
    """
    words, kept = change.split(), []
    for name, value in zip(words, [*words, ""][1:], strict=True):
        if name in _OTHER_TASKS:
            kept += [name, value] if _is_number(value) else [name]
    changed = transform(trajectories, " ".join(kept), rounds, np.random.default_rng(0))
    return [round(each.total_reward, 4) for each in changed]


def _change(name: str, value: float, rewards: Rewards, round_index: int, rng: np.random.Generator) -> Rewards:
    match name:
        case "scale":
            return rewards * value
        case "offset":
            return rewards + value
        case "noise":
            return rewards + rng.normal(0.0, value, len(rewards))
        case "constant":
            return np.full(len(rewards), value)
        case "sign":
            return -rewards
        case "flip":
            return -rewards if round_index >= value else rewards
        case "late":
            return _moved(rewards, len(rewards))
        case "delay":
            return _moved(rewards, int(value))
        case "square":
            return -np.square(rewards)
        case "clip":
            return np.clip(rewards, -value, value)
    raise ValueError(f"change: {name!r} is unknown")


def _moved(rewards: Rewards, steps: int) -> Rewards:
    """Pays each reward some steps later; what would be paid after the end is paid in the last step."""
    moved = np.zeros(len(rewards))
    np.add.at(moved, np.minimum(np.arange(len(rewards)) + steps, len(rewards) - 1), rewards)
    return moved


def _is_number(word: Any) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
