"""What a round starts from: its trajectories and θ_k."""

import dataclasses
import itertools

import torch

from thetaprime import wire
from thetaprime.models import ForwardPass, Parameters, TrajectoryBatch
from thetaprime.server.catalog.catalog import CatalogEntry
from thetaprime.server.sessions import messages as convert
from thetaprime.server.sessions.policies import PolicyRecord, current_parameters
from thetaprime.server.sessions.rows import UploadedBatch
from thetaprime.server.store import Store


@dataclasses.dataclass(frozen=True, eq=False)
class StepInputs:
    """What one inner step is taken from.

    Attributes:
        parameters: θ_k.
        batch: the round's trajectories.
        forward: θ_k run over them, where it has been; for one gradient.
        outputs: what that gave, as `Policy.outputs` gives it.
        counts: how many of the trajectories are of each upload.
    """

    parameters: Parameters
    batch: TrajectoryBatch
    forward: ForwardPass | None = None
    outputs: tuple[torch.Tensor, ...] | None = None
    counts: tuple[int, ...] = ()


def step_inputs(store: Store, entry: CatalogEntry, record: PolicyRecord | None, uploaded: UploadedBatch) -> StepInputs:
    """What the round's step is taken from, read from the store.

    Args:
        store: the store.
        entry: the session's meta-policy.
        record: of the step that made θ_k; None for θ.
        uploaded: what the round's uploads are.
    """
    # The payloads are sorted by digest, so θ_{k+1} does not depend on the order in which they arrived.
    uploads = [list(wire.unpack(store.read(digest))) for digest in uploaded.payloads]
    return StepInputs(
        current_parameters(store, entry, record),
        convert.trajectory_batch(list(itertools.chain.from_iterable(uploads))),
        counts=tuple(map(len, uploads)),
    )
