from thetaprime.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListMetaPoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMetaPoliciesResponse(_message.Message):
    __slots__ = ("meta_policies",)
    META_POLICIES_FIELD_NUMBER: _ClassVar[int]
    meta_policies: _containers.RepeatedCompositeFieldContainer[_policy_pb2.MetaPolicy]
    def __init__(self, meta_policies: _Optional[_Iterable[_Union[_policy_pb2.MetaPolicy, _Mapping]]] = ...) -> None: ...

class GetMetaPolicyRequest(_message.Message):
    __slots__ = ("name", "version", "profile", "robot", "onnx_contract")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    ONNX_CONTRACT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    profile: str
    robot: _policy_pb2.RobotDescription
    onnx_contract: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., profile: _Optional[str] = ..., robot: _Optional[_Union[_policy_pb2.RobotDescription, _Mapping]] = ..., onnx_contract: _Optional[int] = ...) -> None: ...

class GetMetaPolicyResponse(_message.Message):
    __slots__ = ("meta_policy", "policy")
    META_POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    meta_policy: _policy_pb2.MetaPolicy
    policy: _policy_pb2.Policy
    def __init__(self, meta_policy: _Optional[_Union[_policy_pb2.MetaPolicy, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ...) -> None: ...
