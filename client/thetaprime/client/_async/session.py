"""Sessions: the adaptation of a meta-policy to one task."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from thetaprime import wire
from thetaprime.client._async import runtime
from thetaprime.client._async.rounds import Tasks, hand_out, take_rounds
from thetaprime.client._async.transport import Transport
from thetaprime.client._errors import ThetaPrimeError
from thetaprime.client._explanation import RoundExplanation
from thetaprime.client._history import RoundResult
from thetaprime.client._policy.adaptation import Adaptation
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.contract import READS_CONTRACT
from thetaprime.client._policy.policy_file import PolicyFile, RobotDescription
from thetaprime.client._progress import ProgressOption
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._rpc.requests import prepare_upload
from thetaprime.client._types import (
    AdaptationReport,
    BestPolicy,
    MetaPolicyInfo,
    SessionInfo,
    UploadedBatch,
    UploadReceipt,
)
from thetaprime.v1 import adaptation_service_pb2 as pb

# More trajectories tell no more of a policy's return.
_MOST_MEASURED: Final = 256
# Key of the returns that were uploaded under unknown ids. It is no valid upload id.
_FETCHED: Final = ""


class Session:
    """The adaptation of a meta-policy to one task: collect with `policy`, `upload`, `adapt`, and repeat; or `run`.

    `Client.create_session` and `Client.resume` return sessions. The server holds the state; this object caches the
    server's last response. Several threads, or several processes with the same session, may upload to one round.
    """

    def __init__(
        self,
        transport: Transport,
        info: SessionInfo,
        policy: AdaptedPolicy,
        reports: Sequence[AdaptationReport] = (),
        caution: str | None = None,
    ) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._batch: UploadedBatch | None = None
        self._returns: dict[str, tuple[float, ...]] = {}
        self._caution = caution
        self._set(info, policy, reports)

    @property
    def id(self) -> str:
        """The session's id, for `Client.resume`."""
        return self._info.session_id

    @property
    def meta_policy(self) -> MetaPolicyInfo:
        """The meta-policy that the session adapts."""
        return self._info.meta_policy

    @property
    def info(self) -> SessionInfo:
        """The session, as of the server's last response."""
        return self._info

    @property
    def round(self) -> int:
        """Number of rounds taken: k while θ_k is the current policy."""
        return self._info.round

    @property
    def policy(self) -> AdaptedPolicy:
        """θ_k, the behavior policy of this round."""
        return self._policy

    @property
    def batch(self) -> UploadedBatch:
        """The uploads of this round, as of the server's last response."""
        return self._batch or self._info.batch

    @property
    def report(self) -> AdaptationReport | None:
        """The report of the last step; None before the first step."""
        return self._reports[-1] if self._reports else None

    @property
    def reports(self) -> tuple[AdaptationReport, ...]:
        """The reports of all steps, in order."""
        return self._reports

    @property
    def caution(self) -> str:
        """``off``, ``warn`` or ``hold``, as `Client.create_session` takes it."""
        return self._info.caution or self._caution or "hold"

    @property
    def best(self) -> BestPolicy | None:
        """The best verified policy, as of the server's last response; None from an old server."""
        return self._info.best

    @property
    def history(self) -> tuple[RoundResult, ...]:
        """θ and every θ′ that was measured, in order: their returns, and the verdict on the step from each.

        The current policy is among them once this object has uploaded trajectories of it.
        """
        measured = [RoundResult.of_report(report) for report in self._reports]
        if self.returns:
            measured.append(RoundResult.of_returns(self.round, self.returns))
        return tuple(measured)

    @property
    def returns(self) -> tuple[float, ...]:
        """Undiscounted return of each trajectory that this object has uploaded to this round."""
        with self._lock:
            return tuple(value for returns in self._returns.values() for value in returns)

    def __repr__(self) -> str:
        return f"Session({self.id!r}, {self.meta_policy.label}, round={self.round})"

    async def run(
        self,
        env: Tasks,
        rounds: int = 3,
        trajectories: int | None = None,
        *,
        verify: int | None = None,
        seed: int | None = None,
        progress: ProgressOption = None,
        timeout: float | None = None,
    ) -> Adaptation:
        """Collects, uploads and adapts until the session has taken `rounds` rounds, and verifies the last policy.

        Earlier rounds count, and so do the trajectories that the current round has already. The session stays open,
        and another run continues with the episodes of the verification.

        Args:
            env: as `Client.adapt`'s.
            rounds: total number of rounds.
            trajectories: episodes per round; None uses the number of meta-training.
            verify: as `Client.adapt`'s.
            seed: as `Client.adapt`'s.
            progress: as `Client.adapt`'s.
            timeout: seconds for all rounds; None sets no deadline.

        Returns:
            θ′, as `Client.adapt`: the session's `policy`, or the best one before it.

        Raises:
            InvalidInputError: an environment does not match the meta-policy.
            CollectionError: an environment or a collector failed. Its complete episodes are uploaded.
            DeadlineError: `timeout` has passed.
            ThetaPrimeError: a call failed.
        """
        deadline = Deadline(timeout, f"session {self.id}")
        await take_rounds(
            self, env, rounds, trajectories, verify=verify, seed=seed, progress=progress, deadline=deadline
        )
        return await hand_out(self, verify, deadline)

    @runtime.traced("session.upload")
    async def upload(
        self,
        trajectories: Sequence[wire.Trajectory],
        upload_id: str | None = None,
        *,
        count_again: bool = False,
        only_measures: bool = False,
        timeout: float | None = None,
    ) -> UploadReceipt:
        """Uploads trajectories of `policy` to the current round.

        When `upload` returns, the trajectories are durable and count. Repeating an upload changes nothing.

        Args:
            trajectories: whole episodes.
            upload_id: names the upload; None derives the name from the content.
            count_again: whether the same content, or the same noise, counts again under another `upload_id`. Otherwise
                the receipt's `counted_as` names the upload that counts, or the upload is refused as `REPEATED_NOISE`.
            only_measures: whether the trajectories are to measure `policy`, and no step is planned on them. They count
                as any others; the server only computes no step before `adapt` asks for it.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Raises:
            InvalidInputError: a trajectory is invalid; `violations` names the step and field.
            PreconditionError: the trajectories, or all of the round, do not match `policy`; `reason` says why. If it is
                `ROUND_DOUBTED`, `discard` the uploads that the message names.
            StaleRoundError: the session is in another round.
            ThetaPrimeError: the call failed.
        """
        prepare = functools.partial(prepare_upload, count_again=count_again, only_measures=only_measures)
        messages = await runtime.offload(
            prepare, self.id, self.round, self.meta_policy.environment, trajectories, upload_id
        )
        response = await self._transport.stream(self._transport.adaptation.UploadTrajectories, messages, timeout)
        batch = UploadedBatch.from_message(response.batch)
        receipt = UploadReceipt(response.upload_id, response.sha256, batch, response.counted_as or None)
        with self._lock:
            if receipt.counted_as is None:
                self._returns[receipt.upload_id] = tuple(float(np.sum(each.rewards)) for each in trajectories)
            # Responses of concurrent uploads may arrive out of order.
            if self._batch is None or receipt.batch.uploads >= self._batch.uploads:
                self._batch = receipt.batch
        return receipt

    @runtime.traced("session.discard")
    async def discard(self, *upload_ids: str, timeout: float | None = None) -> SessionInfo:
        """Discards uploads of this round, so that no step uses them.

        A round whose uploads are implausible together (`SessionInfo.doubt`) takes uploads and steps again once the
        other uploads are plausible.

        Args:
            upload_ids: ids of the uploads; none for all uploads of the round. They cannot be used again.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Returns:
            The session with the uploads that are left.

        Raises:
            NotFoundError: the round has no such upload; nothing is discarded.
            StaleRoundError: the session is in another round.
            ThetaPrimeError: the call failed. It is safe to repeat.
        """
        request = pb.DiscardUploadsRequest(session_id=self.id, round=self.round, upload_ids=upload_ids)
        response = await self._transport.call(self._transport.adaptation.DiscardUploads, request, timeout)
        with self._lock:
            self._info = SessionInfo.from_message(response.session)
            self._batch = self._info.batch if self._info.batch.uploads else None
            for upload_id in (*upload_ids, _FETCHED) if upload_ids else tuple(self._returns):
                self._returns.pop(upload_id, None)
        return self._info

    @runtime.traced("session.adapt")
    async def adapt(self, *, timeout: float | None = None) -> AdaptedPolicy:
        """Takes one step on the uploads of this round; the result becomes `policy`.

        The step uses the batch of the last upload's receipt, or the server's batch if this object has uploaded
        nothing.

        Args:
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Returns:
            θ_{k+1}, the new `policy`.

        Raises:
            PreconditionError: the round has no uploads, the batch has grown (`refresh`), or the step is not finite.
                The session stays at θ_k.
            StaleRoundError: the session is in another round (`refresh`).
            ThetaPrimeError: the call failed. It is safe to repeat.
        """
        batch = self._batch or SessionInfo.from_message((await self._get(timeout)).session).batch
        self._batch = batch
        request = pb.AdaptRequest(session_id=self.id, expected_round=self.round, batch_sha256=batch.sha256)
        response = await self._transport.call(self._transport.adaptation.Adapt, request, timeout)
        info = SessionInfo.from_message(response.session)
        policy = await runtime.offload(AdaptedPolicy.from_message, response.policy)
        self._set(info, policy, (*self._reports, AdaptationReport.from_message(response.report)))
        return policy

    async def policy_at(self, round: int, *, timeout: float | None = None) -> AdaptedPolicy:  # noqa: A002 - the term of the wire contract
        """Returns θ_k of round k; round 0 is θ.

        Args:
            round: k.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Raises:
            NotFoundError: the session has no such round.
        """
        if round == self.round:
            return self.policy
        return await fetch_policy(self._transport, self.id, round, timeout)

    async def export(
        self,
        profile: str,
        *,
        round: int | None = None,  # noqa: A002 - the term of the wire contract
        robot: RobotDescription | None = None,
        timeout: float | None = None,
    ) -> PolicyFile:
        """Returns a policy of this session in the profile of another engine.

        Args:
            profile: ``default``, ``epsilon``, ``unity-mlagents``, ``godot-rl``, ``robot``, or another profile of the
                server.
            round: k for θ_k; None for the current policy.
            robot: the robot's description, for the profile ``robot``.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Raises:
            InvalidInputError: the profile is unknown, or cannot express the policy.
            NotFoundError: the session has no such round.
            PolicyVerificationError: the file fails its verification.
            ThetaPrimeError: the call failed.
        """
        request = pb.GetPolicyRequest(
            session_id=self.id,
            round=self.round if round is None else round,
            profile=profile,
            robot=None if robot is None else robot.to_message(),
            onnx_contract=READS_CONTRACT,
        )
        response = await self._transport.call(self._transport.adaptation.GetPolicy, request, timeout)
        return await runtime.offload(PolicyFile.from_message, response.policy, profile)

    @runtime.traced("session.explain")
    async def explain(
        self,
        round: int | None = None,  # noqa: A002 - the term of the wire contract
        *,
        trajectories: int = 0,
        dimensions: int = 0,
        timeout: float | None = None,
    ) -> RoundExplanation:
        """Returns how much each time step of a round's uploads pushed the policy.

        The server computes the step again, and keeps the uploads until the session expires.

        Args:
            round: k, for the step from θ_k; None for the last step. The current round shows uploads that no step was
                taken from.
            trajectories: number of trajectories to return, those with the largest shares first; 0 for 64.
            dimensions: numbers of each observation to return, from its first on; 0 for 2.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Raises:
            NotFoundError: the session has not come to the round.
            PreconditionError: `NO_UPLOADS`: the session has expired, or nothing was uploaded to the round.
            InvalidInputError: a number is out of range.
            LimitError: too many steps at once.
            ThetaPrimeError: the call failed.
        """
        request = pb.ExplainRoundRequest(
            session_id=self.id, round=round, max_trajectories=trajectories, max_dimensions=dimensions
        )
        response = await self._transport.call(self._transport.adaptation.ExplainRound, request, timeout)
        return await runtime.offload(RoundExplanation.from_message, response)

    async def measure(self, *, timeout: float | None = None) -> None:
        """Fetches the returns of this round's trajectories that other processes have uploaded, for `history`.

        Without effect on a server that cannot tell them.

        Args:
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.
        """
        if self.batch.trajectories <= len(self.returns):
            return
        with contextlib.suppress(ThetaPrimeError):
            found = await self.explain(self.round, trajectories=_MOST_MEASURED, dimensions=1, timeout=timeout)
            with self._lock:
                self._returns = {_FETCHED: tuple(each.undiscounted_return for each in found.trajectories)}

    async def refresh(self) -> None:
        """Fetches the session's round, batch, policy and reports from the server."""
        message = await self._get()
        info = SessionInfo.from_message(message.session)
        unchanged = info.round == self.round
        policy = self._policy if unchanged else await fetch_policy(self._transport, self.id, info.round)
        returns = self._returns if unchanged else {}
        self._set(info, policy, [AdaptationReport.from_message(report) for report in message.reports])
        self._returns = returns
        self._batch = info.batch if info.batch.uploads else None

    @runtime.traced("session.close")
    async def close(self) -> None:
        """Closes the session. Its policies stay readable until it expires."""
        response = await self._transport.call(
            self._transport.adaptation.CloseSession, pb.CloseSessionRequest(session_id=self.id)
        )
        self._info = SessionInfo.from_message(response.session)

    async def _get(self, timeout: float | None = None) -> pb.GetSessionResponse:
        request = pb.GetSessionRequest(session_id=self.id)
        return await self._transport.call(self._transport.adaptation.GetSession, request, timeout)

    def _set(self, info: SessionInfo, policy: AdaptedPolicy, reports: Sequence[AdaptationReport]) -> None:
        self._info = info
        self._policy = policy
        self._reports = tuple(reports)
        self._batch = None
        self._returns = {}


async def fetch_policy(
    transport: Transport, session_id: str, round_index: int, timeout: float | None = None
) -> AdaptedPolicy:
    """Returns θ_k of a session.

    Raises:
        NotFoundError: the session or the round does not exist.
        PolicyVerificationError: the file fails its verification.
    """
    request = pb.GetPolicyRequest(session_id=session_id, round=round_index, onnx_contract=READS_CONTRACT)
    response = await transport.call(transport.adaptation.GetPolicy, request, timeout)
    return await runtime.offload(AdaptedPolicy.from_message, response.policy)
