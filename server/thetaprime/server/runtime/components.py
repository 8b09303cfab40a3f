"""Builds the components of a server from its settings."""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from thetaprime.models import ArtifactLimits
from thetaprime.server.adaptation.commit import take_round
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.adaptation.precompute import precompute_step
from thetaprime.server.adaptation.step import warm_up
from thetaprime.server.auth import Authenticator, Quotas
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.catalog.watcher import CatalogWatch
from thetaprime.server.config import ServerConfig
from thetaprime.server.rpc.adaptation_service import AdaptationServicer
from thetaprime.server.rpc.connections import Connections
from thetaprime.server.rpc.gate import MESSAGE_BYTES, Gate
from thetaprime.server.rpc.interceptor import CallInterceptor
from thetaprime.server.rpc.meta_policy_service import MetaPolicyServicer
from thetaprime.server.scheduling.fair_slots import FairSlots, FairThreads
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.server.scheduling.rate_limit import RateLimit
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
# Transactions of calls that read, and of calls that write, that run at once. Those that write run one after the other,
# and wait together where another process has locked the database: those that read have threads of their own.
_TRANSACTIONS: Final = 8
_WRITERS: Final = 4
# Transactions of one tenant that run at once while another tenant is active. They contend for Python's interpreter:
# with eight threads of one tenant, each of the many switches of an upload's verification waited for several of them.
_TENANT_TRANSACTIONS: Final = 1
# A tenant rests for so many times the processor time of a transaction while another tenant works: its transactions then
# leave most of the interpreter to the other tenant.
_TRANSACTION_REST: Final = 5.0
# Transactions of one tenant that may wait. The memory budget bounds waiting uploads, the engine's queue waiting steps.
_WAITING_TRANSACTIONS: Final = 1000
# Threads for background tasks, beside those of the calls.
_BACKGROUND_THREADS: Final = 2


@dataclasses.dataclass(frozen=True)
class Components:
    """The components of one server.

    Attributes:
        config: the settings.
        metrics: the Prometheus metrics.
        store: the durable state.
        catalog: the meta-policies.
        watch: updates the catalog from the zoo folders.
        threads: run transactions and background tasks.
        engine: schedules adaptation steps.
        connections: limits and closes the connections of clients.
        gate: limits what calls may cost.
        calls: wraps every call.
        health: answers health checks.
        adaptation: implements AdaptationService.
        meta_policies: implements MetaPolicyService.
    """

    config: ServerConfig
    metrics: Metrics
    store: InstrumentedStore
    catalog: Catalog
    watch: CatalogWatch
    threads: ThreadPoolExecutor
    engine: AdaptationEngine
    connections: Connections
    gate: Gate
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
    limits = ArtifactLimits(config.max_artifact_file_bytes, config.max_artifact_bytes, config.max_parameters)
    catalog = await asyncio.to_thread(Catalog.load, config.zoo, limits)
    watch = CatalogWatch(catalog, config.zoo, metrics.meta_policies.set, limits)
    store = await asyncio.to_thread(InstrumentedStore, config, metrics)
    with contextlib.ExitStack() as closing:
        closing.enter_context(contextlib.closing(store))
        await asyncio.to_thread(warm_up, catalog)
        # A call that holds a slot never waits for a thread.
        threads = closing.enter_context(
            ThreadPoolExecutor(_TRANSACTIONS + _WRITERS + _BACKGROUND_THREADS, thread_name_prefix="store")
        )
        transactions, writers = (
            FairThreads(
                FairSlots(count, _WAITING_TRANSACTIONS, share=_TENANT_TRANSACTIONS), threads, rest=_TRANSACTION_REST
            )
            for count in (_TRANSACTIONS, _WRITERS)
        )
        # Steps and upload verifications take turns: each keeps one processor busy for about as long. A step begins
        # while its upload is committed, so there may be two threads to a slot.
        computing = closing.enter_context(
            ThreadPoolExecutor(2 * config.adaptation_threads, thread_name_prefix="adaptation")
        )
        processors = FairThreads(FairSlots(config.adaptation_threads), computing)
        engine = AdaptationEngine(
            functools.partial(take_round, store, catalog, metrics),
            precompute=functools.partial(precompute_step, store, metrics),
            processors=processors,
            threads=config.adaptation_threads,
            queue=config.queue,
            rate_limit=RateLimit(authenticator.adaptation_rate),
            waiting=metrics.track_waiting_step,
        )
        closing.enter_context(contextlib.closing(engine))
        memory = MemoryBudget(config.max_inflight_bytes, config.max_address_bytes, message_bytes=MESSAGE_BYTES)
        connections = Connections(config.max_address_connections, metrics, config.block_seconds)
        gate = Gate(
            memory,
            connections,
            max_address_calls=config.max_address_calls,
            request_seconds=config.request_seconds,
            reply_seconds=config.reply_seconds,
        )
        yield Components(
            config=config,
            metrics=metrics,
            store=store,
            catalog=catalog,
            watch=watch,
            threads=threads,
            engine=engine,
            connections=connections,
            gate=gate,
            calls=CallInterceptor(authenticator, observer, gate),
            health=Health(SERVICES, metrics),
            adaptation=AdaptationServicer(
                config, store, catalog, engine, transactions, writers, processors, authenticator, memory
            ),
            meta_policies=MetaPolicyServicer(catalog, processors),
        )
