"""What a server is made of, from its settings: the parts, and who is handed whom."""

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
from thetaprime.server.auth import Authenticator, Pace, Quotas
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.catalog.watcher import CatalogWatch
from thetaprime.server.config import ServerConfig
from thetaprime.server.rpc.adaptation_service import AdaptationServicer, MetaPolicyServicer
from thetaprime.server.rpc.interceptor import CallInterceptor
from thetaprime.server.scheduling.fair_slots import FairSlots
from thetaprime.server.store import Store
from thetaprime.server.telemetry.health import Health
from thetaprime.server.telemetry.instrumented_store import ObservedStore
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer
from thetaprime.v1 import adaptation_service_pb2, meta_policy_service_pb2

SERVICES: Final = (
    adaptation_service_pb2.DESCRIPTOR.services_by_name["AdaptationService"].full_name,
    meta_policy_service_pb2.DESCRIPTOR.services_by_name["MetaPolicyService"].full_name,
)
"""Full names of the services of this package."""
# Calls that read the store at once, and that write a row: of those one is at it and one stands by.
_READING: Final = 8
_WRITING: Final = 2
# Of one tenant. Uploads that wait have their memory set aside, which bounds them; steps have a queue of their own.
_WAITING_CALLS: Final = 1000


@dataclasses.dataclass(frozen=True)
class Components:
    """The parts of one server.

    Attributes:
        config: the settings.
        metrics: what is counted.
        store: the durable state.
        catalog: the meta-policies.
        watch: keeps the catalog in step with its folders.
        threads: for what blocks, but for adaptation steps.
        engine: for those.
        calls: around every call.
        health: what health checks are told.
        adaptation: answers the calls of AdaptationService.
        meta_policies: answers the calls of MetaPolicyService.
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
async def made(config: ServerConfig) -> AsyncIterator[Components]:
    """Makes the parts of a server; those that hold threads or files give them back when the context ends.

    Raises:
        StartupError: the catalog, the store or the tokens file cannot be used.
    """
    # Each adaptation step has one thread: several steps at once beat several threads for one.
    torch.set_num_threads(1)
    gate = Authenticator(config.tokens, Quotas.defaults(config))
    metrics = Metrics()
    tracer = CallTracer(config.tracing)
    catalog = await asyncio.to_thread(Catalog.load, config.zoo)
    watch = CatalogWatch(catalog, config.zoo, metrics.meta_policies.set)
    store = await asyncio.to_thread(ObservedStore, config.store, metrics, config.row_bytes, config.recent_bytes)
    with contextlib.ExitStack() as held:
        held.enter_context(contextlib.closing(store))
        await asyncio.to_thread(warm_up, catalog)
        # To verify an upload takes a processor for about as long as a step does: they take turns. Two at least, so that
        # one long step does not keep every upload waiting.
        processor_places = max(2, config.adaptation_threads)
        processors = FairSlots(processor_places)
        reading, writing = FairSlots(_READING, _WAITING_CALLS), FairSlots(_WRITING, _WAITING_CALLS)
        # Nobody who has a place waits for a thread; some do for the others' writes.
        threads = held.enter_context(
            ThreadPoolExecutor(_READING + _WRITING + processor_places, thread_name_prefix="store")
        )
        engine = AdaptationEngine(
            lambda call: take_observed_round(metrics, store, catalog, call),
            threads=config.adaptation_threads,
            queue=config.queue,
            pace=Pace(gate.quotas_of).take,
            processors=processors,
            waiting=metrics.step_waiting,
        )
        held.enter_context(contextlib.closing(engine))
        yield Components(
            config=config,
            metrics=metrics,
            store=store,
            catalog=catalog,
            watch=watch,
            threads=threads,
            engine=engine,
            calls=CallInterceptor(gate, metrics, tracer),
            health=Health(SERVICES, metrics),
            adaptation=AdaptationServicer(config, store, catalog, engine, threads, reading, writing, processors, gate),
            meta_policies=MetaPolicyServicer(catalog, processors),
        )
