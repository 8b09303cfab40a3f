import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from thetaprime.v1 import policy_pb2 as _policy_pb2
from thetaprime.v1 import trajectory_pb2 as _trajectory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_OPEN: _ClassVar[SessionState]
    SESSION_STATE_CLOSED: _ClassVar[SessionState]
    SESSION_STATE_EXPIRED: _ClassVar[SessionState]

class Caution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAUTION_UNSPECIFIED: _ClassVar[Caution]
    CAUTION_OFF: _ClassVar[Caution]
    CAUTION_WARN: _ClassVar[Caution]
    CAUTION_HOLD: _ClassVar[Caution]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_TAKEN: _ClassVar[Decision]
    DECISION_SHORTENED: _ClassVar[Decision]
    DECISION_HELD: _ClassVar[Decision]
    DECISION_ROLLED_BACK: _ClassVar[Decision]

class ReasonCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_CODE_UNSPECIFIED: _ClassVar[ReasonCode]
    REASON_CODE_NO_SIGNAL: _ClassVar[ReasonCode]
    REASON_CODE_TOO_FEW_EPISODES: _ClassVar[ReasonCode]
    REASON_CODE_UNFAMILIAR_TASK: _ClassVar[ReasonCode]
    REASON_CODE_REWARD_UNITS: _ClassVar[ReasonCode]
    REASON_CODE_PREDICTED_HARM: _ClassVar[ReasonCode]
    REASON_CODE_REALIZED_HARM: _ClassVar[ReasonCode]
    REASON_CODE_KL_LIMIT: _ClassVar[ReasonCode]
    REASON_CODE_CONTRADICTORY_EPISODES: _ClassVar[ReasonCode]
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_OPEN: SessionState
SESSION_STATE_CLOSED: SessionState
SESSION_STATE_EXPIRED: SessionState
CAUTION_UNSPECIFIED: Caution
CAUTION_OFF: Caution
CAUTION_WARN: Caution
CAUTION_HOLD: Caution
DECISION_UNSPECIFIED: Decision
DECISION_TAKEN: Decision
DECISION_SHORTENED: Decision
DECISION_HELD: Decision
DECISION_ROLLED_BACK: Decision
REASON_CODE_UNSPECIFIED: ReasonCode
REASON_CODE_NO_SIGNAL: ReasonCode
REASON_CODE_TOO_FEW_EPISODES: ReasonCode
REASON_CODE_UNFAMILIAR_TASK: ReasonCode
REASON_CODE_REWARD_UNITS: ReasonCode
REASON_CODE_PREDICTED_HARM: ReasonCode
REASON_CODE_REALIZED_HARM: ReasonCode
REASON_CODE_KL_LIMIT: ReasonCode
REASON_CODE_CONTRADICTORY_EPISODES: ReasonCode

