"""The synchronous client."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration

from thetaprime.client._collect import collect
from thetaprime.client._errors import InvalidInputError, ThetaPrimeError
from thetaprime.client._policy import AdaptedPolicy
from thetaprime.client._session import Session, fetch_policy
from thetaprime.client._tracing import traced
from thetaprime.client._transport import Transport
from thetaprime.client._types import AdaptationReport, MetaPolicyInfo, Progress, SessionInfo
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_policy_pb

DEFAULT_ADDRESS: Final = "localhost:50051"
DEFAULT_TIMEOUT: Final = 60.0
"""Seconds until a call is given up."""


class Client:
    """A connection to a ThetaPrime server. Connects at the first call; safe to use from several threads.

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
        channel: grpc.Channel | None = None,
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
        self._stub = self._transport.adaptation

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._transport.address!r})"

    def close(self) -> None:
        """Closes the connection. Sessions stay as they are."""
        self._transport.close()

    def meta_policies(self) -> list[MetaPolicyInfo]:
        """Every meta-policy that the server can adapt, by name and version.

        Raises:
            ThetaPrimeError: the call failed.
        """
        response = self._transport.call(
            self._transport.meta_policies.ListMetaPolicies, meta_policy_pb.ListMetaPoliciesRequest()
        )
        return [MetaPolicyInfo.from_message(message) for message in response.meta_policies]

    def meta_policy(self, name: str, version: int = 0) -> MetaPolicyInfo:
        """One meta-policy.

        Args:
            name: its name, or ``name@version``.
            version: its version; 0 is the newest.

        Raises:
            NotFoundError: there is none.
        """
        return MetaPolicyInfo.from_message(self._get_meta_policy(name, version).meta_policy)

    def theta(self, name: str, version: int = 0) -> AdaptedPolicy:
        """θ of a meta-policy: what its adaptations start from.

        Args:
            name: its name, or ``name@version``.
            version: its version; 0 is the newest.

        Raises:
            NotFoundError: there is none.
        """
        return AdaptedPolicy.from_message(self._get_meta_policy(name, version).policy)

    @traced("create_session")
    def create_session(
        self,
        meta_policy: str,
        version: int = 0,
        *,
        step_size_scale: float | None = None,
        ttl: float | None = None,
        request_id: str | None = None,
    ) -> Session:
        """Starts the adaptation of a meta-policy to one task.

        Args:
            meta_policy: its name, or ``name@version``.
            version: its version; 0 is the newest.
            step_size_scale: multiplies every inner step size; None is 1.
            ttl: seconds until the session expires; None is the server's default.
            request_id: names the request: sent again, it gives the same session. None draws one.

        Raises:
            NotFoundError: there is no such meta-policy.
            InvalidInputError: an option is out of range.
        """
        name, version = _name_and_version(meta_policy, version)
        response = self._transport.call(
            self._stub.CreateSession,
            pb.CreateSessionRequest(
                request_id=request_id or str(uuid.uuid4()),
                meta_policy=name,
                meta_policy_version=version,
                options=pb.SessionOptions(step_size_scale=step_size_scale),
                ttl=None if ttl is None else _duration(ttl),
            ),
        )
        info = SessionInfo.from_message(response.session)
        policy = AdaptedPolicy.from_message(response.policy)
        if info.round == 0:
            return Session(self._transport, info, policy)
        return self.resume(info.session_id)  # an old request, repeated: the session has moved on

    @traced("resume")
    def resume(self, session_id: str) -> Session:
        """Goes on with a session, wherever it was left.

        Raises:
            NotFoundError: there is none, or it has expired.
        """
        response = self._transport.call(self._stub.GetSession, pb.GetSessionRequest(session_id=session_id))
        info = SessionInfo.from_message(response.session)
        policy = fetch_policy(self._transport, session_id, info.round)
        reports = [AdaptationReport.from_message(report) for report in response.reports]
        return Session(self._transport, info, policy, reports)

    def sessions(self) -> Iterator[SessionInfo]:
        """Every session, newest first, fetched page by page.

        Raises:
            ThetaPrimeError: a call failed.
        """
        token = ""
        while True:
            response = self._transport.call(self._stub.ListSessions, pb.ListSessionsRequest(page_token=token))
            yield from map(SessionInfo.from_message, response.sessions)
            token = response.next_page_token
            if not token:
                return

    @traced("adapt")
    def adapt(
        self,
        meta_policy: str,
        env: Any,
        rounds: int = 3,
        trajectories: int | None = None,
        *,
        step_size_scale: float | None = None,
        seed: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AdaptedPolicy:
        """Adapts a meta-policy to a task: collect, upload, step, `rounds` times.

        Args:
            meta_policy: its name, or ``name@version``.
            env: the task, a Gymnasium `Env` or `VectorEnv`. It is reset, and not closed.
            rounds: how many steps to take.
            trajectories: episodes for each step; None is as many as the meta-policy was trained with.
            step_size_scale: multiplies every inner step size; None is 1.
            seed: seed of the environment and of the actions; None leaves both to chance.
            progress: called after each episode and each step. Its `session_id` resumes the work should this
                process die.

        Returns:
            θ′. The session is closed; a failure leaves it open, to be resumed.

        Raises:
            InvalidInputError: the environment does not fit the meta-policy.
            ThetaPrimeError: a call failed.
        """
        if rounds < 1:
            raise InvalidInputError.at("rounds", f"{rounds}; expected at least 1")
        session = self.create_session(meta_policy, step_size_scale=step_size_scale)
        wanted = session.meta_policy.trajectories_per_round if trajectories is None else trajectories
        seeds: list[int] | list[None] = [None] * rounds
        if seed is not None:
            seeds = [int(state) for state in np.random.SeedSequence(seed).generate_state(rounds)]
        for round_index, round_seed in enumerate(seeds):

            def tell(collected: int, report: AdaptationReport | None = None, round_index: int = round_index) -> None:
                if progress is not None:
                    progress(Progress(session.id, round_index, rounds, collected, wanted, report))

            session.upload(collect(session.policy, env, wanted, seed=round_seed, progress=tell))
            session.adapt()
            tell(wanted, session.report)
        with contextlib.suppress(ThetaPrimeError):  # θ′ is here; an open session expires by itself
            session.close()
        return session.policy

    def _get_meta_policy(self, name: str, version: int) -> meta_policy_pb.GetMetaPolicyResponse:
        name, version = _name_and_version(name, version)
        return self._transport.call(
            self._transport.meta_policies.GetMetaPolicy,
            meta_policy_pb.GetMetaPolicyRequest(name=name, version=version),
        )


def _name_and_version(name: str, version: int) -> tuple[str, int]:
    """``name@version``, or the two apart."""
    bare, separator, digits = name.partition("@")
    if not separator:
        return name, version
    if not digits.isdigit() or version not in (0, int(digits)):
        raise InvalidInputError.at("meta_policy", f"{name!r} with version={version}; expected 'name' or 'name@3'")
    return bare, int(digits)


def _duration(seconds: float) -> Duration:
    try:
        duration = Duration()
        duration.FromNanoseconds(round(seconds * 1e9))
    except (ValueError, OverflowError) as error:
        raise InvalidInputError.at("ttl", f"{seconds!r}; expected seconds") from error
    return duration
