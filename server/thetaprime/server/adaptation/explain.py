"""Explains the step of a round: how much each time step of its uploads pushed the policy. Nothing is recorded here."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.models import adapt_step, step_derivatives
from thetaprime.models.verdict import RoundMemory, at_discount
from thetaprime.server.adaptation.step import PendingRound, StepInputs
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry
from thetaprime.server.errors import InvalidRequestError, NotFoundError, PreconditionError
from thetaprime.server.sessions.policies import find_policy, session_entry
from thetaprime.server.sessions.rows import UploadedBatch, find_session, uploaded_batch
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.v1 import adaptation_service_pb2 as service_pb

_DEFAULT_TRAJECTORIES, _MOST_TRAJECTORIES = 64, 256
_DEFAULT_DIMENSIONS, _MOST_DIMENSIONS = 2, 8
# About 2.5 MiB of a reply, with the most dimensions. The first trajectory is always among them.
_MOST_NUMBERS: Final = 600_000


@retried
def explain_round(
    store: Store, catalog: Catalog, tenant: str, request: service_pb.ExplainRoundRequest
) -> service_pb.ExplainRoundResponse:
    """Returns the trajectories of a round with the part of each time step in the inner loop's step.

    Raises:
        InvalidRequestError: a number is out of range.
        NotFoundError: the session does not exist, or has not come to the round.
        PreconditionError: NO_UPLOADS; or the meta-policy has left the catalog.
    """
    most = _bounded("max_trajectories", request.max_trajectories, _DEFAULT_TRAJECTORIES, _MOST_TRAJECTORIES)
    dimensions = _bounded("max_dimensions", request.max_dimensions, _DEFAULT_DIMENSIONS, _MOST_DIMENSIONS)
    with store.reading() as connection:
        session = find_session(connection, tenant, request.session_id, store.now())
        index = request.round if request.HasField("round") else max(session.round - 1, 0)
        if not 0 <= index <= session.round:
            raise NotFoundError("round", f"{index} of session {session.session_id}, which is in round {session.round}")
        batch = uploaded_batch(connection, session, index)
        record = find_policy(connection, session.session_id, index) if index else None
        taken = find_policy(connection, session.session_id, index + 1) if index < session.round else None
        first = find_policy(connection, session.session_id, 1) if session.round else None
    if not batch.uploads:
        raise PreconditionError(
            "NO_UPLOADS", f"round {index} of the session has no uploads: none has arrived, or the session has expired"
        )
    entry = session_entry(catalog, session)
    inputs = StepInputs.read(store, entry, PendingRound(session, batch, record))
    memory = None if first is None or first.memory is None else RoundMemory.from_bytes(first.memory)
    pushes = _pushes(entry, inputs, index, None if memory is None else memory.discount)
    return service_pb.ExplainRoundResponse(
        report=None if taken is None else taken.report_message(),
        trajectories=_explained(batch, inputs, pushes, most, dimensions),
        total=batch.trajectories,
    )


def _bounded(field: str, value: int, default: int, most: int) -> int:
    if value < 0:
        raise InvalidRequestError(field, f"{value}; expected 0 to {most}")
    return min(value or default, most)


def _pushes(
    entry: CatalogEntry, inputs: StepInputs, index: int, discount: float | None
) -> list[npt.NDArray[np.float64]]:
    """Returns the part of each time step in the step, [H_n] by trajectory; zeros if there is no gradient.

    Args:
        entry: the session's meta-policy.
        inputs: of the round.
        index: k.
        discount: of the session; None for that of meta-training.
    """
    meta_policy = entry.meta_policy
    step = adapt_step(
        meta_policy.policy,
        inputs.parameters,
        inputs.trajectories,
        at_discount(meta_policy.manifest.adaptation, discount),
        step=index,
        step_sizes=meta_policy.step_sizes,
    )
    derivatives = step_derivatives(meta_policy.policy, inputs.parameters, inputs.trajectories, step)
    whole = float(derivatives.sum())
    if not np.isfinite(derivatives).all() or whole <= 0.0:
        derivatives, whole = np.zeros_like(derivatives), 1.0
    return np.split(derivatives / whole, np.cumsum(inputs.trajectories.lengths)[:-1])


def _explained(
    batch: UploadedBatch,
    inputs: StepInputs,
    pushes: Sequence[npt.NDArray[np.float64]],
    most: int,
    dimensions: int,
) -> Iterator[service_pb.ExplainedTrajectory]:
    """Yields the trajectories with the largest shares, as far as they fit into a reply."""
    names = [
        (digest, number) for digest, count in zip(batch.payloads, inputs.counts, strict=True) for number in range(count)
    ]
    trajectories = inputs.trajectories
    starts = [0, *itertools.accumulate(trajectories.lengths)]
    shares = np.array([each.sum() for each in pushes])
    left = _MOST_NUMBERS
    for n in np.argsort(-np.abs(shares), kind="stable")[:most].tolist():
        length = trajectories.lengths[n]
        left -= length * (2 + dimensions)
        if left < 0 and left + length * (2 + dimensions) != _MOST_NUMBERS:
            return
        rows = slice(starts[n], starts[n] + length)
        observations = np.concatenate(
            [trajectories.observations[rows].numpy(), trajectories.final_observations[n : n + 1].numpy()]
        )
        digest, number = names[n]
        yield service_pb.ExplainedTrajectory(
            sha256=digest,
            trajectory=number,
            share=shares[n],
            rewards=wire.array_to_message(trajectories.rewards[rows].numpy().astype(np.float32)),
            pushes=wire.array_to_message(pushes[n].astype(np.float32)),
            observations=wire.array_to_message(np.ascontiguousarray(observations[:, :dimensions], np.float32)),
        )
