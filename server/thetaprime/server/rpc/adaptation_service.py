"""The AdaptationService: sessions, uploads, steps."""

import asyncio
import contextvars
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import grpc
import structlog

from thetaprime.server.adaptation.commit import AdaptCall, AdaptOutcome, look_up
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.adaptation.explain import explain_round
from thetaprime.server.adaptation.precompute import is_precomputed
from thetaprime.server.adaptation.verdicts import audited_verdict
from thetaprime.server.auth import Authenticator, audit, current_caller
from thetaprime.server.catalog.catalog import Catalog, require_readable
from thetaprime.server.config import ServerConfig
from thetaprime.server.rpc.profiles import in_form, requested_form
from thetaprime.server.rpc.upload_stream import PayloadAssembly, receive_header, receive_payload
from thetaprime.server.scheduling.fair_slots import FairThreads
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.server.sessions import sessions
from thetaprime.server.sessions.discard import discard_uploads
from thetaprime.server.sessions.policies import get_policy
from thetaprime.server.sessions.rows import MAX_ID_LENGTH, SessionRecord, UploadedBatch
from thetaprime.server.sessions.uploads import AdmittedUpload, NewUpload, accept_upload, admit_upload
from thetaprime.server.store import Store
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import adaptation_service_pb2_grpc as service_grpc
from thetaprime.v1 import policy_pb2

P = ParamSpec("P")
R = TypeVar("R")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Messages: TypeAlias = AsyncIterator[service_pb.UploadTrajectoriesRequest]


