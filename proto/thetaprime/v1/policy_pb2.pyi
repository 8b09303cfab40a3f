from thetaprime.v1 import trajectory_pb2 as _trajectory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BoxAction(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: _containers.RepeatedScalarFieldContainer[float]
    high: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ...) -> None: ...

class DiscreteAction(_message.Message):
    __slots__ = ("count", "start")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    count: int
    start: int
    def __init__(self, count: _Optional[int] = ..., start: _Optional[int] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class RewardContract(_message.Message):
    __slots__ = ("formula", "step_range", "return_range")
    FORMULA_FIELD_NUMBER: _ClassVar[int]
    STEP_RANGE_FIELD_NUMBER: _ClassVar[int]
    RETURN_RANGE_FIELD_NUMBER: _ClassVar[int]
    formula: str
    step_range: Range
    return_range: Range
    def __init__(self, formula: _Optional[str] = ..., step_range: _Optional[_Union[Range, _Mapping]] = ..., return_range: _Optional[_Union[Range, _Mapping]] = ...) -> None: ...

class EnvironmentContract(_message.Message):
    __slots__ = ("environment_id", "observation_shape", "box", "discrete", "horizon", "control_timestep", "reward")
    ENVIRONMENT_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_SHAPE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    DISCRETE_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    CONTROL_TIMESTEP_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    environment_id: str
    observation_shape: _containers.RepeatedScalarFieldContainer[int]
    box: BoxAction
    discrete: DiscreteAction
    horizon: int
    control_timestep: float
    reward: RewardContract
    def __init__(self, environment_id: _Optional[str] = ..., observation_shape: _Optional[_Iterable[int]] = ..., box: _Optional[_Union[BoxAction, _Mapping]] = ..., discrete: _Optional[_Union[DiscreteAction, _Mapping]] = ..., horizon: _Optional[int] = ..., control_timestep: _Optional[float] = ..., reward: _Optional[_Union[RewardContract, _Mapping]] = ...) -> None: ...

class AdaptationSpec(_message.Message):
    __slots__ = ("inner_lr", "trajectories_per_round", "inner_steps", "discount")
    INNER_LR_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    INNER_STEPS_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    inner_lr: float
    trajectories_per_round: int
    inner_steps: int
    discount: float
    def __init__(self, inner_lr: _Optional[float] = ..., trajectories_per_round: _Optional[int] = ..., inner_steps: _Optional[int] = ..., discount: _Optional[float] = ...) -> None: ...

class PolicyMemory(_message.Message):
    __slots__ = ("cell", "size")
    CELL_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    cell: str
    size: int
    def __init__(self, cell: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class MetaPolicy(_message.Message):
    __slots__ = ("name", "version", "description", "environment", "adaptation", "policy_id", "parameter_count", "memory")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ADAPTATION_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    description: str
    environment: EnvironmentContract
    adaptation: AdaptationSpec
    policy_id: str
    parameter_count: int
    memory: PolicyMemory
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., description: _Optional[str] = ..., environment: _Optional[_Union[EnvironmentContract, _Mapping]] = ..., adaptation: _Optional[_Union[AdaptationSpec, _Mapping]] = ..., policy_id: _Optional[str] = ..., parameter_count: _Optional[int] = ..., memory: _Optional[_Union[PolicyMemory, _Mapping]] = ...) -> None: ...

class GoldenVectors(_message.Message):
    __slots__ = ("observations", "actions")
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    observations: _trajectory_pb2.Array
    actions: _trajectory_pb2.Array
    def __init__(self, observations: _Optional[_Union[_trajectory_pb2.Array, _Mapping]] = ..., actions: _Optional[_Union[_trajectory_pb2.Array, _Mapping]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("policy_id", "parent_id", "onnx", "onnx_sha256", "metadata", "golden", "profile")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    ONNX_FIELD_NUMBER: _ClassVar[int]
    ONNX_SHA256_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    parent_id: str
    onnx: bytes
    onnx_sha256: str
    metadata: _containers.ScalarMap[str, str]
    golden: GoldenVectors
    profile: str
    def __init__(self, policy_id: _Optional[str] = ..., parent_id: _Optional[str] = ..., onnx: _Optional[bytes] = ..., onnx_sha256: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., golden: _Optional[_Union[GoldenVectors, _Mapping]] = ..., profile: _Optional[str] = ...) -> None: ...

class RobotDescription(_message.Message):
    __slots__ = ("joint_names", "joint_stiffness", "joint_damping", "default_joint_pos", "action_scale", "observation_names", "command_names")
    JOINT_NAMES_FIELD_NUMBER: _ClassVar[int]
    JOINT_STIFFNESS_FIELD_NUMBER: _ClassVar[int]
    JOINT_DAMPING_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_JOINT_POS_FIELD_NUMBER: _ClassVar[int]
    ACTION_SCALE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_NAMES_FIELD_NUMBER: _ClassVar[int]
    COMMAND_NAMES_FIELD_NUMBER: _ClassVar[int]
    joint_names: _containers.RepeatedScalarFieldContainer[str]
    joint_stiffness: _containers.RepeatedScalarFieldContainer[float]
    joint_damping: _containers.RepeatedScalarFieldContainer[float]
    default_joint_pos: _containers.RepeatedScalarFieldContainer[float]
    action_scale: _containers.RepeatedScalarFieldContainer[float]
    observation_names: _containers.RepeatedScalarFieldContainer[str]
    command_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, joint_names: _Optional[_Iterable[str]] = ..., joint_stiffness: _Optional[_Iterable[float]] = ..., joint_damping: _Optional[_Iterable[float]] = ..., default_joint_pos: _Optional[_Iterable[float]] = ..., action_scale: _Optional[_Iterable[float]] = ..., observation_names: _Optional[_Iterable[str]] = ..., command_names: _Optional[_Iterable[str]] = ...) -> None: ...
