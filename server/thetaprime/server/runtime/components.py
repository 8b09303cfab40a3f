"""Builds the components of a server from its settings."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.adaptation.instrumented_step import take_observed_round
from thetaprime.server.adaptation.step import warm_up
from thetaprime.server.auth import Authenticator, Quotas
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.catalog.watcher import CatalogWatch
from thetaprime.server.config import ServerConfig
from thetaprime.server.rpc.adaptation_service import AdaptationServicer, MetaPolicyServicer
from thetaprime.server.rpc.interceptor import CallInterceptor
from thetaprime.server.scheduling.fair_slots import FairSlots
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.server.store import Store
from thetaprime.server.telemetry.calls import CallObserver
from thetaprime.server.telemetry.health import Health
from thetaprime.server.telemetry.instrumented_store import InstrumentedStore
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer
from thetaprime.v1 import adaptation_service_pb2, meta_policy_service_pb2

SERVICES: Final = (
    adaptation_service_pb2.DESCRIPTOR.services_by_name["AdaptationService"].full_name,
    meta_policy_service_pb2.DESCRIPTOR.services_by_name["MetaPolicyService"].full_name,
)
"""Full names of this package's gRPC services."""
# Calls that read the store at once, and that write a row: of those one is at it and one stands by.
_READING: Final = 8
_WRITING: Final = 2
# Of one tenant. Uploads that wait have their memory set aside, which bounds them; steps have a queue of their own.
_WAITING_CALLS: Final = 1000


@dataclasses.dataclass(frozen=True)
class Components:
    """The components of one server.

    Attributes:
        config: the settings.
        metrics: the Prometheus metrics.
        store: the durable state.
        catalog: the meta-policies.
        watch: updates the catalog from the zoo folders.
        threads: run blocking work, except adaptation steps.
        engine: runs adaptation steps.
        calls: wraps every call.
        health: answers health checks.
        adaptation: implements AdaptationService.
        meta_policies: implements MetaPolicyService.
    """

    config: ServerConfig
    metrics: Metrics
    store: Store
    catalog: Catalog
    watch: CatalogWatch
    threads: ThreadPoolExecutor
    engine: AdaptationEngine
    calls: CallInterceptor
    health: Health
    adaptation: AdaptationServicer
    meta_policies: MetaPolicyServicer


@contextlib.asynccontextmanager
async def build_components(config: ServerConfig) -> AsyncIterator[Components]:
    """Builds the components of a server; the end of the context closes their threads and files.

    Raises:
        StartupError: the catalog, the store or the tokens file cannot be used.
    """
    # One thread per adaptation step: several steps in parallel are faster than several threads for one step.
    torch.set_num_threads(1)
    authenticator = Authenticator(config.tokens, Quotas.defaults(config))
    metrics = Metrics()
    observer = CallObserver(metrics, CallTracer(config.tracing))
    catalog = await asyncio.to_thread(Catalog.load, config.zoo)
    watch = CatalogWatch(catalog, config.zoo, metrics.meta_policies.set)
    store = await asyncio.to_thread(InstrumentedStore, config.store, metrics, config.row_bytes, config.recent_bytes)
    with contextlib.ExitStack() as closing:
        closing.enter_context(contextlib.closing(store))
        await asyncio.to_thread(warm_up, catalog)
        # To verify an upload takes a processor for about as long as a step does: they take turns. Two at least, so that
        # one long step does not keep every upload waiting.
        processor_places = max(2, config.adaptation_threads)
        processors = FairSlots(processor_places)
        reading, writing = FairSlots(_READING, _WAITING_CALLS), FairSlots(_WRITING, _WAITING_CALLS)
        # Nobody who has a place waits for a thread; some do for the others' writes.
        threads = closing.enter_context(
            ThreadPoolExecutor(_READING + _WRITING + processor_places, thread_name_prefix="store")
        )
        engine = AdaptationEngine(
            lambda call: take_observed_round(metrics, store, catalog, call),
            threads=config.adaptation_threads,
            queue=config.queue,
            pace=RateLimit(lambda tenant: authenticator.quotas_of(tenant).max_adaptations_per_second).take,
            processors=processors,
            waiting=metrics.track_waiting_step,
        )
        closing.enter_context(contextlib.closing(engine))
        yield Components(
            config=config,
            metrics=metrics,
            store=store,
            catalog=catalog,
            watch=watch,
            threads=threads,
            engine=engine,
            calls=CallInterceptor(authenticator, observer),
            health=Health(SERVICES, metrics),
            adaptation=AdaptationServicer(
                config, store, catalog, engine, threads, reading, writing, processors, authenticator
            ),
            meta_policies=MetaPolicyServicer(catalog, processors),
        )