class UploadedBatch(_message.Message):
    __slots__ = ("uploads", "trajectories", "steps", "sha256")
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    uploads: int
    trajectories: int
    steps: int
    sha256: str
    def __init__(self, uploads: _Optional[int] = ..., trajectories: _Optional[int] = ..., steps: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session_id", "meta_policy", "state", "round", "policy_id", "batch", "options", "create_time", "expire_time", "delete_time", "doubt", "best_round", "best_policy_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    META_POLICY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    DOUBT_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    BEST_POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    meta_policy: _policy_pb2.MetaPolicy
    state: SessionState
    round: int
    policy_id: str
    batch: UploadedBatch
    options: SessionOptions
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    doubt: str
    best_round: int
    best_policy_id: str
    def __init__(self, session_id: _Optional[str] = ..., meta_policy: _Optional[_Union[_policy_pb2.MetaPolicy, _Mapping]] = ..., state: _Optional[_Union[SessionState, str]] = ..., round: _Optional[int] = ..., policy_id: _Optional[str] = ..., batch: _Optional[_Union[UploadedBatch, _Mapping]] = ..., options: _Optional[_Union[SessionOptions, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., doubt: _Optional[str] = ..., best_round: _Optional[int] = ..., best_policy_id: _Optional[str] = ...) -> None: ...

class SessionOptions(_message.Message):
    __slots__ = ("step_size_scale", "caution", "reward_scale", "reward_offset", "max_kl")
    STEP_SIZE_SCALE_FIELD_NUMBER: _ClassVar[int]
    CAUTION_FIELD_NUMBER: _ClassVar[int]
    REWARD_SCALE_FIELD_NUMBER: _ClassVar[int]
    REWARD_OFFSET_FIELD_NUMBER: _ClassVar[int]
    MAX_KL_FIELD_NUMBER: _ClassVar[int]
    step_size_scale: float
    caution: Caution
    reward_scale: float
    reward_offset: float
    max_kl: float
    def __init__(self, step_size_scale: _Optional[float] = ..., caution: _Optional[_Union[Caution, str]] = ..., reward_scale: _Optional[float] = ..., reward_offset: _Optional[float] = ..., max_kl: _Optional[float] = ...) -> None: ...

class CreateSessionRequest(_message.Message):
    __slots__ = ("request_id", "meta_policy", "meta_policy_version", "options", "ttl", "onnx_contract")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    META_POLICY_FIELD_NUMBER: _ClassVar[int]
    META_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    ONNX_CONTRACT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    meta_policy: str
    meta_policy_version: int
    options: SessionOptions
    ttl: _duration_pb2.Duration
    onnx_contract: int
    def __init__(self, request_id: _Optional[str] = ..., meta_policy: _Optional[str] = ..., meta_policy_version: _Optional[int] = ..., options: _Optional[_Union[SessionOptions, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., onnx_contract: _Optional[int] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session", "policy")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    session: Session
    policy: _policy_pb2.Policy
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ...) -> None: ...

class UploadTrajectoriesRequest(_message.Message):
    __slots__ = ("header", "chunk", "footer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FOOTER_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: UploadChunk
    footer: UploadFooter
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[UploadChunk, _Mapping]] = ..., footer: _Optional[_Union[UploadFooter, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("session_id", "upload_id", "round", "payload_bytes", "count_again", "only_measures")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    COUNT_AGAIN_FIELD_NUMBER: _ClassVar[int]
    ONLY_MEASURES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    upload_id: str
    round: int
    payload_bytes: int
    count_again: bool
    only_measures: bool
    def __init__(self, session_id: _Optional[str] = ..., upload_id: _Optional[str] = ..., round: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., count_again: bool = ..., only_measures: bool = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class UploadFooter(_message.Message):
    __slots__ = ("trajectories", "steps", "sha256")
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    trajectories: int
    steps: int
    sha256: str
    def __init__(self, trajectories: _Optional[int] = ..., steps: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadTrajectoriesResponse(_message.Message):
    __slots__ = ("upload_id", "sha256", "batch", "counted_as")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    COUNTED_AS_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    sha256: str
    batch: UploadedBatch
    counted_as: str
    def __init__(self, upload_id: _Optional[str] = ..., sha256: _Optional[str] = ..., batch: _Optional[_Union[UploadedBatch, _Mapping]] = ..., counted_as: _Optional[str] = ...) -> None: ...

class DiscardUploadsRequest(_message.Message):
    __slots__ = ("session_id", "round", "upload_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    round: int
    upload_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., round: _Optional[int] = ..., upload_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DiscardUploadsResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class AdaptRequest(_message.Message):
    __slots__ = ("session_id", "expected_round", "batch_sha256")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    BATCH_SHA256_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    expected_round: int
    batch_sha256: str
    def __init__(self, session_id: _Optional[str] = ..., expected_round: _Optional[int] = ..., batch_sha256: _Optional[str] = ...) -> None: ...

class AdaptResponse(_message.Message):
    __slots__ = ("session", "policy", "report")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    session: Session
    policy: _policy_pb2.Policy
    report: AdaptationReport
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., report: _Optional[_Union[AdaptationReport, _Mapping]] = ...) -> None: ...

class AdaptationReport(_message.Message):
    __slots__ = ("round", "trajectories", "steps", "mean_return", "std_return", "kl_divergence", "gradient_norm", "entropy", "seconds", "batch_sha256", "uploads", "verdict", "discount")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MEAN_RETURN_FIELD_NUMBER: _ClassVar[int]
    STD_RETURN_FIELD_NUMBER: _ClassVar[int]
    KL_DIVERGENCE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SHA256_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    round: int
    trajectories: int
    steps: int
    mean_return: float
    std_return: float
    kl_divergence: float
    gradient_norm: float
    entropy: float
    seconds: float
    batch_sha256: str
    uploads: _containers.RepeatedCompositeFieldContainer[UploadShare]
    verdict: Verdict
    discount: float
    def __init__(self, round: _Optional[int] = ..., trajectories: _Optional[int] = ..., steps: _Optional[int] = ..., mean_return: _Optional[float] = ..., std_return: _Optional[float] = ..., kl_divergence: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., entropy: _Optional[float] = ..., seconds: _Optional[float] = ..., batch_sha256: _Optional[str] = ..., uploads: _Optional[_Iterable[_Union[UploadShare, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., discount: _Optional[float] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("code", "value", "limit", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: ReasonCode
    value: float
    limit: float
    text: str
    def __init__(self, code: _Optional[_Union[ReasonCode, str]] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("decision", "reasons", "task_p_value", "predicted_gain", "effective_sample_size", "episodes_needed", "realized_gain", "best_round", "weighty_steps")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    TASK_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_GAIN_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_SAMPLE_SIZE_FIELD_NUMBER: _ClassVar[int]
    EPISODES_NEEDED_FIELD_NUMBER: _ClassVar[int]
    REALIZED_GAIN_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    WEIGHTY_STEPS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    task_p_value: float
    predicted_gain: Estimate
    effective_sample_size: float
    episodes_needed: int
    realized_gain: Estimate
    best_round: int
    weighty_steps: _containers.RepeatedCompositeFieldContainer[WeightyStep]
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., task_p_value: _Optional[float] = ..., predicted_gain: _Optional[_Union[Estimate, _Mapping]] = ..., effective_sample_size: _Optional[float] = ..., episodes_needed: _Optional[int] = ..., realized_gain: _Optional[_Union[Estimate, _Mapping]] = ..., best_round: _Optional[int] = ..., weighty_steps: _Optional[_Iterable[_Union[WeightyStep, _Mapping]]] = ...) -> None: ...

class WeightyStep(_message.Message):
    __slots__ = ("sha256", "trajectory", "step", "share")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    trajectory: int
    step: int
    share: float
    def __init__(self, sha256: _Optional[str] = ..., trajectory: _Optional[int] = ..., step: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class UploadShare(_message.Message):
    __slots__ = ("sha256", "returns", "shares", "influences")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    INFLUENCES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    returns: _containers.RepeatedScalarFieldContainer[float]
    shares: _containers.RepeatedScalarFieldContainer[float]
    influences: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, sha256: _Optional[str] = ..., returns: _Optional[_Iterable[float]] = ..., shares: _Optional[_Iterable[float]] = ..., influences: _Optional[_Iterable[float]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session", "reports")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    session: Session
    reports: _containers.RepeatedCompositeFieldContainer[AdaptationReport]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., reports: _Optional[_Iterable[_Union[AdaptationReport, _Mapping]]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("session_id", "round", "profile", "robot", "onnx_contract")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    ONNX_CONTRACT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    round: int
    profile: str
    robot: _policy_pb2.RobotDescription
    onnx_contract: int
    def __init__(self, session_id: _Optional[str] = ..., round: _Optional[int] = ..., profile: _Optional[str] = ..., robot: _Optional[_Union[_policy_pb2.RobotDescription, _Mapping]] = ..., onnx_contract: _Optional[int] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy", "report")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    policy: _policy_pb2.Policy
    report: AdaptationReport
    def __init__(self, policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., report: _Optional[_Union[AdaptationReport, _Mapping]] = ...) -> None: ...

class ExplainRoundRequest(_message.Message):
    __slots__ = ("session_id", "round", "max_trajectories", "max_dimensions")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MAX_TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    MAX_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    round: int
    max_trajectories: int
    max_dimensions: int
    def __init__(self, session_id: _Optional[str] = ..., round: _Optional[int] = ..., max_trajectories: _Optional[int] = ..., max_dimensions: _Optional[int] = ...) -> None: ...

class ExplainRoundResponse(_message.Message):
    __slots__ = ("report", "trajectories", "total")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    report: AdaptationReport
    trajectories: _containers.RepeatedCompositeFieldContainer[ExplainedTrajectory]
    total: int
    def __init__(self, report: _Optional[_Union[AdaptationReport, _Mapping]] = ..., trajectories: _Optional[_Iterable[_Union[ExplainedTrajectory, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class ExplainedTrajectory(_message.Message):
    __slots__ = ("sha256", "trajectory", "share", "rewards", "pushes", "observations")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    trajectory: int
    share: float
    rewards: _trajectory_pb2.Array
    pushes: _trajectory_pb2.Array
    observations: _trajectory_pb2.Array
    def __init__(self, sha256: _Optional[str] = ..., trajectory: _Optional[int] = ..., share: _Optional[float] = ..., rewards: _Optional[_Union[_trajectory_pb2.Array, _Mapping]] = ..., pushes: _Optional[_Union[_trajectory_pb2.Array, _Mapping]] = ..., observations: _Optional[_Union[_trajectory_pb2.Array, _Mapping]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...
