"""Steps that are begun before they are asked for, while a processor has nothing else to do.

Most rounds are one upload and then one step on it. Once the upload is verified, all that the step needs is at hand;
the acknowledgement has yet to reach the disk and the client, and the client's call for the step to come back. On a
server that is busy nothing is begun, and a round of several uploads is computed when it is asked for.
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
        """Begins a step, whose outcome `begun_ahead` then has.

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
        if store.recent.get(_key(taken)) is not None:
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
        store.recent.put(_key(taken), (taken.batch.sha256, begun), start.size(entry.meta_policy.policy))
        return True

    def close(self) -> None:
        """Begins nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def begun_ahead(store: Store, taken: RoundToTake) -> Future[StepMade] | None:
    """The outcome of a round's step, if that was begun when its upload came; for one caller."""
    begun: tuple[str, Future[StepMade]] | None = store.recent.take(_key(taken))
    return begun[1] if begun is not None and begun[0] == taken.batch.sha256 else None


def _key(taken: RoundToTake) -> tuple[str, ...]:
    return "ahead", taken.session.session_id, taken.session.policy_id
