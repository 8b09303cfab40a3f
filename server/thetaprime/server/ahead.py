"""Steps that are computed before they are asked for, from what their upload's verification has at hand.

Most rounds are one upload and then one step on it. Once the upload is verified, all that the step needs is there, and
in the processor's caches. Where a processor has nothing else to do, the step is begun on it at once, while the
acknowledgement is on its way to the disk and the client; elsewhere the upload's own thread computes it when the upload
counts. Either way what is kept until the step is asked for is its outcome, a hundredth of what it is computed from.
A round of several uploads is computed when it is asked for, and what its first one came to is dropped.
"""

import contextvars
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from thetaprime.server.catalog import CatalogEntry
from thetaprime.server.rounds import RoundStart
from thetaprime.server.step import RoundToTake, StepMade, compute_step
from thetaprime.server.store import Store
from thetaprime.server.turns import Places


class Ahead:
    """Begins steps on a thread of its own, one at a time.

    Args:
        processors: the places that all who need a processor take turns for; a step is begun where the place of its
            upload would otherwise be nobody's.
    """

    def __init__(self, processors: Places) -> None:
        self._processors = processors
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._one = threading.Lock()

    def begin(self, tenant: str, store: Store, entry: CatalogEntry, taken: RoundToTake, start: RoundStart) -> bool:
        """Begins a step, whose outcome `made_ahead` then has.

        Args:
            tenant: whose round it is; it holds a place, for the upload.
            store: keeps it at hand.
            entry: the session's meta-policy.
            taken: the round, as it will be once its first upload is durable, if that is the only one.
            start: its trajectories and θ_k; given up where the step is begun.

        Returns:
            Whether it was: False while another one runs, or others wait for a processor; or where one was begun for
            an earlier upload of the round.
        """
        if is_made_ahead(store, taken.session.tenant, taken.session.session_id, taken.session.round):
            return False
        if not self._processors.would_stay(tenant) or not self._one.acquire(blocking=False):
            return False
        # What it logs names the call that brought the upload.
        run = contextvars.copy_context().run
        try:
            begun = self._thread.submit(run, compute_step, entry, taken, start)
        except RuntimeError:  # the server closes
            self._one.release()
            return False
        begun.add_done_callback(lambda _: self._one.release())
        _keep(store, entry, taken, begun)
        return True

    def close(self) -> None:
        """Begins nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_ahead(store: Store, entry: CatalogEntry, taken: RoundToTake, start: RoundStart) -> None:
    """Computes a step on this thread; `made_ahead` then has its outcome.

    Args:
        store: keeps it at hand.
        entry: the session's meta-policy.
        taken: the round, with its first upload.
        start: its trajectories and θ_k; given up.
    """
    made: Future[StepMade] = Future()
    try:
        made.set_result(compute_step(entry, taken, start))
    except Exception as error:  # it is the step's, not the upload's
        made.set_exception(error)
    _keep(store, entry, taken, made)


def is_made_ahead(store: Store, tenant: str, session_id: str, round_index: int) -> bool:
    """Whether a step of the round was computed or begun when an upload of it came."""
    return store.recent.get(_key(tenant, session_id, round_index)) is not None


def made_ahead(
    store: Store, tenant: str, session_id: str, round_index: int, batch_sha256: str
) -> Future[StepMade] | None:
    """The outcome of a round's step on a batch, if that was computed or begun when its upload came; for one caller.

    Nothing says that the step may still be taken.
    """
    made: tuple[str, Future[StepMade]] | None = store.recent.take(_key(tenant, session_id, round_index))
    return made[1] if made is not None and made[0] == batch_sha256 else None


def _keep(store: Store, entry: CatalogEntry, taken: RoundToTake, made: Future[StepMade]) -> None:
    key = _key(taken.session.tenant, taken.session.session_id, taken.session.round)
    # θ_{k+1} twice, as tensors and as an ONNX file, which is as large as that of θ.
    store.recent.put(key, (taken.batch.sha256, made), 2 * len(entry.theta.onnx))


def _key(tenant: str, session_id: str, round_index: int) -> tuple[str, ...]:
    return "ahead", tenant, session_id, str(round_index)
