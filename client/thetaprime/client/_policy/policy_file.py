"""A policy in a form that another engine reads: verified, and handed on."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError, PolicyVerificationError, ServerError
from thetaprime.client._policy.atomic_file import write_whole
from thetaprime.client._policy.contract import (
    DEFAULT_PROFILE,
    PROFILE_KEY,
    check_digest,
    check_golden,
    open_session,
    read_contract,
)
from thetaprime.client._policy.shared_weights import KeptFile
from thetaprime.v1 import policy_pb2

_DTYPES: Final = {"tensor(float)": "float32", "tensor(int64)": "int64"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotDescription:
    """What a deployment has to know of a robot beside its policy, joint by joint in the order of the A actions.

    The profile ``robot`` writes it into the file's metadata. A joint's position target is ``default_joint_pos +
    action_scale · action``.

    Attributes:
        joint_names: [A] the joints that the actions move; without commas.
        joint_stiffness: [A] proportional gain of each joint's position controller, N·m/rad.
        joint_damping: [A] its derivative gain, N·m·s/rad.
        default_joint_pos: [A] where each joint is held at action 0, rad.
        action_scale: [A] what one unit of the action moves the target by, rad.
        observation_names: the terms of the observation, in order.
        command_names: the commands among them.
    """

    joint_names: tuple[str, ...]
    joint_stiffness: tuple[float, ...]
    joint_damping: tuple[float, ...]
    default_joint_pos: tuple[float, ...]
    action_scale: tuple[float, ...]
    observation_names: tuple[str, ...]
    command_names: tuple[str, ...] = ()

    def to_message(self) -> policy_pb2.RobotDescription:
        """The description as a message.

        Raises:
            InvalidInputError: a name is no text, or a number no number.
        """
        try:
            return policy_pb2.RobotDescription(**dataclasses.asdict(self))
        except (TypeError, ValueError) as error:
            raise InvalidInputError.at("robot", f"does not read: {error}") from error


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a policy's graph.

    Attributes:
        name: its name.
        direction: ``in`` or ``out``.
        shape: lengths of its axes; a word stands for any length.
        dtype: ``float32`` or ``int64``.
        unit: what its numbers count; empty where the file does not say.
        what: what it is; empty where the file does not say.
    """

    name: str
    direction: str
    shape: tuple[int | str, ...]
    dtype: str
    unit: str = ""
    what: str = ""

    def __str__(self) -> str:
        shape = ", ".join(str(length) for length in self.shape)
        said = f": {self.what} ({self.unit})" if self.what else ""
        return f"{self.direction} [{shape}] {self.dtype}{said}"


