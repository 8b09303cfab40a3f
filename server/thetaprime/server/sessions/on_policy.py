"""Tests the actions of an upload, and of all uploads of its round together, against the round's policy.

Each upload's row keeps a few sums (`UploadEvidence`), so the round is tested as a whole without its payloads. An upload
that the round makes implausible is refused. Where the uploads before it carry a part of the doubt themselves, the
round as a whole is doubted: it takes no uploads and no step until some of its uploads are discarded.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from thetaprime.models import BehaviorMeasurement, Policy, RoundDoubt, doubt_round
from thetaprime.models.behavior import NOISE_NUMBERS, ROUND_BOUND, find_repeated_noise, statistics_test
from thetaprime.server.errors import PreconditionError, shown
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch

_VERSION: Final = b"\x02"
_NOISE_BYTES: Final = 2 * NOISE_NUMBERS
_NAMED_UPLOADS: Final = 3


@dataclasses.dataclass(frozen=True, eq=False)
class UploadEvidence:
    """What an upload's row keeps for the tests of its round.

    Attributes:
        statistics: [K]: sums over the upload's steps.
        noise: [N, 8]: how the noise of each trajectory begins.
    """

    statistics: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float16]

    @classmethod
    def of(cls, measurement: BehaviorMeasurement) -> Self:
        """Takes what is kept from a measurement."""
        return cls(measurement.statistics, measurement.noise)

    def pack(self) -> bytes:
        """Returns a row's bytes: a version, [K] float32 and [N, 8] float16, little-endian."""
        return _VERSION + self.statistics.astype("<f4").tobytes() + self.noise.astype("<f2").tobytes()


@dataclasses.dataclass(frozen=True, eq=False)
class RoundEvidence:
    """What the rows of U uploads keep for the tests of their round.

    Attributes:
        statistics: [U, K]: sums over each upload's steps.
        noise: [M, 8]: how the noise of each trajectory begins, upload by upload.
        counts: [U]: number of the rows of `noise` of each upload.
    """

    statistics: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float16]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, policy: Policy, batch: UploadedBatch) -> Self:
        """Reads the rows. One that is older than the test, or of another version of it, counts as no evidence."""
        columns = statistics_test(policy).columns
        end = len(_VERSION) + 4 * columns
        nothing = bytes(end)
        rows = [
            row
            if row and row.startswith(_VERSION) and (len(row) - end) % _NOISE_BYTES == 0 and len(row) >= end
            else nothing
            for row in batch.evidence
        ]
        statistics = np.frombuffer(b"".join(row[len(_VERSION) : end] for row in rows), "<f4")
        noise = np.frombuffer(b"".join(row[end:] for row in rows), "<f2")
        return cls(
            statistics.reshape(-1, columns).astype(np.float64),
            noise.reshape(-1, NOISE_NUMBERS),
            tuple((len(row) - end) // _NOISE_BYTES for row in rows),
        )


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The refusal of an upload by the test.

    Attributes:
        error: what to raise.
        round_doubt: why the uploads before it are implausible too; None where they are not.
    """

    error: PreconditionError
    round_doubt: str | None = None


def refuse_upload(
    batch: UploadedBatch, measurement: BehaviorMeasurement, upload_id: str, *, repeats: bool
) -> Refusal | None:
    """Tests an upload by itself, and together with the round's uploads.

    Args:
        batch: the round's uploads without this one.
        measurement: of the upload.
        upload_id: its id.
        repeats: whether the uploader says that equal noise is meant.

    Returns:
        The refusal, or None if the upload and the round are plausible.
    """
    for doubt in measurement.doubts(batch.uploads, batch.trajectories):
        if doubt.trajectory is None:
            return Refusal(PreconditionError(doubt.reason, f"trajectories: {doubt.message}"))
        message = f"trajectories[{doubt.trajectory}]: {doubt.message}"
        return Refusal(PreconditionError(doubt.reason, message, trajectory=doubt.trajectory))
    policy = measurement.policy
    known = RoundEvidence.of(policy, batch)
    if not repeats and (error := _repeated_noise(batch, known, measurement, upload_id)):
        return Refusal(error)
    if not batch.uploads:
        return None
    every = np.concatenate([known.statistics, measurement.statistics[None]])
    found = doubt_round(policy, every, measurement)
    if found is None:
        return None
    upload_ids = (*batch.upload_ids, upload_id)
    message = _describe(found, upload_ids, batch.trajectories + len(measurement.trajectories))
    if found.without[-1] <= ROUND_BOUND / 2:
        error = PreconditionError(
            found.reason, f"{message}; without this upload the round is plausible: leave it out", scope="round"
        )
        return Refusal(error)
    return Refusal(PreconditionError("ROUND_DOUBTED", message, scope="round"), message)


def require_plausible_round(policy: Policy, session: SessionRecord, batch: UploadedBatch) -> None:
    """Tests the uploads of a round together, before its step.

    Raises:
        PreconditionError: ROUND_DOUBTED.
    """
    session.require_plausible()
    doubt = find_round_doubt(policy, batch)
    if doubt is not None:
        raise PreconditionError("ROUND_DOUBTED", doubt, scope="round")


def find_round_doubt(policy: Policy, batch: UploadedBatch, bound: float = ROUND_BOUND) -> str | None:
    """Returns why the uploads of a round are implausible together, or None.

    Args:
        policy: the network.
        batch: the uploads.
        bound: the evidence, in nats, beyond which they are.
    """
    # A round that never had another upload was tested when this one was accepted.
    if not batch.uploads or (batch.uploads == 1 and not batch.uncounted and bound == ROUND_BOUND):
        return None
    found = doubt_round(policy, RoundEvidence.of(policy, batch).statistics, bound=bound)
    return None if found is None else _describe(found, batch.upload_ids, batch.trajectories)


def _repeated_noise(
    batch: UploadedBatch, known: RoundEvidence, measurement: BehaviorMeasurement, upload_id: str
) -> PreconditionError | None:
    found = find_repeated_noise(measurement.noise, known.noise)
    if found is None:
        return None
    later, index = found
    ends = np.cumsum([*known.counts, len(measurement.noise)])
    place = int(np.searchsorted(ends, index, side="right"))
    upload, index = (*batch.upload_ids, upload_id)[place], index - int(ends[place - 1]) if place else index
    return PreconditionError(
        "REPEATED_NOISE",
        f"trajectories[{later}] has the noise of trajectories[{index}] of upload {shown(upload)}: send each episode "
        "once, and give each collector its own seed; or set header.count_again, if this is meant",
        trajectory=later,
        upload_id=upload,
    )


def _describe(found: RoundDoubt, upload_ids: Sequence[str], trajectories: int) -> str:
    """Says what all uploads together show, and which of them show it most."""
    order = np.argsort(found.without)[:_NAMED_UPLOADS]
    most = ", ".join(f"{shown(upload_ids[index])} ({found.evidence - found.without[index]:+.1f})" for index in order)
    return (
        f"the round's {len(upload_ids)} uploads with {trajectories} trajectories together: {found.message}; evidence "
        f"{found.evidence:.1f} of {ROUND_BOUND:.1f} nats. Most of it comes from {most}. DiscardUploads discards these "
        "uploads, or all uploads of the round; then collect again"
    )
