"""The client."""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc

from thetaprime.client._async import runtime
from thetaprime.client._async.rounds import Tasks, check_tasks, take_rounds
from thetaprime.client._async.session import Session, fetch_policy
from thetaprime.client._async.transport import Transport
from thetaprime.client._configuration import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Configuration
from thetaprime.client._errors import DeadlineError, InvalidInputError, ThetaPrimeError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.policy_file import PolicyFile, RobotDescription
from thetaprime.client._progress import ProgressOption
from thetaprime.client._rpc.arguments import duration, name_and_version
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._types import AdaptationReport, MetaPolicyInfo, SessionInfo
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_policy_pb


class Client:
    """A connection to a ThetaPrime server. Connects at the first call.

    The synchronous one is safe to use from several threads; that of `thetaprime.client.aio` belongs to one event loop.

    Args:
        address: the server's, ``host:port``.
        timeout: seconds until a call is given up.
        credentials: of a TLS connection, as `tls_credentials` reads them; None connects in the clear.
        channel: brought from outside instead of `address` and `credentials`; it is not closed.
        token: says whose the calls are, where the server asks for one.
        allow_plaintext: send the token in the clear to another machine too, where anyone on the way can read it.
        tracing: record OpenTelemetry spans, and pass the trace on to the server.

    Raises:
        InvalidInputError: an argument does not fit, or the token would be sent in the clear.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel: runtime.Channel | None = None,
        token: str | None = None,
        allow_plaintext: bool = False,
        tracing: bool = False,
    ) -> None:
        self._transport = Transport(
            address,
            timeout=timeout,
            credentials=credentials,
            channel=channel,
            token=token,
            allow_plaintext=allow_plaintext,
            tracing=tracing,
        )

    @classmethod
    def from_environment(
        cls, config: str | os.PathLike[str] | None = None, *, tracing: bool = False, **settings: Any
    ) -> Self:
        """The client that environment variables and a configuration file describe.

        What is given here comes first, then ``THETAPRIME_ADDRESS``, ``_TIMEOUT``, ``_TOKEN``, ``_TOKEN_FILE``,
        ``_TLS``, ``_TLS_AUTHORITY``, ``_TLS_CERTIFICATE``, ``_TLS_KEY`` and ``_ALLOW_PLAINTEXT``, then the file, then
        the defaults.

        Args:
            config: a TOML file with the same names in small letters (``address = "..."``). None is
                ``THETAPRIME_CONFIG``, or ``thetaprime/client.toml`` in the user's configuration folder if it is there.
            tracing: as the constructor's.
            settings: settings by these names (``address="..."``); None is not given.

        Raises:
            InvalidInputError: a setting is unknown or does not fit, or a file cannot be read.
        """
        return cls(**Configuration.read(config, settings).arguments(), tracing=tracing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Client({self._transport.address!r})"

    @property
    def address(self) -> str:
        """The server's, ``host:port``."""
        return self._transport.address

    async def close(self) -> None:
        """Closes the connection. Sessions stay as they are."""
        await self._transport.close()

    async def meta_policies(self) -> list[MetaPolicyInfo]:
        """Every meta-policy that the server can adapt, by name and version.

        Raises:
            ThetaPrimeError: the call failed.
        """
        response = await self._transport.call(
            self._transport.meta_policies.ListMetaPolicies, meta_policy_pb.ListMetaPoliciesRequest()
        )
        return [MetaPolicyInfo.from_message(message) for message in response.meta_policies]

    async def meta_policy(self, name: str, version: int = 0) -> MetaPolicyInfo:
        """One meta-policy.

        Args:
            name: its name, or ``name@version``.
            version: its version; 0 is the newest.

        Raises:
            NotFoundError: there is none.
        """
        return MetaPolicyInfo.from_message((await self._get_meta_policy(name, version)).meta_policy)

    async def theta(self, name: str, version: int = 0) -> AdaptedPolicy:
        """θ of a meta-policy: what its adaptations start from.

        Args:
            name: its name, or ``name@version``.
            version: its version; 0 is the newest.

        Raises:
            NotFoundError: there is none.
        """
        return await runtime.offload(AdaptedPolicy.from_message, (await self._get_meta_policy(name, version)).policy)

    async def export(
        self, name: str, profile: str, version: int = 0, *, robot: RobotDescription | None = None
    ) -> PolicyFile:
        """θ of a meta-policy in the form that another engine reads; `Session.export` gives θ′ in it.

        Args:
            name: its name, or ``name@version``.
            profile: as `Session.export`'s.
            version: its version; 0 is the newest.
            robot: the robot, for the profile ``robot``.

        Raises:
            NotFoundError: there is no such meta-policy.
            InvalidInputError: there is no such profile, or it cannot express the policy; the message says why.
        """
        response = await self._get_meta_policy(name, version, profile, robot)
        return await runtime.offload(PolicyFile.from_message, response.policy, profile)

    @runtime.traced("create_session")
    async def create_session(
        self,
        meta_policy: str,
        version: int = 0,
        *,
        step_size_scale: float | None = None,
        ttl: float | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Starts the adaptation of a meta-policy to one task.

        Args:
            meta_policy: its name, or ``name@version``.
            version: its version; 0 is the newest.
            step_size_scale: multiplies every inner step size; None is 1.
            ttl: seconds until the session expires; None is the server's default.
            request_id: names the request: sent again, it gives the same session. None draws one.
            timeout: seconds until a call is given up; None is the client's, which is never exceeded.

        Raises:
            NotFoundError: there is no such meta-policy.
            InvalidInputError: an option is out of range.
        """
        name, version = name_and_version(meta_policy, version)
        response = await self._transport.call(
            self._transport.adaptation.CreateSession,
            pb.CreateSessionRequest(
                request_id=request_id or str(uuid.uuid4()),
                meta_policy=name,
                meta_policy_version=version,
                options=pb.SessionOptions(step_size_scale=step_size_scale),
                ttl=None if ttl is None else duration(ttl),
            ),
            timeout,
        )
        info = SessionInfo.from_message(response.session)
        policy = await runtime.offload(AdaptedPolicy.from_message, response.policy)
        if info.round == 0:
            return Session(self._transport, info, policy)
        return await self.resume(info.session_id, timeout=timeout)  # an old request, repeated: the session has moved on

    @runtime.traced("resume")
    async def resume(self, session_id: str, *, timeout: float | None = None) -> Session:
        """Goes on with a session, wherever it was left: ``client.resume(session_id).run(env, rounds=3)``.

        Args:
            session_id: the session's.
            timeout: seconds until a call is given up; None is the client's, which is never exceeded.

        Raises:
            NotFoundError: there is none, or it has expired.
        """
        request = pb.GetSessionRequest(session_id=session_id)
        response = await self._transport.call(self._transport.adaptation.GetSession, request, timeout)
        info = SessionInfo.from_message(response.session)
        policy = await fetch_policy(self._transport, session_id, info.round, timeout)
        reports = [AdaptationReport.from_message(report) for report in response.reports]
        return Session(self._transport, info, policy, reports)

    async def sessions(self) -> AsyncIterator[SessionInfo]:
        """Every session, newest first, fetched page by page.

        Raises:
            ThetaPrimeError: a call failed.
        """
        token = ""
        while True:
            response = await self._transport.call(
                self._transport.adaptation.ListSessions, pb.ListSessionsRequest(page_token=token)
            )
            for message in response.sessions:
                yield SessionInfo.from_message(message)
            token = response.next_page_token
            if not token:
                return

    @runtime.traced("adapt")
    async def adapt(
        self,
        meta_policy: str,
        env: Tasks,
        rounds: int = 3,
        trajectories: int | None = None,
        *,
        step_size_scale: float | None = None,
        seed: int | None = None,
        progress: ProgressOption = None,
        timeout: float | None = None,
    ) -> AdaptedPolicy:
        """Adapts a meta-policy to a task: collect, upload, step, `rounds` times.

        Args:
            meta_policy: its name, or ``name@version``.
            env: the task: a Gymnasium `Env` or `VectorEnv`, which is reset and not closed; or a callable that is
                given a policy and a number and returns that many trajectories (any `Iterable`; it is asked again for
                what is missing); or a list of those, which collect at the same time, each its part.
            rounds: how many steps to take.
            trajectories: episodes for each step; None is as many as the meta-policy was trained with.
            step_size_scale: multiplies every inner step size; None is 1.
            seed: seed of the environments and of the actions; None leaves both to chance.
            progress: called after each episode and each step. Its `session_id` resumes the work should this
                process die. None shows a bar where stderr is a terminal; True and False always and never do.
            timeout: seconds until all of it is given up; None is never. Single calls have the client's timeout.

        Returns:
            θ′. The session is closed. A failure leaves the session open: the exception's `session_id`, Ctrl-C's
            included, is the id for `resume`.

        Raises:
            InvalidInputError: an environment does not fit the meta-policy.
            CollectionError: an environment or a collector failed. What it had collected is uploaded.
            DeadlineError: `timeout` has passed.
            ThetaPrimeError: a call failed.
        """
        if rounds < 1:
            raise InvalidInputError.at("rounds", f"{rounds}; expected at least 1")
        deadline = Deadline(timeout, f"the adaptation of {meta_policy}")
        request_id = str(uuid.uuid4())
        try:
            session = await self.create_session(
                meta_policy, step_size_scale=step_size_scale, request_id=request_id, timeout=deadline.remaining()
            )
        except (KeyboardInterrupt, DeadlineError) as error:
            deadline.annotate(error)
            error.add_note(
                f"the server may have created a session: create_session({meta_policy!r}, request_id={request_id!r}) "
                "returns it"
            )
            raise
        try:
            check_tasks(env, session.policy.contract)
        except InvalidInputError:
            with contextlib.suppress(ThetaPrimeError):  # nothing can come of it
                await session.close()
            raise
        await take_rounds(session, env, rounds, trajectories, seed=seed, progress=progress, deadline=deadline)
        with contextlib.suppress(ThetaPrimeError):  # θ′ is here; an open session expires by itself
            await session.close()
        return session.policy

    async def _get_meta_policy(
        self, name: str, version: int, profile: str = "", robot: RobotDescription | None = None
    ) -> meta_policy_pb.GetMetaPolicyResponse:
        name, version = name_and_version(name, version)
        return await self._transport.call(
            self._transport.meta_policies.GetMetaPolicy,
            meta_policy_pb.GetMetaPolicyRequest(
                name=name, version=version, profile=profile, robot=None if robot is None else robot.to_message()
            ),
        )
