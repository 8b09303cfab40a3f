"""Reads and checks an ONNX policy file by the ONNX contract, version 1."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import PolicyVerificationError

CONTRACT_VERSION: Final = "1"
DEFAULT_PROFILE: Final = "default"
"""The profile that clients run. Files of the default profile do not name it."""
_PREFIX: Final = "thetaprime."
PROFILE_KEY: Final = f"{_PREFIX}profile"
_DISTRIBUTIONS: Final = {wire.ActionKind.BOX: "gaussian", wire.ActionKind.DISCRETE: "categorical"}
# onnxruntime reproduces torch to 1e-5, absolute and relative.
_TOLERANCE: Final = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Golden:
    """Golden vectors: observations, and the deterministic actions that the policy must output for them.

    Attributes:
        observations: [K, *observation_shape] float32.
        actions: [K, A] float32, or [K] int64 for discrete actions, in the environment's units.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyContract:
    """The metadata of a policy's file.

    Attributes:
        policy_id: SHA-256 (hex) of the policy's parameters.
        parent_id: `policy_id` of the policy it was adapted from; empty for θ.
        meta_policy: ``name@version`` of its meta-policy.
        environment: the contract of its environment.
    """

    policy_id: str
    parent_id: str
    meta_policy: str
    environment: wire.EnvironmentContract


