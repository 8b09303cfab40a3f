"""Precomputes the step of a round when the round's first upload arrives.

Most rounds have one upload. Once it counts, its arrays and its forward pass are in memory, and the step begins while
the upload is committed and acknowledged. The result is a hundredth of their size, and is cached until `Adapt` asks for
it. A second upload invalidates the cached step: `Adapt` then computes the step of both.
"""

import structlog

from thetaprime.server.adaptation.step import PendingRound, StepInputs, StepResult, compute_step
from thetaprime.server.sessions.uploads import NewUpload
from thetaprime.server.store import Store
from thetaprime.server.telemetry.metrics import Metrics

_log = structlog.get_logger()


def precompute_step(store: Store, metrics: Metrics, upload: NewUpload) -> None:
    """Computes the step of a round whose only upload has just been verified, and caches it.

    A failure is logged and counted, and refuses nothing: the upload counts, and `Adapt` computes the step again.

    Args:
        store: its cache takes the step.
        metrics: counts the step.
        upload: the upload; its forward pass is consumed.
    """
    session = upload.session
    pending = PendingRound(session, upload.batch, upload.record, upload.memories)
    try:
        result = compute_step(upload.entry, pending, StepInputs.of_upload(store, upload, pending))
    except Exception:
        _log.warning("step not precomputed", session_id=session.session_id, round=session.round, exc_info=True)
        metrics.record_precomputed_step("failed")
        return
    metrics.record_precomputed_step("computed")
    key = _key(session.tenant, session.session_id, session.round)
    # The size of θ_{k+1}: tensors and an ONNX file, each about as large as the ONNX file of θ.
    store.recent.put(key, (upload.batch.sha256, result), 2 * len(upload.entry.theta.onnx))


def is_precomputed(store: Store, tenant: str, session_id: str, round_index: int) -> bool:
    """Returns whether a step of the round is cached."""
    return store.recent.get(_key(tenant, session_id, round_index)) is not None


def take_precomputed_step(
    store: Store, tenant: str, session_id: str, round_index: int, batch_sha256: str
) -> StepResult | None:
    """Removes a round's step from the cache, and returns it if it was computed on this batch.

    The caller checks, when it commits, that the round may still be taken.
    """
    cached: tuple[str, StepResult] | None = store.recent.take(_key(tenant, session_id, round_index))
    return cached[1] if cached is not None and cached[0] == batch_sha256 else None


def _key(tenant: str, session_id: str, round_index: int) -> tuple[str, ...]:
    return "precomputed", tenant, session_id, str(round_index)