class PolicyFile:
    """A policy as an ONNX file in the form of a profile, for the engine that reads it.

    The file is held against its digest and its golden vectors. It does not act: `AdaptedPolicy` does, on the default
    form.

    Args:
        onnx: the file's bytes.
        sha256: their SHA-256 (hex), where it is known.

    Raises:
        PolicyVerificationError: the file is damaged, no ThetaPrime policy, or does not give its golden outputs.
    """

    def __init__(self, onnx: bytes, *, sha256: str | None = None) -> None:
        if sha256 is not None:
            check_digest(onnx, sha256)
        self._file = KeptFile.of(onnx)
        session = open_session(onnx, self._file)
        self._metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        if "thetaprime.policy_id" not in self._metadata:
            raise PolicyVerificationError("the file's metadata lacks thetaprime.policy_id; it is no ThetaPrime policy")
        self._contract = read_contract(self._metadata)
        self._tensors = _tensors(session, self._metadata)
        _verify(session, self._metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], sha256: str | None = None) -> Self:
        """Reads a file that `save` or ``thetaprime export --profile`` wrote.

        Args:
            path: the file.
            sha256: its SHA-256 (hex), where it is known.

        Raises:
            PolicyVerificationError: as the constructor.
            OSError: the file cannot be read.
        """
        data = Path(path).read_bytes()
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
        for name, said, found in (
            ("profile", profile, file.profile),
            ("policy_id", message.policy_id, file.policy_id),
            ("metadata", dict(message.metadata), file._metadata),
        ):
            if said != found:
                raise PolicyVerificationError(f"the reply says {name} {said!r}; its file says {found!r}")
        return file

    @property
    def profile(self) -> str:
        """The form that it is in."""
        return self._metadata.get(PROFILE_KEY, DEFAULT_PROFILE)

    @property
    def policy_id(self) -> str:
        """SHA-256 (hex) of the policy's parameters, the same in every form."""
        return self._metadata["thetaprime.policy_id"]

    @property
    def parent_id(self) -> str:
        """`policy_id` of the policy it was adapted from; empty for θ."""
        return self._metadata.get("thetaprime.parent_id", "")

    @property
    def meta_policy(self) -> str:
        """``name@version`` of the meta-policy that it comes from."""
        return self._metadata.get("thetaprime.meta_policy", "")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata, as it stands there."""
        return MappingProxyType(self._metadata)

    @property
    def contract(self) -> wire.EnvironmentContract:
        """What the policy's environment sends and takes."""
        return self._contract

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Its inputs, then its outputs."""
        return self._tensors

    @property
    def onnx(self) -> bytes:
        """The ONNX file."""
        return bytes(self._file)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the ONNX file, as `load` takes it."""
        return wire.sha256_hex(self.onnx)

    def __repr__(self) -> str:
        return f"PolicyFile({self.profile}, {self.meta_policy}, policy_id={self.policy_id[:12]}…)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ONNX file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(path, self.onnx)


def _tensors(session: onnxruntime.InferenceSession, metadata: Mapping[str, str]) -> tuple[TensorInfo, ...]:
    described = _read_json(metadata.get("thetaprime.tensors", "{}"), "tensors")
    try:
        return tuple(
            TensorInfo(
                value.name, direction, tuple(value.shape), _DTYPES[value.type], *map(str, described.get(value.name, ()))
            )
            for direction, values in (("in", session.get_inputs()), ("out", session.get_outputs()))
            for value in values
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PolicyVerificationError(f"thetaprime.tensors does not fit the graph: {error!r}") from error


def _verify(session: onnxruntime.InferenceSession, metadata: Mapping[str, str]) -> None:
    """Runs the golden inputs one by one and holds what comes out against the golden outputs."""
    golden = _read_json(metadata.get("thetaprime.golden", "null"), "golden")
    try:
        inputs, outputs = _default_golden(golden) if PROFILE_KEY not in metadata else _golden(golden)
        count = {len(each) for each in (*inputs.values(), *outputs.values())}
        if len(count) != 1 or count == {0}:
            raise ValueError(f"{sorted(count)} vectors")
        feeds = [{name: array[k : k + 1] for name, array in inputs.items()} for k in range(count.pop())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolicyVerificationError(f"thetaprime.golden does not read: {error!r}") from error
    try:
        given = [session.run(list(outputs), feed) for feed in feeds]
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        text = " ".join(str(error).split())
        raise PolicyVerificationError(f"the golden inputs do not fit the graph: {text}") from error
    for index, (name, expected) in enumerate(outputs.items()):
        check_golden(name, np.concatenate([each[index] for each in given]), expected)


def _golden(golden: Any) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[Any]]]:
    return (
        {name: np.asarray(rows, np.float32) for name, rows in golden["inputs"].items()},
        {name: np.asarray(rows) for name, rows in golden["outputs"].items()},
    )


def _default_golden(golden: Any) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[Any]]]:
    observations = np.asarray(golden["observations"], np.float32)
    return {"obs": observations.reshape(len(observations), -1)}, {"actions": np.asarray(golden["actions"])}


def _read_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PolicyVerificationError(f"thetaprime.{name} does not read: {error!r}") from error
