"""Policy files in the profiles of other engines."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError, PolicyVerificationError, ServerError
from thetaprime.client._policy.atomic_file import write_atomically
from thetaprime.client._policy.contract import (
    DEFAULT_PROFILE,
    MEMORY_CONTRACT_VERSION,
    PROFILE_KEY,
    VERSION_KEY,
    check_digest,
    check_file,
    check_golden,
    check_golden_count,
    malformed,
    open_session,
    read_environment,
    read_json,
    runtime_errors,
)
from thetaprime.client._policy.leapp import LEAPP_PROFILE, leapp_description
from thetaprime.client._policy.memory_contract import (
    GoldenSequences,
    MemoryContract,
    check_state_tensors,
    read_memory,
    read_sequences,
)
from thetaprime.client._policy.regular_file import read_policy_file
from thetaprime.v1 import policy_pb2

_DTYPES: Final = {"tensor(float)": "float32", "tensor(int64)": "int64"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotDescription:
    """Describes a robot's joints, in the order of the A actions, for the profile ``robot``.

    The file's metadata carries the description. A joint's position target is ``default_joint_pos + action_scale ·
    action``.

    Attributes:
        joint_names: [A] names of the joints, without commas.
        joint_stiffness: [A] proportional gain of each joint's position controller, N·m/rad.
        joint_damping: [A] derivative gain of each joint's position controller, N·m·s/rad.
        default_joint_pos: [A] position target at action 0, rad.
        action_scale: [A] change of the position target per unit of action, rad.
        observation_names: the terms of the observation, in order.
        command_names: the terms of the observation that are commands.
    """

    joint_names: tuple[str, ...]
    joint_stiffness: tuple[float, ...]
    joint_damping: tuple[float, ...]
    default_joint_pos: tuple[float, ...]
    action_scale: tuple[float, ...]
    observation_names: tuple[str, ...]
    command_names: tuple[str, ...] = ()

    def to_message(self) -> policy_pb2.RobotDescription:
        """Returns the description as a message.

        Raises:
            InvalidInputError: a field has the wrong type.
        """
        try:
            return policy_pb2.RobotDescription(**dataclasses.asdict(self))
        except (TypeError, ValueError) as error:
            raise InvalidInputError.at("robot", f"malformed: {error}") from error


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a policy's graph.

    Attributes:
        name: the tensor's name.
        direction: ``in`` or ``out``.
        shape: lengths of the axes; a symbolic axis is a string.
        dtype: ``float32`` or ``int64``.
        unit: unit of the numbers; empty where the file has none.
        what: description; empty where the file has none.
    """

    name: str
    direction: str
    shape: tuple[int | str, ...]
    dtype: str
    unit: str = ""
    what: str = ""

    def __str__(self) -> str:
        shape = ", ".join(str(length) for length in self.shape)
        description = f": {self.what} ({self.unit})" if self.what else ""
        return f"{self.direction} [{shape}] {self.dtype}{description}"


class PolicyFile:
    """A verified ONNX file in any profile, to be saved for the engine that reads the profile.

    The constructor checks the file's digest and golden vectors. `AdaptedPolicy` runs files of the default profile.

    Args:
        onnx: the ONNX file's bytes.
        sha256: the expected SHA-256 (hex); None skips the check.

    Raises:
        PolicyVerificationError: the file is damaged, not a ThetaPrime policy, exceeds a limit, or fails its golden
            vectors.
    """

    def __init__(self, onnx: bytes, *, sha256: str | None = None) -> None:
        if sha256 is not None:
            check_digest(onnx, sha256)
        self._onnx = onnx
        file = check_file(onnx)
        self._metadata = file.metadata
        if "thetaprime.policy_id" not in self._metadata:
            raise PolicyVerificationError("the file's metadata lacks thetaprime.policy_id: not a ThetaPrime policy")
        self._contract = read_environment(self._metadata)
        self._memory: MemoryContract | None = None
        if self._metadata.get(VERSION_KEY) == MEMORY_CONTRACT_VERSION:
            self._memory, golden = read_memory(self._metadata), read_sequences(file)
            session = open_session(onnx)
            check_state_tensors(session, self._memory)
            _verify_sequences(session, self._memory, golden)
        else:
            inputs, outputs = _read_golden_vectors(file)
            session = open_session(onnx)
            _verify(session, inputs, outputs)
        self._tensors = _tensors(session, self._metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], sha256: str | None = None) -> Self:
        """Loads a file that `save` or ``thetaprime export --profile`` wrote.

        Args:
            path: the file.
            sha256: the expected SHA-256 (hex); None skips the check.

        Raises:
            PolicyVerificationError: as the constructor.
            OSError: the file cannot be read.
        """
        data = read_policy_file(path)
        try:
            return cls(data, sha256=sha256)
        except PolicyVerificationError as error:
            raise PolicyVerificationError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def from_message(cls, message: policy_pb2.Policy, profile: str) -> Self:
        """The file of a server's reply.

        Args:
            message: the reply.
            profile: the form that was asked for.

        Raises:
            ServerError: the server knows no forms but the default one.
            PolicyVerificationError: the reply and the file differ, or as the constructor.
        """
        if (message.profile or DEFAULT_PROFILE) != profile:
            raise ServerError(
                f"asked for the form {profile!r}, the server sent {message.profile or DEFAULT_PROFILE!r}: it is older "
                "than this client"
            )
        file = cls(message.onnx, sha256=message.onnx_sha256)
        for name, expected, found in (
            ("profile", profile, file.profile),
            ("policy_id", message.policy_id, file.policy_id),
            ("metadata", dict(message.metadata), file._metadata),
        ):
            if expected != found:
                raise PolicyVerificationError(f"the reply has {name} {expected!r}; its file has {found!r}")
        return file

    @property
    def profile(self) -> str:
        """The file's profile."""
        return self._metadata.get(PROFILE_KEY, DEFAULT_PROFILE)

    @property
    def policy_id(self) -> str:
        """SHA-256 (hex) of the policy's parameters, the same in every profile."""
        return self._metadata["thetaprime.policy_id"]

    @property
    def parent_id(self) -> str:
        """`policy_id` of the policy it was adapted from; empty for θ."""
        return self._metadata.get("thetaprime.parent_id", "")

    @property
    def meta_policy(self) -> str:
        """``name@version`` of its meta-policy."""
        return self._metadata.get("thetaprime.meta_policy", "")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata."""
        return MappingProxyType(self._metadata)

    @property
    def contract(self) -> wire.EnvironmentContract:
        """The contract of the policy's environment: observations, actions, horizon."""
        return self._contract

    @property
    def memory(self) -> MemoryContract | None:
        """The policy's memory, as the file describes it; None for a policy without a memory."""
        return self._memory

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The graph's inputs, then its outputs."""
        return self._tensors

    @property
    def onnx(self) -> bytes:
        """The ONNX file's bytes."""
        return self._onnx

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the ONNX file, as `load` takes it."""
        return wire.sha256_hex(self.onnx)

    def __repr__(self) -> str:
        return f"PolicyFile({self.profile}, {self.meta_policy}, policy_id={self.policy_id[:12]}…)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ONNX file atomically.

        In the profile ``leapp``, also writes the description that LEAPP reads, beside it and with the ending ``.yaml``.

        Raises:
            OSError: a file cannot be written.
        """
        write_atomically(path, self.onnx)
        if self.profile == LEAPP_PROFILE:
            file = Path(path)
            text = leapp_description(file.name, self.onnx, self.tensors, self.memory)
            write_atomically(file.with_suffix(".yaml"), text.encode())


