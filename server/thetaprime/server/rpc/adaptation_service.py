"""The two services: messages in, plain functions on a thread, messages out."""

import asyncio
import contextvars
import dataclasses
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeAlias, TypeVar

import grpc
import structlog

from thetaprime.server.adaptation.commit import AdaptCall, AdaptOutcome, look_up
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.adaptation.precompute import is_precomputed
from thetaprime.server.adaptation.step import PendingRound
from thetaprime.server.auth import Authenticator, audit, current_caller
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import InvalidRequestError
from thetaprime.server.rpc.profiles import in_form, requested_form
from thetaprime.server.rpc.upload_stream import InflightBudget, PayloadAssembly, receive_header, receive_payload
from thetaprime.server.scheduling.fair_slots import FairSlots
from thetaprime.server.sessions import messages as convert
from thetaprime.server.sessions import sessions
from thetaprime.server.sessions.policies import get_policy, session_entry
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch
from thetaprime.server.sessions.uploads import accept_upload, admit_upload
from thetaprime.server.store import Store
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import adaptation_service_pb2_grpc as service_grpc
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb
from thetaprime.v1 import meta_policy_service_pb2_grpc as meta_grpc

P = ParamSpec("P")
R = TypeVar("R")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class MetaPolicyServicer(meta_grpc.MetaPolicyServiceServicer):
    """The catalog.

    Args:
        catalog: the meta-policies.
        processors: places for what takes a processor: to put a form of θ together.
    """

    def __init__(self, catalog: Catalog, processors: FairSlots) -> None:
        self._catalog = catalog
        self._processors = processors

    async def ListMetaPolicies(  # noqa: N802
        self, request: meta_pb.ListMetaPoliciesRequest, context: Context
    ) -> meta_pb.ListMetaPoliciesResponse:
        """Every meta-policy, by name and version."""
        return meta_pb.ListMetaPoliciesResponse(meta_policies=[entry.message for entry in self._catalog])

    async def GetMetaPolicy(  # noqa: N802
        self, request: meta_pb.GetMetaPolicyRequest, context: Context
    ) -> meta_pb.GetMetaPolicyResponse:
        """One meta-policy with θ."""
        if request.version < 0:
            raise InvalidRequestError("version", f"{request.version}; expected 0 or more")
        caller, form = current_caller(), requested_form(request)
        entry = self._catalog.find(request.name, request.version)
        theta = entry.theta
        if not form.is_default:
            async with self._processors.place(caller.tenant):
                theta = await asyncio.to_thread(in_form, theta, form)
        audit.record(
            "fetched",
            caller,
            meta_policy=f"{entry.message.name}@{entry.message.version}",
            policy_id=entry.theta.policy_id,
        )
        return meta_pb.GetMetaPolicyResponse(meta_policy=entry.message, policy=theta)


