"""The ONNX contract, version 1, from the reader's side: what a policy's file says about itself."""

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
from thetaprime.client._policy.shared_weights import KeptFile

CONTRACT_VERSION: Final = "1"
DEFAULT_PROFILE: Final = "default"
"""The form that clients act on; it names no profile."""
_PREFIX: Final = "thetaprime."
PROFILE_KEY: Final = f"{_PREFIX}profile"
_DISTRIBUTIONS: Final = {wire.ActionKind.BOX: "gaussian", wire.ActionKind.DISCRETE: "categorical"}
# Exported policies equal torch to 1e-5 in onnxruntime.
_TOLERANCE: Final = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Golden:
    """Observations, and the deterministic actions that the policy must give for them.

    Attributes:
        observations: [K, *observation_shape] float32.
        actions: [K, A] float32, or [K] int64 for discrete actions, in the environment's units.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class OnnxForm:
    """What a policy's file says about itself.

    Attributes:
        policy_id: SHA-256 (hex) of the policy's parameters.
        parent_id: `policy_id` of the policy it was adapted from; empty for θ.
        meta_policy: ``name@version`` of the meta-policy it comes from.
        contract: what its environment sends and takes.
    """

    policy_id: str
    parent_id: str
    meta_policy: str
    contract: wire.EnvironmentContract


def open_session(onnx: bytes, kept: KeptFile) -> onnxruntime.InferenceSession:
    """Loads a file into onnxruntime, set for one small network on one thread.

    Args:
        onnx: the file.
        kept: the same, whose weights the session reads; it must live as long.

    Raises:
        PolicyVerificationError: the bytes are no ONNX file, or one that onnxruntime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The context's part of the first layer is the same at every step, and so is the floor of the noise: the first level
    # works both out once, and a policy acts twice as fast as without. The second makes a layer and its activation one.
    # What the third looks for is not there, nor what comes of quantization, whose rules cost 20 KiB.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Of no use to so small a network, and a quarter of its memory.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        kept.lend(options)
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        text = " ".join(str(error).split())
        raise PolicyVerificationError(f"onnxruntime cannot load the policy: {text}") from error
    # It keeps the file to begin anew on another device; there is none that it could go to.
    session._model_bytes = b""
    return session


def read_form(metadata: Mapping[str, str]) -> OnnxForm:
    """Reads a file's metadata.

    Raises:
        PolicyVerificationError: a key is missing or does not read.
    """
    if (profile := metadata.get(PROFILE_KEY, DEFAULT_PROFILE)) != DEFAULT_PROFILE:
        raise PolicyVerificationError(
            f"the file is in the form {profile!r}, for another engine; this client acts on the default one: export the "
            "policy without a profile (PolicyFile reads every form)"
        )
    version = _entry(metadata, "contract_version")
    if version != CONTRACT_VERSION:
        raise PolicyVerificationError(
            f"{_PREFIX}contract_version is {version!r}; this client reads {CONTRACT_VERSION!r}: update thetaprime"
        )
    contract = read_contract(metadata)
    distribution = _entry(metadata, "distribution")
    if distribution != _DISTRIBUTIONS[contract.action_kind]:
        raise PolicyVerificationError(
            f"{_PREFIX}distribution is {distribution!r}; {contract.action_kind.value} actions take "
            f"{_DISTRIBUTIONS[contract.action_kind]!r}"
        )
    return OnnxForm(
        policy_id=_entry(metadata, "policy_id"),
        parent_id=_entry(metadata, "parent_id"),
        meta_policy=_entry(metadata, "meta_policy"),
        contract=contract,
    )