def open_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Loads a file into onnxruntime, configured for one small network on one thread.

    Raises:
        PolicyVerificationError: onnxruntime cannot load the bytes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The basic level folds the constants of the graph (the context's part of the first layer, the floor of the noise),
    # which doubles the speed of a step. The extended level fuses a layer with its activation. The graph has nothing for
    # the third level, and no quantization, whose rules cost 20 KiB a session.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # A quarter of the session's memory, and no faster for so small a network.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the only common base of onnxruntime's exceptions
        text = " ".join(str(error).split())
        raise PolicyVerificationError(f"onnxruntime cannot load the policy: {text}") from error


def read_policy_contract(metadata: Mapping[str, str]) -> PolicyContract:
    """Reads the metadata of a file in the default profile.

    Raises:
        PolicyVerificationError: a key is missing or malformed.
    """
    if (profile := metadata.get(PROFILE_KEY, DEFAULT_PROFILE)) != DEFAULT_PROFILE:
        raise PolicyVerificationError(
            f"the file has profile {profile!r}, for another engine; expected {DEFAULT_PROFILE!r}: export the policy "
            "without a profile (PolicyFile reads every profile)"
        )
    version = _entry(metadata, "contract_version")
    if version != CONTRACT_VERSION:
        raise PolicyVerificationError(
            f"{_PREFIX}contract_version is {version!r}; this client reads {CONTRACT_VERSION!r}: update thetaprime"
        )
    environment = read_environment(metadata)
    distribution = _entry(metadata, "distribution")
    if distribution != _DISTRIBUTIONS[environment.action_kind]:
        raise PolicyVerificationError(
            f"{_PREFIX}distribution is {distribution!r}; expected {_DISTRIBUTIONS[environment.action_kind]!r} for "
            f"{environment.action_kind.value} actions"
        )
    return PolicyContract(
        policy_id=_entry(metadata, "policy_id"),
        parent_id=_entry(metadata, "parent_id"),
        meta_policy=_entry(metadata, "meta_policy"),
        environment=environment,
    )


def read_golden(metadata: Mapping[str, str], contract: wire.EnvironmentContract) -> Golden:
    """Reads the golden vectors from a file's metadata.

    Raises:
        PolicyVerificationError: the key is missing or malformed.
    """
    text, box = _entry(metadata, "golden"), contract.action_kind is wire.ActionKind.BOX
    try:
        fields = json.loads(text)
        observations = np.asarray(fields["observations"], dtype=np.float32)
        actions = np.asarray(fields["actions"], dtype=np.float32 if box else np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyVerificationError(f"{_PREFIX}golden is malformed: {error!r}") from error
    return golden_from_arrays(observations, actions, contract)


def read_environment(metadata: Mapping[str, str]) -> wire.EnvironmentContract:
    """Reads the environment's contract from a file's metadata.

    Raises:
        PolicyVerificationError: the key is missing or malformed.
    """
    return _parse_environment(_entry(metadata, "environment"))


def check_digest(data: bytes, sha256: str) -> None:
    """Compares the SHA-256 of bytes with the expected one.

    Raises:
        PolicyVerificationError: they differ.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise PolicyVerificationError(f"sha256 of the policy is {actual}; expected {sha256}: the file is damaged")


def check_signature(session: onnxruntime.InferenceSession, contract: wire.EnvironmentContract) -> None:
    """Compares a graph's inputs and outputs with the contract.

    Raises:
        PolicyVerificationError: a name, type or width differs.
    """
    size = contract.action_size
    if contract.action_kind is wire.ActionKind.BOX:
        outputs = {"actions": ("float", [size]), "mean": ("float", [size]), "log_std": ("float", [size])}
    else:
        outputs = {"actions": ("int64", []), "logits": ("float", [size])}
    _check_values("input", session.get_inputs(), {"obs": ("float", [contract.observation_size])})
    _check_values("output", session.get_outputs(), outputs)


def check_golden(kind: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Compares the actions for the golden observations with the golden actions.

    Args:
        kind: names the way of acting in the error.
        actual: [K, A] or [K], computed here.
        expected: [K, A] or [K], computed where the policy was exported.

    Raises:
        PolicyVerificationError: they differ by more than 1e-5, absolute and relative.
    """
    if actual.shape != expected.shape:
        raise PolicyVerificationError(
            f"the policy outputs actions of shape {list(actual.shape)}; its golden actions have {list(expected.shape)}"
        )
    difference = np.abs(actual.astype(np.float64) - expected)
    # NaN on either side fails.
    within = difference <= _TOLERANCE + _TOLERANCE * np.abs(expected)
    if not within.all():
        index = int(np.argmin(within.reshape(len(within), -1).all(axis=1)))
        raise PolicyVerificationError(
            f"the policy fails its golden vectors: for observation {index} it outputs "
            f"{actual[index].tolist()} ({kind}); expected {expected[index].tolist()}"
        )


def golden_from_arrays(
    observations: npt.NDArray[Any], actions: npt.NDArray[Any], contract: wire.EnvironmentContract
) -> Golden:
    """Returns golden vectors after a check of their shapes.

    Raises:
        PolicyVerificationError: there are no vectors, or a shape is wrong.
    """
    count = len(observations) if observations.ndim else 0
    box = contract.action_kind is wire.ActionKind.BOX
    action_shape = (count, contract.action_size) if box else (count,)
    if count == 0 or observations.shape != (count, *contract.observation_shape) or actions.shape != action_shape:
        raise PolicyVerificationError(
            f"golden vectors have shapes {list(observations.shape)} and {list(actions.shape)}; expected "
            f"{[max(count, 1), *contract.observation_shape]} and {list(action_shape)}"
        )
    return Golden(observations.astype(np.float32), actions)


def _entry(metadata: Mapping[str, str], name: str) -> str:
    value = metadata.get(_PREFIX + name)
    if value is None:
        raise PolicyVerificationError(f"the file's metadata lacks {_PREFIX}{name}: it is not a ThetaPrime policy")
    return value


# Cached: every policy of a meta-policy has the same text.
@functools.lru_cache(maxsize=64)
def _parse_environment(text: str) -> wire.EnvironmentContract:
    try:
        fields = json.loads(text)
        action = fields["action"]
        discrete = action["kind"] == "discrete"
        return wire.EnvironmentContract(
            environment_id=str(fields["environment_id"]),
            observation_shape=tuple(int(length) for length in fields["observation_shape"]),
            action_kind=wire.ActionKind(action["kind"]),
            action_size=int(action["count"]) if discrete else len(action["low"]),
            # JSON has no infinity: null stands for a missing bound.
            action_low=() if discrete else tuple(_bound(low, -math.inf) for low in action["low"]),
            action_high=() if discrete else tuple(_bound(high, math.inf) for high in action["high"]),
            action_start=int(action.get("start", 0)) if discrete else 0,
            horizon=int(fields["horizon"]),
            control_timestep=float(fields.get("control_timestep", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyVerificationError(f"{_PREFIX}environment is malformed: {error!r}") from error


def _bound(value: float | str | None, missing: float) -> float:
    return missing if value is None else float(value)


def _check_values(side: str, values: list[Any], expected: Mapping[str, tuple[str, list[int]]]) -> None:
    actual = {value.name: value for value in values}
    if side == "input" and set(actual) != set(expected):
        raise PolicyVerificationError(f"the graph's inputs are {sorted(actual)}; expected {sorted(expected)}")
    for name, (element, tail) in expected.items():
        value = actual.get(name)
        if value is None:
            raise PolicyVerificationError(f"the graph lacks the {side} {name!r}")
        shape = list(value.shape)
        if value.type != f"tensor({element})" or (tail and shape[-1:] != tail):
            raise PolicyVerificationError(
                f"the graph's {side} {name!r} is {value.type} {shape}; expected tensor({element}) [..., {tail}]"
            )
