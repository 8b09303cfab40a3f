"""Steps that are computed before they are asked for, from what their upload's verification has at hand.

Most rounds are one upload and then one step on it. Once the upload counts, all that the step needs is there, and in the
processor's caches; what it comes to is a hundredth of that to hold until it is asked for. A round of several uploads is
computed when it is asked for, and what its first one came to is dropped.
"""

from thetaprime.server.adaptation.step import PendingRound, StepResult, compute_step
from thetaprime.server.adaptation.step_inputs import StepInputs
from thetaprime.server.catalog.catalog import CatalogEntry
from thetaprime.server.store import Store


def precompute_step(store: Store, entry: CatalogEntry, taken: PendingRound, start: StepInputs) -> None:
    """Computes a step, which `precomputed_step` then has, unless it fails.

    Args:
        store: keeps it at hand.
        entry: the session's meta-policy.
        taken: the round, with its first upload.
        start: its trajectories and θ_k; given up.
    """
    try:
        made = compute_step(entry, taken, start)
    except Exception:
        return  # it is the step's fault and not the upload's: it comes up again when the step is asked for
    key = _key(taken.session.tenant, taken.session.session_id, taken.session.round)
    # θ_{k+1} twice, as tensors and as an ONNX file, which is as large as that of θ.
    store.recent.put(key, (taken.batch.sha256, made), 2 * len(entry.theta.onnx))


def is_precomputed(store: Store, tenant: str, session_id: str, round_index: int) -> bool:
    """Whether a step of the round was computed when an upload of it came."""
    return store.recent.get(_key(tenant, session_id, round_index)) is not None


def precomputed_step(
    store: Store, tenant: str, session_id: str, round_index: int, batch_sha256: str
) -> StepResult | None:
    """A round's step on a batch, if that was computed when its upload came; for one caller.

    Nothing says that the step may still be taken.
    """
    found: tuple[str, StepResult] | None = store.recent.take(_key(tenant, session_id, round_index))
    return found[1] if found is not None and found[0] == batch_sha256 else None


def _key(tenant: str, session_id: str, round_index: int) -> tuple[str, ...]:
    return "ahead", tenant, session_id, str(round_index)
