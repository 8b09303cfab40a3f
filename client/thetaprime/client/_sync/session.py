# Generated from _async/session.py by `make sync-client`. Edit that one.
"""One adaptation of a meta-policy to one task, held by the server."""

import threading
from collections.abc import Sequence

from thetaprime import wire
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.policy_file import PolicyFile, RobotDescription
from thetaprime.client._progress import ProgressOption
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._rpc.upload import prepare_upload
from thetaprime.client._sync import runtime
from thetaprime.client._sync.rounds import Tasks, take_rounds
from thetaprime.client._sync.transport import Transport
from thetaprime.client._types import AdaptationReport, MetaPolicyInfo, SessionInfo, UploadedBatch, UploadReceipt
from thetaprime.v1 import adaptation_service_pb2 as pb


class Session:
    """One adaptation of a meta-policy to one task: collect with `policy`, `upload`, `adapt`, and again; or `run`.

    Made by `Client.create_session` and `Client.resume`. The state is the server's; this object holds what it
    last heard. Several threads, or several processes that resumed the same session, may upload to one round.
    """

    def __init__(
        self,
        transport: Transport,
        info: SessionInfo,
        policy: AdaptedPolicy,
        reports: Sequence[AdaptationReport] = (),
    ) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._batch: UploadedBatch | None = None
        self._set(info, policy, reports)

    @property
    def id(self) -> str:
        """What `Client.resume` takes."""
        return self._info.session_id

    @property
    def meta_policy(self) -> MetaPolicyInfo:
        """The meta-policy that is being adapted."""
        return self._info.meta_policy

    @property
    def info(self) -> SessionInfo:
        """The session as the server last described it."""
        return self._info

    @property
    def round(self) -> int:
        """Rounds taken so far: k when θ_k is the current policy."""
        return self._info.round

    @property
    def policy(self) -> AdaptedPolicy:
        """θ_k, the policy to collect this round's trajectories with."""
        return self._policy

    @property
    def batch(self) -> UploadedBatch:
        """What has been uploaded in this round, as the server last said."""
        return self._batch or self._info.batch

    @property
    def report(self) -> AdaptationReport | None:
        """What the last step saw and did; None before the first."""
        return self._reports[-1] if self._reports else None

    @property
    def reports(self) -> tuple[AdaptationReport, ...]:
        """One report for each step taken, in order."""
        return self._reports

    def __repr__(self) -> str:
        return f"Session({self.id!r}, {self.meta_policy.label}, round={self.round})"

    def run(
        self,
        env: Tasks,
        rounds: int = 3,
        trajectories: int | None = None,
        *,
        seed: int | None = None,
        progress: ProgressOption = None,
        timeout: float | None = None,
    ) -> AdaptedPolicy:
        """Collects, uploads and steps until `rounds` rounds have been taken, those of an earlier process included.

        What was uploaded in the current round before counts. The session stays open.

        Args:
            env: as `Client.adapt`'s.
            rounds: how many rounds the session is to have.
            trajectories: episodes for each step; None is as many as the meta-policy was trained with.
            seed: as `Client.adapt`'s.
            progress: as `Client.adapt`'s.
            timeout: seconds until all of it is given up; None is never.

        Returns:
            θ′, which is `policy`.

        Raises:
            InvalidInputError: an environment does not fit the meta-policy.
            CollectionError: an environment or a collector failed. What it had collected is uploaded.
            DeadlineError: `timeout` has passed.
            ThetaPrimeError: a call failed.
        """
        deadline = Deadline(timeout, f"session {self.id}")
        take_rounds(self, env, rounds, trajectories, seed=seed, progress=progress, deadline=deadline)
        return self.policy

    @runtime.traced("session.upload")
    def upload(
        self, trajectories: Sequence[wire.Trajectory], upload_id: str | None = None, *, timeout: float | None = None
    ) -> UploadReceipt:
        """Sends trajectories collected with `policy` to the current round.

        Once this returns they are stored and count. Sending the same ones again changes nothing.

        Args:
            trajectories: whole episodes.
            upload_id: names the upload; None makes a name of its content.
            timeout: seconds until the call is given up; None is the client's, which is never exceeded.

        Raises:
            InvalidInputError: a trajectory does not fit; `violations` names the step and field.
            PreconditionError: the server doubts that `policy` produced them; `reason` says why.
            StaleRoundError: the session has moved on to another round.
            ThetaPrimeError: the call failed.
        """
        messages = runtime.offload(
            prepare_upload, self.id, self.round, self.meta_policy.environment, trajectories, upload_id
        )
        response = self._transport.stream(self._transport.adaptation.UploadTrajectories, messages, timeout)
        receipt = UploadReceipt(response.upload_id, response.sha256, UploadedBatch.from_message(response.batch))
        with self._lock:
            # Of several uploads at once, the answer heard last need not be the one given last.
            if self._batch is None or receipt.batch.uploads >= self._batch.uploads:
                self._batch = receipt.batch
        return receipt

    @runtime.traced("session.adapt")
    def adapt(self, *, timeout: float | None = None) -> AdaptedPolicy:
        """Takes one step on what was uploaded in this round, and makes its policy the current one.

        What the step uses is the batch of the last upload's receipt; where this object has uploaded nothing,
        the batch that the server holds.

        Args:
            timeout: seconds until the call is given up; None is the client's, which is never exceeded.

        Returns:
            θ_{k+1}, which is `policy` from now on.

        Raises:
            PreconditionError: nothing was uploaded, the batch has grown (`refresh`), or the step would not be
                finite: the session stays at θ_k.
            StaleRoundError: the session has moved on to another round (`refresh`).
            ThetaPrimeError: the call failed; called again, it has the effect of one.
        """
        batch = self._batch or SessionInfo.from_message((self._get(timeout)).session).batch
        self._batch = batch
        request = pb.AdaptRequest(session_id=self.id, expected_round=self.round, batch_sha256=batch.sha256)
        response = self._transport.call(self._transport.adaptation.Adapt, request, timeout)
        info = SessionInfo.from_message(response.session)
        policy = runtime.offload(AdaptedPolicy.from_message, response.policy)
        self._set(info, policy, (*self._reports, AdaptationReport.from_message(response.report)))
        return policy

    def policy_at(self, round: int) -> AdaptedPolicy:  # noqa: A002 - the contract's word
        """θ_k of an earlier round (0 is θ), or of the current one.

        Raises:
            NotFoundError: there is no such round.
        """
        if round == self.round:
            return self.policy
        return fetch_policy(self._transport, self.id, round)

    def export(
        self,
        profile: str,
        *,
        round: int | None = None,  # noqa: A002 - the contract's word
        robot: RobotDescription | None = None,
        timeout: float | None = None,
    ) -> PolicyFile:
        """A policy of this session in the form that another engine reads.

        Args:
            profile: ``default``, ``epsilon``, ``unity-mlagents``, ``godot-rl`` or ``robot``, or what the server knows
                beside these.
            round: whose policy: k for θ_k; None is the current one.
            robot: the robot, for the profile ``robot``.
            timeout: seconds until the call is given up; None is the client's, which is never exceeded.

        Raises:
            InvalidInputError: there is no such profile, or it cannot express the policy; the message says why.
            NotFoundError: there is no such round.
            PolicyVerificationError: what came is not what it says it is.
            ThetaPrimeError: the call failed.
        """
        request = pb.GetPolicyRequest(
            session_id=self.id,
            round=self.round if round is None else round,
            profile=profile,
            robot=None if robot is None else robot.to_message(),
        )
        response = self._transport.call(self._transport.adaptation.GetPolicy, request, timeout)
        return runtime.offload(PolicyFile.from_message, response.policy, profile)

    def refresh(self) -> None:
        """Asks the server where the session is, and takes over its round, batch and policy."""
        message = self._get()
        info = SessionInfo.from_message(message.session)
        unchanged = info.round == self.round
        policy = self._policy if unchanged else fetch_policy(self._transport, self.id, info.round)
        self._set(info, policy, [AdaptationReport.from_message(report) for report in message.reports])
        self._batch = info.batch if info.batch.uploads else None

    @runtime.traced("session.close")
    def close(self) -> None:
        """Ends the session. Its policies stay readable until it expires."""
        response = self._transport.call(
            self._transport.adaptation.CloseSession, pb.CloseSessionRequest(session_id=self.id)
        )
        self._info = SessionInfo.from_message(response.session)

    def _get(self, timeout: float | None = None) -> pb.GetSessionResponse:
        request = pb.GetSessionRequest(session_id=self.id)
        return self._transport.call(self._transport.adaptation.GetSession, request, timeout)

    def _set(self, info: SessionInfo, policy: AdaptedPolicy, reports: Sequence[AdaptationReport]) -> None:
        self._info = info
        self._policy = policy
        self._reports = tuple(reports)
        self._batch = None


def fetch_policy(
    transport: Transport, session_id: str, round_index: int, timeout: float | None = None
) -> AdaptedPolicy:
    """θ_k of a session.

    Raises:
        NotFoundError: there is no such session or round.
        PolicyVerificationError: what came is not what it says it is.
    """
    request = pb.GetPolicyRequest(session_id=session_id, round=round_index)
    response = transport.call(transport.adaptation.GetPolicy, request, timeout)
    return runtime.offload(AdaptedPolicy.from_message, response.policy)
