# Generated from _async/client.py by `make sync-client`: edit that file.
"""The client of a ThetaPrime server."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from thetaprime.client._configuration import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Configuration
from thetaprime.client._errors import DeadlineError, InvalidInputError, PreconditionError, ThetaPrimeError
from thetaprime.client._policy.adaptation import Adaptation
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.contract import READS_CONTRACT
from thetaprime.client._policy.policy_file import PolicyFile, RobotDescription
from thetaprime.client._progress import ProgressOption
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._rpc.requests import check_options, duration, name_and_version, session_options
from thetaprime.client._sync import runtime
from thetaprime.client._sync.rounds import Tasks, check_tasks, hand_out, take_rounds
from thetaprime.client._sync.session import Session, fetch_policy
from thetaprime.client._sync.transport import Transport
from thetaprime.client._types import AdaptationReport, MetaPolicyInfo, SessionInfo
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_policy_pb


class Client:
    """A connection to a ThetaPrime server. Connects at the first call.

    The synchronous client is thread-safe; the client of `thetaprime.client.aio` belongs to one event loop.

    Args:
        address: the server's ``host:port``.
        timeout: the timeout of each call in seconds.
        credentials: credentials of a TLS connection, from `tls_credentials`; None connects in plain text.
        channel: an open channel to use instead of `address` and `credentials`. The client does not close it.
        token: token that identifies the tenant, if the server requires one.
        allow_plaintext: allow sending the token in plain text to another machine, readable by the network.
        tracing: record OpenTelemetry spans, and propagate the trace to the server.

    Raises:
        InvalidInputError: an argument is invalid, or the token would be sent in plain text.
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
        """Returns a client configured by environment variables and a configuration file.

        Arguments take precedence, then ``THETAPRIME_ADDRESS``, ``_TIMEOUT``, ``_TOKEN``, ``_TOKEN_FILE``,
        ``_TLS``, ``_TLS_AUTHORITY``, ``_TLS_CERTIFICATE``, ``_TLS_KEY`` and ``_ALLOW_PLAINTEXT``, then the file, then
        the defaults.

        Args:
            config: a TOML file with the same names in lower case (``address = "..."``). None uses
                ``THETAPRIME_CONFIG``, or ``thetaprime/client.toml`` in the user's configuration folder if it exists.
            tracing: as the constructor's.
            settings: settings by these names (``address="..."``); None leaves a setting unset.

        Raises:
            InvalidInputError: a setting is unknown or invalid, or a file cannot be read.
        """
        return cls(**Configuration.read(config, settings).arguments(), tracing=tracing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._transport.address!r})"

    @property
    def address(self) -> str:
        """The server's ``host:port``."""
        return self._transport.address

    def close(self) -> None:
        """Closes the connection. Sessions stay open."""
        self._transport.close()

    def meta_policies(self) -> list[MetaPolicyInfo]:
        """Lists the server's meta-policies, by name and version.

        Raises:
            ThetaPrimeError: the call failed.
        """
        response = self._transport.call(
            self._transport.meta_policies.ListMetaPolicies, meta_policy_pb.ListMetaPoliciesRequest()
        )
        return [MetaPolicyInfo.from_message(message) for message in response.meta_policies]

    def meta_policy(self, name: str, version: int = 0) -> MetaPolicyInfo:
        """Returns the description of a meta-policy.

        Args:
            name: name of the meta-policy, or ``name@version``.
            version: version of the meta-policy; 0 is the newest.

        Raises:
            NotFoundError: the meta-policy does not exist.
        """
        return MetaPolicyInfo.from_message((self._get_meta_policy(name, version)).meta_policy)

    def theta(self, name: str, version: int = 0) -> AdaptedPolicy:
        """Returns θ of a meta-policy, the start of every adaptation.

        Args:
            name: name of the meta-policy, or ``name@version``.
            version: version of the meta-policy; 0 is the newest.

        Raises:
            NotFoundError: the meta-policy does not exist.
        """
        return runtime.offload(AdaptedPolicy.from_message, (self._get_meta_policy(name, version)).policy)

    def export(self, name: str, profile: str, version: int = 0, *, robot: RobotDescription | None = None) -> PolicyFile:
        """Returns θ of a meta-policy in the profile of another engine; `Session.export` returns θ′.

        Args:
            name: name of the meta-policy, or ``name@version``.
            profile: as `Session.export`'s.
            version: version of the meta-policy; 0 is the newest.
            robot: the robot's description, for the profile ``robot``.

        Raises:
            NotFoundError: the meta-policy does not exist.
            InvalidInputError: the profile is unknown, or cannot express the policy.
        """
        response = self._get_meta_policy(name, version, profile, robot)
        return runtime.offload(PolicyFile.from_message, response.policy, profile)

    @runtime.traced("create_session")
    def create_session(
        self,
        meta_policy: str,
        version: int = 0,
        *,
        step_size_scale: float | None = None,
        caution: str | None = None,
        reward_scale: float | None = None,
        reward_offset: float | None = None,
        max_kl: float | None = None,
        ttl: float | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Creates a session: the adaptation of a meta-policy to one task.

        Args:
            meta_policy: name of the meta-policy, or ``name@version``.
            version: version of the meta-policy; 0 is the newest.
            step_size_scale: factor of every inner step size; None is 1.
            caution: ``hold`` (None is the same): a step that is predicted to hurt is shortened or held, and one that
                did hurt is rolled back. ``warn``: every step is taken, and its verdict says what ``hold`` would have
                done. ``off``: every step is taken.
            reward_scale: a, where the task's rewards are a·r + b and r has the units of meta-training
                (`EnvironmentContract.reward`); above 0. None: the rewards tell the scale as far as they can.
            reward_offset: b, likewise.
            max_kl: longest step, as mean KL divergence between two policies in nats; a longer one is shortened. None
                sets no limit.
            ttl: seconds until the session expires; None uses the server's default.
            request_id: idempotency key: equal ids return the same session. None draws a random id.
            timeout: the timeout of each call in seconds, at most the client's; None uses the client's.

        Raises:
            NotFoundError: the meta-policy does not exist.
            InvalidInputError: an option is out of range.
            PreconditionError: the server is too old for an option.
        """
        name, version = name_and_version(meta_policy, version)
        options = session_options(
            step_size_scale=step_size_scale,
            caution=caution,
            reward_scale=reward_scale,
            reward_offset=reward_offset,
            max_kl=max_kl,
        )
        response = self._transport.call(
            self._transport.adaptation.CreateSession,
            pb.CreateSessionRequest(
                request_id=request_id or str(uuid.uuid4()),
                meta_policy=name,
                meta_policy_version=version,
                options=options,
                ttl=None if ttl is None else duration(ttl),
                onnx_contract=READS_CONTRACT,
            ),
            timeout,
        )
        info = SessionInfo.from_message(response.session)
        policy = runtime.offload(AdaptedPolicy.from_message, response.policy)
        session = Session(self._transport, info, policy, caution=caution)
        try:
            check_options(options, response.session.options, self.address)
        except PreconditionError:
            with contextlib.suppress(ThetaPrimeError):  # the session is of no use
                session.close()
            raise
        if info.round == 0:
            return session
        return self.resume(info.session_id, timeout=timeout)  # a repeated request of a session with rounds

    @runtime.traced("resume")
    def resume(self, session_id: str, *, timeout: float | None = None) -> Session:
        """Returns an existing session: ``client.resume(session_id).run(env, rounds=3)`` continues it.

        Args:
            session_id: id of the session.
            timeout: the timeout of each call in seconds, at most the client's; None uses the client's.

        Raises:
            NotFoundError: the session does not exist, or has expired.
        """
        request = pb.GetSessionRequest(session_id=session_id)
        response = self._transport.call(self._transport.adaptation.GetSession, request, timeout)
        info = SessionInfo.from_message(response.session)
        policy = fetch_policy(self._transport, session_id, info.round, timeout)
        reports = [AdaptationReport.from_message(report) for report in response.reports]
        return Session(self._transport, info, policy, reports)

    def sessions(self) -> Iterator[SessionInfo]:
        """Iterates over all sessions, newest first, page by page.

        Raises:
            ThetaPrimeError: a call failed.
        """
        token = ""
        while True:
            response = self._transport.call(
                self._transport.adaptation.ListSessions, pb.ListSessionsRequest(page_token=token)
            )
            for message in response.sessions:
                yield SessionInfo.from_message(message)
            token = response.next_page_token
            if not token:
                return

    def describe_session(self, session_id: str) -> tuple[SessionInfo, tuple[AdaptationReport, ...]]:
        """Returns the description of a session and the report of each of its steps, without its policy.

        Raises:
            NotFoundError: the session does not exist, or was deleted.
        """
        response = self._transport.call(
            self._transport.adaptation.GetSession, pb.GetSessionRequest(session_id=session_id)
        )
        reports = tuple(AdaptationReport.from_message(report) for report in response.reports)
        return SessionInfo.from_message(response.session), reports

    def close_session(self, session_id: str) -> SessionInfo:
        """Closes a session, without fetching its policy. Its policies stay readable until `SessionInfo.delete_time`.

        Raises:
            NotFoundError: the session does not exist, or was deleted.
        """
        response = self._transport.call(
            self._transport.adaptation.CloseSession, pb.CloseSessionRequest(session_id=session_id)
        )
        return SessionInfo.from_message(response.session)

    @runtime.traced("adapt")
    def adapt(
        self,
        meta_policy: str,
        env: Tasks,
        rounds: int = 3,
        trajectories: int | None = None,
        *,
        verify: int | None = None,
        step_size_scale: float | None = None,
        caution: str | None = None,
        reward_scale: float | None = None,
        reward_offset: float | None = None,
        max_kl: float | None = None,
        seed: int | None = None,
        progress: ProgressOption = None,
        timeout: float | None = None,
    ) -> Adaptation:
        """Adapts a meta-policy to a task: collects, uploads and adapts, `rounds` times, and verifies the result.

        Args:
            meta_policy: name of the meta-policy, or ``name@version``.
            env: the task: a Gymnasium `Env` or `VectorEnv`, which is reset and stays open; or a callable that takes
                a policy and a number and returns that many trajectories (any `Iterable`; it is called again for
                missing ones); or a list of these, which share the episodes and collect concurrently.
            rounds: number of rounds.
            trajectories: episodes per round; None uses the number of meta-training.
            verify: episodes of the last policy, so that no policy is handed out unmeasured. None: a quarter of a round,
                at least 5. 0: none.
            step_size_scale: factor of every inner step size; None is 1.
            caution: ``hold`` (None is the same): a step that is predicted to hurt is shortened or held, and one that
                did hurt is rolled back. ``warn``: every step is taken, and its verdict says what ``hold`` would have
                done. ``off``: every step is taken.
            reward_scale: a, where the task's rewards are a·r + b and r has the units of meta-training
                (`EnvironmentContract.reward`); above 0. None: the rewards tell the scale as far as they can.
            reward_offset: b, likewise.
            max_kl: longest step, as mean KL divergence between two policies in nats; a longer one is shortened. None
                sets no limit.
            seed: seed of the environments and of the actions; None draws seeds from the system.
            progress: called after each episode and each step. Its `session_id` resumes the session after a crash.
                True shows bars, False shows none, None shows bars if stderr is a terminal.
            timeout: seconds for all rounds; None sets no deadline. Each call has the client's timeout.

        Returns:
            θ′, with the history of the session. With ``caution="hold"`` the best policy that was measured: the last
            one, or an earlier one if the last one had a lower return. The session is closed. A failure leaves the
            session open: the exception's `session_id`, Ctrl-C's included, is the id for `resume`.

        Raises:
            InvalidInputError: an environment does not match the meta-policy.
            CollectionError: an environment or a collector failed. Its complete episodes are uploaded.
            DeadlineError: `timeout` has passed.
            ThetaPrimeError: a call failed.
        """
        if rounds < 1:
            raise InvalidInputError.at("rounds", f"{rounds}; expected at least 1")
        deadline = Deadline(timeout, f"the adaptation of {meta_policy}")
        request_id = str(uuid.uuid4())
        try:
            session = self.create_session(
                meta_policy,
                step_size_scale=step_size_scale,
                caution=caution,
                reward_scale=reward_scale,
                reward_offset=reward_offset,
                max_kl=max_kl,
                request_id=request_id,
                timeout=deadline.remaining(),
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
            with contextlib.suppress(ThetaPrimeError):  # the session is of no use
                session.close()
            raise
        take_rounds(session, env, rounds, trajectories, verify=verify, seed=seed, progress=progress, deadline=deadline)
        adapted = hand_out(session, verify, deadline)
        with contextlib.suppress(ThetaPrimeError):  # θ′ is loaded, and an open session expires
            session.close()
        return adapted

    def _get_meta_policy(
        self, name: str, version: int, profile: str = "", robot: RobotDescription | None = None
    ) -> meta_policy_pb.GetMetaPolicyResponse:
        name, version = name_and_version(name, version)
        return self._transport.call(
            self._transport.meta_policies.GetMetaPolicy,
            meta_policy_pb.GetMetaPolicyRequest(
                name=name,
                version=version,
                profile=profile,
                robot=None if robot is None else robot.to_message(),
                onnx_contract=READS_CONTRACT,
            ),
        )