def _tensors(session: onnxruntime.InferenceSession, metadata: Mapping[str, str]) -> tuple[TensorInfo, ...]:
    described = read_json(metadata, "tensors", missing="{}")
    with malformed("tensors"):
        return tuple(
            TensorInfo(
                value.name, direction, tuple(value.shape), _DTYPES[value.type], *map(str, described.get(value.name, ()))
            )
            for direction, values in (("in", session.get_inputs()), ("out", session.get_outputs()))
            for value in values
        )


_Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def _verify(session: onnxruntime.InferenceSession, inputs: _Arrays, outputs: _Arrays) -> None:
    """Runs the golden inputs one by one, and compares the outputs with the golden outputs."""
    count = len(next(iter(outputs.values())))
    with runtime_errors("the golden inputs do not match the graph"):
        outcomes = [
            session.run(list(outputs), {name: array[k : k + 1] for name, array in inputs.items()}) for k in range(count)
        ]
        found = {name: np.concatenate([each[index] for each in outcomes]) for index, name in enumerate(outputs)}
    for name, expected in outputs.items():
        check_golden(name, found[name], expected)


def _verify_sequences(session: onnxruntime.InferenceSession, memory: MemoryContract, golden: GoldenSequences) -> None:
    """Runs the golden sequences one by one, with the state fed back, and compares the outputs."""
    names = [*golden.outputs, *(each.output for each in memory.states)]
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in golden.outputs}
    with runtime_errors("the golden sequences do not match the graph"):
        for k, resets in enumerate(golden.resets):
            state: _Arrays = {}
            for step, begins in enumerate(resets):
                if begins:
                    state = {each.input: np.expand_dims(each.initial, each.axis) for each in memory.states}
                feeds = {name: rows[k : k + 1, step] for name, rows in golden.inputs.items()}
                given = dict(zip(names, session.run(names, {**feeds, **state}), strict=True))
                state = {each.input: given[each.output] for each in memory.states}
                for name, rows in found.items():
                    rows.append(given[name])
        shape = (golden.count, golden.steps)
        arrays = {name: np.concatenate(rows).reshape(*shape, *rows[0].shape[1:]) for name, rows in found.items()}
    for name, expected in golden.outputs.items():
        check_golden(name, arrays[name], expected)


def _read_golden_vectors(file: wire.OnnxFile) -> tuple[_Arrays, _Arrays]:
    """Reads the golden inputs and outputs by name, [K, ...] each."""
    golden = read_json(file.metadata, "golden")
    with malformed("golden"), np.errstate(over="ignore"):
        inputs, outputs = _golden(golden) if PROFILE_KEY in file.metadata else _default_golden(golden)
        counts = {len(each) for each in (*inputs.values(), *outputs.values())}
        if len(counts) != 1 or counts == {0} or not outputs:
            raise ValueError(f"{sorted(counts)} vectors")
    check_golden_count(counts.pop(), file.max_golden_vectors)
    return inputs, outputs


def _golden(golden: Any) -> tuple[_Arrays, _Arrays]:
    return (
        {name: np.asarray(rows, np.float32) for name, rows in golden["inputs"].items()},
        {name: _numbers(rows) for name, rows in golden["outputs"].items()},
    )


def _default_golden(golden: Any) -> tuple[_Arrays, _Arrays]:
    observations = np.asarray(golden["observations"], np.float32)
    return {"obs": observations.reshape(len(observations), -1)}, {"actions": _numbers(golden["actions"])}


def _numbers(rows: Any) -> npt.NDArray[Any]:
    array = np.asarray(rows)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"dtype {array.dtype}; expected numbers")
    return array
