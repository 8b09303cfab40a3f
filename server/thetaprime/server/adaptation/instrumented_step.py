"""An adaptation step on its worker, counted and timed, in the context of the call that asked for it."""

import time

from thetaprime.server.adaptation.commit import AdaptCall, AdaptOutcome, take_round
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.store import Store
from thetaprime.server.telemetry.metrics import Metrics


def take_observed_round(metrics: Metrics, store: Store, catalog: Catalog, call: AdaptCall) -> AdaptOutcome:
    """Takes a round as `take_round` does.

    What is logged and traced meanwhile names the call, though it has long left the thread that received it.
    """
    with metrics.track_step():
        outcome = call.context.run(take_round, store, catalog, call)
    metrics.record_round(outcome.session.meta_policy, time.perf_counter() - call.began, outcome.report.seconds)
    return outcome
