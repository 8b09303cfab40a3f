"""What a round starts from: its trajectories and θ_k, from the store or from what is still at hand of its upload."""

import dataclasses
import itertools

import torch

from thetaprime import wire
from thetaprime.models import ForwardPass, Parameters, Policy, TrajectoryBatch
from thetaprime.server import convert
from thetaprime.server.catalog import CatalogEntry
from thetaprime.server.policies import PolicyRecord, current_parameters
from thetaprime.server.records import SessionRecord, UploadedBatch
from thetaprime.server.store import Store


@dataclasses.dataclass(frozen=True, eq=False)
class RoundStart:
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

    def size(self, policy: Policy) -> int:
        """Bytes of it, about: the batch, and what comes out of each layer; of the first also what goes in."""
        width = policy.layer_sizes[0] + policy.layer_sizes[-1] + sum(policy.layer_sizes)
        return 4 * sum(self.batch.lengths) * width


def hold_upload(store: Store, session: SessionRecord, digest: str, policy: Policy, start: RoundStart) -> None:
    """Keeps at hand what verifying an upload has made, in case that its round takes no other."""
    store.recent.put(_key(session, digest), start, start.size(policy))


def round_start(
    store: Store, entry: CatalogEntry, session: SessionRecord, record: PolicyRecord | None, uploaded: UploadedBatch
) -> RoundStart:
    """What the round's step is taken from; the same, to the bit, wherever it comes from.

    Args:
        store: the store.
        entry: the session's meta-policy.
        session: the session, at round k.
        record: of the step that made θ_k; None for θ.
        uploaded: what the round's uploads are.
    """
    if uploaded.uploads == 1:
        held = store.recent.take(_key(session, uploaded.payloads[0]))
        if isinstance(held, RoundStart):
            return held
    # The payloads are sorted by digest, so θ_{k+1} does not depend on the order in which they arrived.
    uploads = [list(wire.unpack(store.read(digest))) for digest in uploaded.payloads]
    return RoundStart(
        current_parameters(store, entry, record),
        convert.trajectory_batch(list(itertools.chain.from_iterable(uploads))),
        counts=tuple(map(len, uploads)),
    )


def _key(session: SessionRecord, digest: str) -> tuple[str, ...]:
    # A forward pass serves one gradient: no two sessions share one, not even of the same bytes.
    return "upload", session.session_id, session.policy_id, digest
