"""What a session remembers of each round: a few numbers, as plain data and as bytes."""

import dataclasses
import json
from typing import Any, Final, Self

from thetaprime.models.verdict.rounds import Round

_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class RoundMemory:
    """What a later step needs to know of a round.

    Attributes:
        measured: the round's measurement of θ_k.
        next_policy: number of the first round with the policy θ_{k+1}: k + 1 for a new policy.
        scale: scale of the task's reward relative to meta-training.
        level_known: whether the round's mean return told the distance to the goal.
        task_p_value: of the task, from the first rounds; None without a calibration.
        familiarity: the p-value from this round's episodes alone; None where it was not measured.
        discount: γ of the session's inner steps; None for that of meta-training.
        level_shift: what an offset of the rewards adds to a return; None where nothing tells it.
    """

    measured: Round
    next_policy: int
    scale: float = 1.0
    level_known: bool = True
    task_p_value: float | None = None
    familiarity: float | None = None
    discount: float | None = None
    level_shift: float | None = None

    def to_bytes(self) -> bytes:
        """The memory as JSON. Equal memories give equal bytes."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads the bytes of `to_bytes`.

        Raises:
            ValueError: the bytes are of another version.
        """
        fields: dict[str, Any] = json.loads(data)
        version = fields.pop("version")
        if version != _VERSION:
            raise ValueError(f"memory of a round: version {version}; expected {_VERSION}")
        measured = fields.pop("measured")
        for name in ("context", "ascent"):
            measured[name] = tuple(measured[name])
        return cls(measured=Round(**measured), **fields)