class AdaptationServicer(service_grpc.AdaptationServiceServicer):
    """Serves sessions, their uploads and their steps.

    Args:
        config: the limits.
        store: the durable state.
        catalog: the meta-policies.
        engine: takes the steps.
        transactions: threads for work that reads the store.
        writers: threads for work that waits to write to the store.
        processors: threads for work that computes.
        authenticator: the tenants' quotas.
        memory: the bytes of uploads in progress.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        catalog: Catalog,
        engine: AdaptationEngine,
        transactions: FairThreads,
        writers: FairThreads,
        processors: FairThreads,
        authenticator: Authenticator,
        memory: MemoryBudget,
    ) -> None:
        self._config = config
        self._store = store
        self._catalog = catalog
        self._engine = engine
        self._transactions = transactions
        self._processors = processors
        self._authenticator = authenticator
        self._memory = memory
        self._writers = writers

    async def CreateSession(  # noqa: N802
        self, request: service_pb.CreateSessionRequest, context: Context
    ) -> service_pb.CreateSessionResponse:
        """Creates a session, once for each request id."""
        caller = current_caller()
        options = request.options
        arguments = sessions.CreateArguments(
            meta_policy=request.meta_policy,
            meta_policy_version=request.meta_policy_version,
            step_size_scale=options.step_size_scale if options.HasField("step_size_scale") else None,
            ttl=request.ttl.ToMicroseconds() if request.HasField("ttl") else None,
            caution=options.caution,
            reward_scale=options.reward_scale if options.HasField("reward_scale") else None,
            reward_offset=options.reward_offset if options.HasField("reward_offset") else None,
            max_kl=options.max_kl if options.HasField("max_kl") else None,
            onnx_contract=request.onnx_contract,
        )
        session, batch, theta = await self._write(
            sessions.create_session,
            self._store,
            self._catalog,
            self._config,
            self._authenticator.quotas_of(caller.tenant),
            caller.tenant,
            request.request_id,
            arguments,
        )
        _bind_session(session.session_id)
        audit.record("created", caller, **_audited(session))
        return service_pb.CreateSessionResponse(session=self._message(session, batch), policy=theta)

    async def UploadTrajectories(  # noqa: N802
        self, request_iterator: Messages, context: Context
    ) -> service_pb.UploadTrajectoriesResponse:
        """Receives, verifies and stores one upload, and begins the step of a round's first upload."""
        caller = current_caller()
        header = await receive_header(request_iterator, self._config.upload_idle)
        _bind_session(header.session_id)
        admitted = await self._transact(admit_upload, self._store, self._catalog, caller.tenant, header)
        assembly = PayloadAssembly(header.payload_bytes, self._config)
        async with self._memory.upload(caller, header.payload_bytes):
            payload, footer = await receive_payload(
                request_iterator, assembly, self._config.upload_idle, self._config.upload_seconds
            )
            async with self._processors.slots.slot(caller.tenant):
                acknowledgement = await self._accept(caller.tenant, admitted, payload, footer)
        audit.record("uploaded", caller, session_id=header.session_id, sha256=acknowledgement.sha256)
        return acknowledgement

    async def DiscardUploads(  # noqa: N802
        self, request: service_pb.DiscardUploadsRequest, context: Context
    ) -> service_pb.DiscardUploadsResponse:
        """Discards uploads of the current round."""
        caller = current_caller()
        _bind_session(request.session_id)
        session, batch = await self._write(
            discard_uploads,
            self._store,
            self._catalog,
            caller.tenant,
            request.session_id,
            request.round,
            list(request.upload_ids),
        )
        audit.record("discarded", caller, **_audited(session))
        return service_pb.DiscardUploadsResponse(session=self._message(session, batch))

    async def Adapt(  # noqa: N802
        self, request: service_pb.AdaptRequest, context: Context
    ) -> service_pb.AdaptResponse:
        """Takes one step, once for each round."""
        caller = current_caller()
        _bind_session(request.session_id)
        call = AdaptCall(caller.tenant, request.session_id, request.expected_round, request.batch_sha256)
        await self._engine.finish_precomputing(caller.tenant, request.session_id)
        # A repeated or refused call needs no thread of the engine. A precomputed step needs no look-up: its commit
        # compares the round.
        found: AdaptOutcome | None = None
        if not is_precomputed(self._store, caller.tenant, request.session_id, request.expected_round):
            looked_up = await self._transact(look_up, self._store, call)
            if isinstance(looked_up, AdaptOutcome):
                found = looked_up
            else:
                call = dataclasses.replace(call, pending=looked_up)
        outcome = found or await self._engine.adapt(call)
        audit.record("adapted", caller, **_audited(outcome.session), **audited_verdict(outcome.report.verdict))
        # The session right after the step, also in the reply to a repeated call.
        session = outcome.session.message(UploadedBatch(), self._description(outcome.session))
        return service_pb.AdaptResponse(session=session, policy=outcome.policy, report=outcome.report)

    async def GetSession(  # noqa: N802
        self, request: service_pb.GetSessionRequest, context: Context
    ) -> service_pb.GetSessionResponse:
        """Returns a session and the report of each of its rounds."""
        _bind_session(request.session_id)
        session, batch, reports = await self._transact(
            sessions.get_session, self._store, current_caller().tenant, request.session_id
        )
        return service_pb.GetSessionResponse(session=self._message(session, batch), reports=reports)

    async def ListSessions(  # noqa: N802
        self, request: service_pb.ListSessionsRequest, context: Context
    ) -> service_pb.ListSessionsResponse:
        """Lists one page of sessions, newest first."""
        return await self._transact(self._list_sessions, current_caller().tenant, request)

    async def GetPolicy(  # noqa: N802
        self, request: service_pb.GetPolicyRequest, context: Context
    ) -> service_pb.GetPolicyResponse:
        """Returns θ_k of a session."""
        caller = current_caller()
        _bind_session(request.session_id)
        form = requested_form(request)
        index = request.round if request.HasField("round") else None
        policy, report = await self._transact(
            get_policy, self._store, self._catalog, caller.tenant, request.session_id, index
        )
        require_readable(policy, request.onnx_contract)
        if not form.is_default:
            policy = await self._processors.run(caller.tenant, in_form, policy, form)
        audit.record("fetched", caller, session_id=request.session_id, policy_id=policy.policy_id)
        return service_pb.GetPolicyResponse(policy=policy, report=report)

    async def ExplainRound(  # noqa: N802
        self, request: service_pb.ExplainRoundRequest, context: Context
    ) -> service_pb.ExplainRoundResponse:
        """Explains the step of a round."""
        caller = current_caller()
        _bind_session(request.session_id)
        reply = await self._engine.explain(
            caller.tenant, explain_round, self._store, self._catalog, caller.tenant, request
        )
        audit.record("explained", caller, session_id=request.session_id)
        return reply

    async def CloseSession(  # noqa: N802
        self, request: service_pb.CloseSessionRequest, context: Context
    ) -> service_pb.CloseSessionResponse:
        """Closes a session."""
        caller = current_caller()
        _bind_session(request.session_id)
        session, batch = await self._write(sessions.close_session, self._store, caller.tenant, request.session_id)
        audit.record("closed", caller, **_audited(session))
        return service_pb.CloseSessionResponse(session=self._message(session, batch))

    async def _accept(
        self, tenant: str, admitted: AdmittedUpload, payload: bytes, footer: service_pb.UploadFooter
    ) -> service_pb.UploadTrajectoriesResponse:
        """Verifies and stores a received upload, for a caller that holds a slot of the processors.

        The step of a first upload begins while the upload is committed, in the same turn of the tenant: another turn
        would wait once more behind other tenants' work.
        """
        loop = asyncio.get_running_loop()
        # The step is a part of the call, for traces and logs, and not of the transaction that it runs beside.
        call = contextvars.copy_context()

        def begin_step(upload: NewUpload) -> None:
            if not admitted.header.only_measures:
                loop.call_soon_threadsafe(self._engine.precompute, upload, context=call)

        return await self._processors.run_in_held_slot(
            accept_upload,
            self._store,
            self._catalog,
            self._config,
            self._authenticator.quotas_of(tenant),
            admitted,
            payload,
            footer,
            on_counted=begin_step,
        )

    def _list_sessions(self, tenant: str, request: service_pb.ListSessionsRequest) -> service_pb.ListSessionsResponse:
        """Returns a page of a tenant's sessions. On the event loop, its messages would delay every call by 10 ms."""
        page, batches, token = sessions.list_sessions(self._store, tenant, request.page_size, request.page_token)
        messages = [self._message(session, batches[session.session_id]) for session in page]
        return service_pb.ListSessionsResponse(sessions=messages, next_page_token=token)

    def _message(self, session: SessionRecord, batch: UploadedBatch) -> service_pb.Session:
        expired = session.expire_time <= self._store.now()
        return session.message(batch, self._description(session), expired=expired)

    def _description(self, session: SessionRecord) -> policy_pb2.MetaPolicy:
        return self._catalog.describe(session.meta_policy, session.meta_policy_version)

    async def _write(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._writers.run(current_caller().tenant, function, *args, **kwargs)

    async def _transact(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._transactions.run(current_caller().tenant, function, *args, **kwargs)


def _audited(session: SessionRecord) -> dict[str, str]:
    return {
        "session_id": session.session_id,
        "meta_policy": f"{session.meta_policy}@{session.meta_policy_version}",
        "policy_id": session.policy_id,
    }


def _bind_session(session_id: str) -> None:
    """Adds the session's id to everything that this call logs."""
    structlog.contextvars.bind_contextvars(session_id=session_id[:MAX_ID_LENGTH])
