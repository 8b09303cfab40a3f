"""A reference model of the service: its promises to clients, without store, wire or policy parameters."""

import dataclasses
from typing import Final

from google.protobuf import duration_pb2
from grpc import StatusCode

from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

Answer = tuple[StatusCode, str]
"""A status and its reason (empty where the status has none)."""
OK: Final[Answer] = (StatusCode.OK, "")
NOT_FOUND: Final[Answer] = (StatusCode.NOT_FOUND, "")
CLOSED: Final[Answer] = (StatusCode.FAILED_PRECONDITION, "SESSION_CLOSED")
EXPIRED: Final[Answer] = (StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")
OTHER_ROUND: Final[Answer] = (StatusCode.ABORTED, "ROUND_MISMATCH")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of a session.

    Attributes:
        scale: factor on the step sizes, or None.
        seconds: seconds to expiry.
    """

    scale: float | None
    seconds: int

    def request(self, request_id: str, meta_policy: str) -> service_pb.CreateSessionRequest:
        """The request that creates the session."""
        return service_pb.CreateSessionRequest(
            request_id=request_id,
            meta_policy=meta_policy,
            options=service_pb.SessionOptions(step_size_scale=self.scale),
            ttl=duration_pb2.Duration(seconds=self.seconds),
        )


@dataclasses.dataclass(frozen=True)
class Upload:
    """One upload that may have been acknowledged.

    Attributes:
        round: its round.
        payload: its bytes.
        trajectories: number of its trajectories.
        steps: number of its environment steps.
        policy_id: policy id of the policy that collected it.
        count_again: whether it counts beside another one of its content.
    """

    round: int
    payload: bytes
    trajectories: int
    steps: int
    policy_id: str
    count_again: bool = False

    @property
    def sha256(self) -> str:
        return wire.sha256_hex(self.payload)

    def messages(self, session_id: str, upload_id: str) -> list[service_pb.UploadTrajectoriesRequest]:
        """The stream of messages of the upload."""
        counts = (self.trajectories, self.steps)
        return list(
            wire.iter_upload(
                session_id, upload_id, self.round, self.payload, *counts, self.sha256, count_again=self.count_again
            )
        )


@dataclasses.dataclass
class Session:
    """One session as its tenant sees it.

    Attributes:
        policy_ids: policy ids of θ_0 … θ_k.
        uploads: acknowledged uploads by id, in the order of their arrival.
        counting: ids of the uploads that count: not those of a known content, unless this is meant, or discarded.
        discarded: ids of the discarded uploads.
        acknowledgements: the reply to each upload, by id.
        steps: the reply to each round's `Adapt`.
        deleted: when its policies are deleted.
        swept: whether its uploads were deleted.
    """

    session_id: str
    tenant: str
    request_id: str
    arguments: Arguments
    created: int
    expires: int
    deleted: int
    policy_ids: list[str]
    closed: bool = False
    uploads: dict[str, Upload] = dataclasses.field(default_factory=dict)
    counting: set[str] = dataclasses.field(default_factory=set)
    discarded: set[str] = dataclasses.field(default_factory=set)
    acknowledgements: dict[str, service_pb.UploadTrajectoriesResponse] = dataclasses.field(default_factory=dict)
    steps: list[service_pb.AdaptResponse] = dataclasses.field(default_factory=list)
    swept: bool = False

    @property
    def round(self) -> int:
        return len(self.steps)

    @property
    def best_round(self) -> int:
        return self.steps[-1].report.verdict.best_round if self.steps else 0

    def message(self, meta_policy: policy_pb2.MetaPolicy, now: int) -> service_pb.Session:
        """The session as a message."""
        state = service_pb.SESSION_STATE_CLOSED if self.closed else service_pb.SESSION_STATE_OPEN
        if self.expires <= now:
            state = service_pb.SESSION_STATE_EXPIRED
        message = service_pb.Session(
            session_id=self.session_id,
            meta_policy=meta_policy,
            state=state,
            round=self.round,
            policy_id=self.policy_ids[-1],
            batch=service_pb.UploadedBatch() if self.swept else self.batch(),
            options=service_pb.SessionOptions(step_size_scale=self.arguments.scale),
            best_round=self.best_round,
            best_policy_id=self.policy_ids[self.best_round],
        )
        message.create_time.FromMicroseconds(self.created)
        message.expire_time.FromMicroseconds(self.expires)
        message.delete_time.FromMicroseconds(self.deleted)
        return message

    def batch(self, round_index: int | None = None) -> service_pb.UploadedBatch:
        """The acknowledged uploads of a round; of the current round by default."""
        index = self.round if round_index is None else round_index
        mine = [self.uploads[upload_id] for upload_id in self.counted(index)]
        return service_pb.UploadedBatch(
            uploads=len(mine),
            trajectories=sum(upload.trajectories for upload in mine),
            steps=sum(upload.steps for upload in mine),
            sha256=wire.batch_digest(upload.sha256 for upload in mine),
        )

    def counted(self, round_index: int) -> list[str]:
        """The ids of a round's uploads that count."""
        return [each for each, upload in self.uploads.items() if upload.round == round_index and each in self.counting]

    def accept(self, upload_id: str, upload: Upload) -> str:
        """Records a new upload, and returns the one that counts in its place; empty where the new one counts."""
        same = [each for each in self.counted(upload.round) if self.uploads[each].sha256 == upload.sha256]
        self.uploads[upload_id] = upload
        if same and not upload.count_again:
            return min(same)
        self.counting.add(upload_id)
        return ""

    def discard(self, upload_ids: list[str]) -> None:
        """Discards uploads of the current round; all of them without ids."""
        chosen = upload_ids or [each for each, upload in self.uploads.items() if upload.round == self.round]
        # An upload that never counted is acknowledged as before.
        self.discarded.update(self.counting.intersection(chosen))
        self.counting.difference_update(chosen)


class Model:
    """All sessions ever created.

    Args:
        now: microseconds since 1970.
        max_sessions: that a tenant may have open.
        max_round_uploads: in one round.
        keep: seconds for which policies are kept when their session has expired.
    """

    def __init__(self, now: int, max_sessions: int, max_round_uploads: int, keep: int) -> None:
        self.now = now
        self.sessions: dict[str, Session] = {}
        self._max_sessions, self._max_round_uploads, self._keep = max_sessions, max_round_uploads, keep

    def alive(self, tenant: str) -> list[Session]:
        """A tenant's sessions that have not expired, or whose policies are kept, newest first."""
        mine = [each for each in self.sessions.values() if each.tenant == tenant and self._is_readable(each)]
        return sorted(mine, key=lambda each: (each.created, each.session_id), reverse=True)

    def find(self, tenant: str, session_id: str) -> Session | None:
        """A session that a tenant may see."""
        return next((each for each in self.alive(tenant) if each.session_id == session_id), None)

    def same_request(self, tenant: str, request_id: str) -> Session | None:
        """The session that a request created before."""
        return next((each for each in self.alive(tenant) if each.request_id == request_id), None)

    def _is_readable(self, session: Session) -> bool:
        return session.expires > self.now or (bool(session.steps) and session.deleted > self.now)

    def sweep(self) -> None:
        """Deletes the uploads of expired sessions."""
        for session in self.sessions.values():
            session.swept |= session.expires <= self.now

    def remember(
        self, tenant: str, request_id: str, arguments: Arguments, created: service_pb.CreateSessionResponse
    ) -> Session:
        """Records a new session."""
        session = Session(
            session_id=created.session.session_id,
            tenant=tenant,
            request_id=request_id,
            arguments=arguments,
            created=self.now,
            expires=self.now + arguments.seconds * 1_000_000,
            deleted=self.now + (arguments.seconds + self._keep) * 1_000_000,
            policy_ids=[created.policy.policy_id],
        )
        assert session.session_id not in self.sessions
        self.sessions[session.session_id] = session
        return session

    def answer_create(self, tenant: str, request_id: str, arguments: Arguments) -> Answer:
        """A session is created once for each request of a tenant, while the session is readable."""
        known = self.same_request(tenant, request_id)
        if known is not None:
            return OK if known.arguments == arguments else (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        if sum(not each.closed and each.expires > self.now for each in self.alive(tenant)) >= self._max_sessions:
            return StatusCode.RESOURCE_EXHAUSTED, "TENANT_SESSIONS"
        return OK

    def answer_upload(self, tenant: str, session_id: str, upload_id: str, upload: Upload) -> Answer:
        """An upload counts once for its id, in the current round, with data of the current policy."""
        session = self.find(tenant, session_id)
        if session is None:
            return NOT_FOUND
        known = None if session.swept else session.uploads.get(upload_id)
        if known is not None:
            if (known.round, known.payload) != (upload.round, upload.payload):
                return StatusCode.ALREADY_EXISTS, "UPLOAD_ID_REUSED"
            return (StatusCode.FAILED_PRECONDITION, "UPLOAD_DISCARDED") if upload_id in session.discarded else OK
        if session.closed:
            return CLOSED
        if session.expires <= self.now:
            return EXPIRED
        if upload.round != session.round:
            return OTHER_ROUND
        if upload.policy_id != session.policy_ids[-1]:
            return StatusCode.FAILED_PRECONDITION, "STALE_POLICY"
        if sum(each.round == session.round for each in session.uploads.values()) >= self._max_round_uploads:
            return StatusCode.RESOURCE_EXHAUSTED, "ROUND_FULL"
        return OK

    def answer_discard(self, tenant: str, session_id: str, round_index: int, upload_ids: list[str]) -> Answer:
        """Uploads of the current round can be discarded, any number of times."""
        session = self.find(tenant, session_id)
        if session is None:
            return NOT_FOUND
        if session.closed:
            return CLOSED
        if session.expires <= self.now:
            return EXPIRED
        if round_index != session.round:
            return OTHER_ROUND
        known = {each for each, upload in session.uploads.items() if upload.round == session.round}
        return OK if known.issuperset(upload_ids) else NOT_FOUND

    def answer_adapt(self, tenant: str, session_id: str, round_index: int, sha256: str) -> Answer:
        """A step is taken once for each round, on the round's uploads."""
        session = self.find(tenant, session_id)
        if session is None:
            return NOT_FOUND
        if 0 <= round_index < session.round and sha256 == session.batch(round_index).sha256:
            return OK
        if round_index != session.round:
            return OTHER_ROUND
        if session.closed:
            return CLOSED
        if session.expires <= self.now:
            return EXPIRED
        if not session.batch().uploads:
            return StatusCode.FAILED_PRECONDITION, "EMPTY_BATCH"
        if sha256 != session.batch().sha256:
            return StatusCode.FAILED_PRECONDITION, "BATCH_CHANGED"
        return OK