class AdaptationServicer(service_grpc.AdaptationServiceServicer):
    """Sessions, uploads, steps.

    Args:
        config: the limits.
        store: the durable state.
        catalog: the meta-policies.
        engine: runs the steps.
        threads: for everything else that blocks.
        reading: places for what merely asks the store.
        writing: places for what changes a row of it, since only one transaction writes at a time.
        processors: places for what takes a processor too: to verify an upload, beside the engine's steps.
        gate: the tenants' quotas.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        catalog: Catalog,
        engine: AdaptationEngine,
        threads: ThreadPoolExecutor,
        reading: FairSlots,
        writing: FairSlots,
        processors: FairSlots,
        gate: Authenticator,
    ) -> None:
        self._config = config
        self._store = store
        self._catalog = catalog
        self._engine = engine
        self._threads = threads
        self._reading = reading
        self._writing = writing
        self._processors = processors
        self._gate = gate
        self._budget = InflightBudget(config.max_inflight_bytes)

    async def CreateSession(  # noqa: N802
        self, request: service_pb.CreateSessionRequest, context: Context
    ) -> service_pb.CreateSessionResponse:
        """Creates a session, once for each request id."""
        caller = current_caller()
        has_scale = request.options.HasField("step_size_scale")
        arguments = sessions.CreateArguments(
            meta_policy=request.meta_policy,
            meta_policy_version=request.meta_policy_version,
            step_size_scale=request.options.step_size_scale if has_scale else None,
            ttl=request.ttl.ToMicroseconds() if request.HasField("ttl") else None,
        )
        session, batch = await self._write(
            sessions.create_session,
            self._store,
            self._catalog,
            self._config,
            self._gate.quotas_of(caller.tenant),
            caller.tenant,
            request.request_id,
            arguments,
        )
        _log_session(session.session_id)
        theta = session_entry(self._catalog, session).theta
        audit.record("created", caller, **_audited(session))
        return service_pb.CreateSessionResponse(session=self._session(session, batch), policy=theta)

    async def UploadTrajectories(  # noqa: N802
        self, request_iterator: AsyncIterator[service_pb.UploadTrajectoriesRequest], context: Context
    ) -> service_pb.UploadTrajectoriesResponse:
        """Receives one upload."""
        caller = current_caller()
        idle = self._config.upload_idle
        header = await receive_header(request_iterator, idle)
        _log_session(header.session_id)
        admitted = await self._run(admit_upload, self._store, caller.tenant, header)
        assembly = PayloadAssembly(header.payload_bytes, self._config)
        with self._budget.reserve(caller.tenant, header.payload_bytes):
            payload, footer = await receive_payload(request_iterator, assembly, idle, self._config.upload_seconds)
            async with self._processors.place(caller.tenant):
                response = await self._on_thread(
                    accept_upload,
                    self._store,
                    self._catalog,
                    self._config,
                    self._gate.quotas_of(caller.tenant),
                    admitted,
                    payload,
                    footer,
                )
        audit.record("uploaded", caller, session_id=header.session_id, sha256=response.sha256)
        return response

    async def Adapt(  # noqa: N802
        self, request: service_pb.AdaptRequest, context: Context
    ) -> service_pb.AdaptResponse:
        """Takes one step, once for each round."""
        caller = current_caller()
        _log_session(request.session_id)
        call = AdaptCall(caller.tenant, request.session_id, request.expected_round, request.batch_sha256)
        found: AdaptOutcome | PendingRound | None = None
        # A call that comes again, or comes to nothing, takes no worker. One whose step is there already is held against
        # the store when that is recorded.
        if not is_precomputed(self._store, caller.tenant, request.session_id, request.expected_round):
            found = await self._run(look_up, self._store, call)
        if isinstance(found, AdaptOutcome):
            outcome = found
        else:
            outcome = await self._engine.adapt(dataclasses.replace(call, found=found))
        audit.record("adapted", caller, **_audited(outcome.session))
        # As the step left it: what has become of it since is not for this reply to tell.
        session = self._session(outcome.session, UploadedBatch(), expired=False)
        return service_pb.AdaptResponse(session=session, policy=outcome.policy, report=outcome.report)

    async def GetSession(  # noqa: N802
        self, request: service_pb.GetSessionRequest, context: Context
    ) -> service_pb.GetSessionResponse:
        """A session and the report of each of its rounds."""
        _log_session(request.session_id)
        session, batch, reports = await self._run(
            sessions.get_session, self._store, current_caller().tenant, request.session_id
        )
        return service_pb.GetSessionResponse(session=self._session(session, batch), reports=reports)

    async def ListSessions(  # noqa: N802
        self, request: service_pb.ListSessionsRequest, context: Context
    ) -> service_pb.ListSessionsResponse:
        """One page of sessions, newest first."""
        page, batches, token = await self._run(
            sessions.list_sessions, self._store, current_caller().tenant, request.page_size, request.page_token
        )
        found = [self._session(session, batches[session.session_id]) for session in page]
        return service_pb.ListSessionsResponse(sessions=found, next_page_token=token)

    async def GetPolicy(  # noqa: N802
        self, request: service_pb.GetPolicyRequest, context: Context
    ) -> service_pb.GetPolicyResponse:
        """θ_k of a session."""
        caller = current_caller()
        _log_session(request.session_id)
        form = requested_form(request)
        index = request.round if request.HasField("round") else None
        policy, report = await self._run(
            get_policy, self._store, self._catalog, caller.tenant, request.session_id, index
        )
        if not form.is_default:
            async with self._processors.place(caller.tenant):
                policy = await self._on_thread(in_form, policy, form)
        audit.record("fetched", caller, session_id=request.session_id, policy_id=policy.policy_id)
        return service_pb.GetPolicyResponse(policy=policy, report=report)

    async def CloseSession(  # noqa: N802
        self, request: service_pb.CloseSessionRequest, context: Context
    ) -> service_pb.CloseSessionResponse:
        """Ends a session."""
        caller = current_caller()
        _log_session(request.session_id)
        session, batch = await self._write(sessions.close_session, self._store, caller.tenant, request.session_id)
        audit.record("closed", caller, **_audited(session))
        return service_pb.CloseSessionResponse(session=self._session(session, batch))

    def _session(
        self, session: SessionRecord, batch: UploadedBatch, *, expired: bool | None = None
    ) -> service_pb.Session:
        described = self._catalog.describe(session.meta_policy, session.meta_policy_version)
        if expired is None:
            expired = session.expire_time <= self._store.now()
        return convert.session_message(session, batch, described, expired=expired)

    async def _run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what blocks on a thread, when it is its tenant's turn."""
        async with self._reading.place(current_caller().tenant):
            return await self._on_thread(function, *args, **kwargs)

    async def _write(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `_run`, for what writes."""
        async with self._writing.place(current_caller().tenant):
            return await self._on_thread(function, *args, **kwargs)

    async def _on_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what blocks. A call whose client goes away ends when its thread has."""
        # What the thread logs and traces names the call.
        run = contextvars.copy_context().run
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: run(function, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


def _audited(session: SessionRecord) -> dict[str, str]:
    return {
        "session_id": session.session_id,
        "meta_policy": f"{session.meta_policy}@{session.meta_policy_version}",
        "policy_id": session.policy_id,
    }


def _log_session(session_id: str) -> None:
    """Names the session in everything that this call logs."""
    structlog.contextvars.bind_contextvars(session_id=session_id[: sessions.MAX_ID_LENGTH])