def read_golden(metadata: Mapping[str, str], contract: wire.EnvironmentContract) -> Golden:
    """Reads a file's golden vectors from its metadata.

    Raises:
        PolicyVerificationError: the key is missing or does not read.
    """
    text, box = _entry(metadata, "golden"), contract.action_kind is wire.ActionKind.BOX
    try:
        fields = json.loads(text)
        observations = np.asarray(fields["observations"], dtype=np.float32)
        actions = np.asarray(fields["actions"], dtype=np.float32 if box else np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyVerificationError(f"{_PREFIX}golden does not read: {error!r}") from error
    return golden_from_arrays(observations, actions, contract)


def read_contract(metadata: Mapping[str, str]) -> wire.EnvironmentContract:
    """What the environment of a policy sends and takes, from its file's metadata.

    Raises:
        PolicyVerificationError: the key is missing or does not read.
    """
    return _contract(_entry(metadata, "environment"))


def check_digest(data: bytes, sha256: str) -> None:
    """Holds bytes against their SHA-256.

    Raises:
        PolicyVerificationError: they differ.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise PolicyVerificationError(f"sha256 of the policy is {actual}; expected {sha256}: it was damaged")


def check_signature(session: onnxruntime.InferenceSession, contract: wire.EnvironmentContract) -> None:
    """Holds a graph's inputs and outputs against the contract.

    Raises:
        PolicyVerificationError: a name, a type or a width differs.
    """
    size = contract.action_size
    if contract.action_kind is wire.ActionKind.BOX:
        outputs = {"actions": ("float", [size]), "mean": ("float", [size]), "log_std": ("float", [size])}
    else:
        outputs = {"actions": ("int64", []), "logits": ("float", [size])}
    _check_values("input", session.get_inputs(), {"obs": ("float", [contract.observation_size])})
    _check_values("output", session.get_outputs(), outputs)


def check_golden(kind: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Holds the actions for the golden observations against the golden actions.

    Args:
        kind: which way of acting gave them, for the error.
        actual: [K, A] or [K], as the file gives them here.
        expected: the same, as the policy gave them where it was made.

    Raises:
        PolicyVerificationError: they differ by more than 1e-5, absolute and relative.
    """
    if actual.shape != expected.shape:
        raise PolicyVerificationError(
            f"golden actions have shape {list(expected.shape)}; the policy gives {list(actual.shape)}"
        )
    difference = np.abs(actual.astype(np.float64) - expected)
    # Written so that NaN on either side fails.
    within = difference <= _TOLERANCE + _TOLERANCE * np.abs(expected)
    if not within.all():
        index = int(np.argmin(within.reshape(len(within), -1).all(axis=1)))
        raise PolicyVerificationError(
            f"the policy fails its golden vectors: for observation {index} it gives "
            f"{actual[index].tolist()} ({kind}); expected {expected[index].tolist()}"
        )


def golden_from_arrays(
    observations: npt.NDArray[Any], actions: npt.NDArray[Any], contract: wire.EnvironmentContract
) -> Golden:
    """Golden vectors from arrays of the right shape.

    Raises:
        PolicyVerificationError: no vectors, or another shape.
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
        raise PolicyVerificationError(f"the file's metadata lacks {_PREFIX}{name}; it is no ThetaPrime policy")
    return value


# All that come of one meta-policy say the same.
@functools.lru_cache(maxsize=64)
def _contract(text: str) -> wire.EnvironmentContract:
    try:
        fields = json.loads(text)
        action = fields["action"]
        discrete = action["kind"] == "discrete"
        return wire.EnvironmentContract(
            environment_id=str(fields["environment_id"]),
            observation_shape=tuple(int(length) for length in fields["observation_shape"]),
            action_kind=wire.ActionKind(action["kind"]),
            action_size=int(action["count"]) if discrete else len(action["low"]),
            # JSON has no infinity: null stands where there is no bound.
            action_low=() if discrete else tuple(_bound(low, -math.inf) for low in action["low"]),
            action_high=() if discrete else tuple(_bound(high, math.inf) for high in action["high"]),
            action_start=int(action.get("start", 0)) if discrete else 0,
            horizon=int(fields["horizon"]),
            control_timestep=float(fields.get("control_timestep", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyVerificationError(f"{_PREFIX}environment does not read: {error!r}") from error


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
