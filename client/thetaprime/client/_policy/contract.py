"""Reads and checks an ONNX policy file by the ONNX contract, versions 1 and 2."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import PolicyVerificationError

CONTRACT_VERSION: Final = "1"
MEMORY_CONTRACT_VERSION: Final = "2"
"""The version of files that carry a state."""
READS_CONTRACT: Final = int(MEMORY_CONTRACT_VERSION)
"""The newest version of the ONNX contract that this client reads, as its calls tell the server."""
DEFAULT_PROFILE: Final = "default"
"""The profile that clients run. Files of the default profile do not name it."""
_PREFIX: Final = "thetaprime."
PROFILE_KEY: Final = f"{_PREFIX}profile"
VERSION_KEY: Final = f"{_PREFIX}contract_version"
_DISTRIBUTIONS: Final = {wire.ActionKind.BOX: "gaussian", wire.ActionKind.DISCRETE: "categorical"}
# onnxruntime reproduces torch to 1e-5, absolute and relative.
_TOLERANCE: Final = 1e-5
_SHOWN: Final = 200
_MAX_LENGTH: Final = (1 << 31) - 1
# numpy's oldest limit.
_MAX_AXES: Final = 32


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
        has_memory: whether the policy carries a state.
    """

    policy_id: str
    parent_id: str
    meta_policy: str
    environment: wire.EnvironmentContract
    has_memory: bool


def check_file(onnx: bytes) -> wire.OnnxFile:
    """Checks a file's fields, operators, tensors and sizes by the ONNX contract, before onnxruntime sees it.

    Raises:
        PolicyVerificationError: the file violates the contract, or exceeds a limit; the error gives the path.
    """
    try:
        return wire.check_onnx(onnx)
    except wire.WireError as error:
        raise PolicyVerificationError(f"the file does not follow the ONNX contract, version 1 or 2: {error}") from error


def open_session(onnx: bytes, *, keeps_buffers: bool = False) -> onnxruntime.InferenceSession:
    """Loads a file that `check_file` accepted into onnxruntime, configured for one small network on one thread.

    Args:
        onnx: the file's bytes.
        keeps_buffers: whether the session keeps the memory of its values from run to run.

    Raises:
        PolicyVerificationError: onnxruntime cannot load the bytes.
    """
    options = onnxruntime.SessionOptions()
    # Otherwise four bytes decide, which an ONNX file can also have: as the name of its producer.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The basic level folds the constants of the graph (the context's part of the first layer, the floor of the noise),
    # which doubles the speed of a step. The extended level fuses a layer with its activation. The graph has nothing for
    # the third level, and no quantization, whose rules cost 20 KiB a session.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # A quarter of the session's memory, and no faster for a small network. The gates of a memory are larger: for a
    # thousand robots they are megabytes, which the system would clear at each run. For one robot, a plan of where the
    # values lie saves a fifth of a run.
    options.enable_cpu_mem_arena = keeps_buffers
    options.enable_mem_pattern = keeps_buffers
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    with runtime_errors("onnxruntime cannot load the policy"):
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def runtime_errors(problem: str) -> Iterator[None]:
    """Turns onnxruntime's exceptions into `PolicyVerificationError`, with `problem` before their text."""
    try:
        yield
    except PolicyVerificationError:
        raise
    except Exception as error:  # the only common base of onnxruntime's exceptions
        text = " ".join(str(error).split())
        raise PolicyVerificationError(f"{problem}: {text}") from error


def read_log_std(
    session: onnxruntime.InferenceSession,
    contract: wire.EnvironmentContract,
    more: Mapping[str, npt.NDArray[Any]] | None = None,
) -> npt.NDArray[np.float32]:
    """Returns the log standard deviation, a parameter of the policy: [A], or empty for discrete actions.

    Args:
        session: the graph's session.
        contract: the environment's contract.
        more: any values of the inputs beside the observation, for one observation.

    Raises:
        PolicyVerificationError: the graph cannot be run, or outputs another shape or infinite deviations.
    """
    if contract.action_kind is not wire.ActionKind.BOX:
        return np.zeros(0, np.float32)
    # It is the same for every observation.
    any_obs = np.zeros((1, contract.observation_size), np.float32)
    with runtime_errors("onnxruntime cannot run the policy"):
        log_std: npt.NDArray[np.float32] = session.run(["log_std"], {"obs": any_obs, **(more or {})})[0]
    if log_std.shape != (contract.action_size,):
        raise PolicyVerificationError(
            f"the policy outputs log_std of shape {list(log_std.shape)}; expected [{contract.action_size}]"
        )
    with np.errstate(over="ignore"):
        if not np.isfinite(np.exp(log_std)).all():
            raise PolicyVerificationError("the policy outputs a log_std whose standard deviation is not finite")
    return log_std


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
    if version not in (CONTRACT_VERSION, MEMORY_CONTRACT_VERSION):
        raise PolicyVerificationError(
            f"{_PREFIX}contract_version is {version!r}; this client reads {CONTRACT_VERSION!r} and "
            f"{MEMORY_CONTRACT_VERSION!r}: update thetaprime"
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
        has_memory=version == MEMORY_CONTRACT_VERSION,
    )


def read_golden(file: wire.OnnxFile, contract: wire.EnvironmentContract) -> Golden:
    """Reads the golden vectors from a file's metadata.

    Raises:
        PolicyVerificationError: the key is missing or malformed, or there are too many vectors.
    """
    fields, box = read_json(file.metadata, "golden"), contract.action_kind is wire.ActionKind.BOX
    # A number beyond float32 becomes infinite, and fails as such.
    with malformed("golden"), np.errstate(over="ignore"):
        observations = np.asarray(fields["observations"], dtype=np.float32)
        actions = np.asarray(fields["actions"], dtype=np.float32 if box else np.int64)
    return golden_from_arrays(observations, actions, contract, file.max_golden_vectors)


def read_json(metadata: Mapping[str, str], name: str, missing: str | None = None) -> Any:
    """Reads an entry of a file's metadata as JSON.

    Args:
        metadata: of the file.
        name: of the entry, without its prefix.
        missing: the text of a missing entry; None if the entry is required.

    Raises:
        PolicyVerificationError: the entry is missing, not JSON, or nested too deeply.
    """
    text = _entry(metadata, name) if missing is None else metadata.get(_PREFIX + name, missing)
    with malformed(name):
        return json.loads(text)


@contextlib.contextmanager
def malformed(name: str) -> Iterator[None]:
    """Turns what a malformed value raises while it is read into `PolicyVerificationError`.

    Args:
        name: of the entry of the metadata, without its prefix.
    """
    try:
        yield
    except RecursionError as error:
        raise PolicyVerificationError(f"{_PREFIX}{name} is malformed: nested too deeply") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        text = repr(error)
        raise PolicyVerificationError(
            f"{_PREFIX}{name} is malformed: {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"
        ) from error


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


def check_signature(
    session: onnxruntime.InferenceSession,
    contract: wire.EnvironmentContract,
    more: Mapping[str, tuple[str, list[int]]] | None = None,
) -> None:
    """Compares a graph's inputs and outputs with the contract.

    Args:
        session: the graph's session.
        contract: the environment's contract.
        more: element type and last lengths of the inputs beside the observation.

    Raises:
        PolicyVerificationError: a name, type or width differs.
    """
    size = contract.action_size
    if contract.action_kind is wire.ActionKind.BOX:
        outputs = {"actions": ("float", [size]), "mean": ("float", [size]), "log_std": ("float", [size])}
    else:
        outputs = {"actions": ("int64", []), "logits": ("float", [size])}
    _check_values("input", session.get_inputs(), {"obs": ("float", [contract.observation_size]), **(more or {})})
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


def check_golden_count(count: int, most: int) -> None:
    """Checks that a graph may be verified with a number of golden vectors.

    Raises:
        PolicyVerificationError: they would take too much memory or time.
    """
    if count > most:
        raise PolicyVerificationError(f"{_PREFIX}golden has {count} vectors; expected at most {most} for this graph")


def golden_from_arrays(
    observations: npt.NDArray[Any],
    actions: npt.NDArray[Any],
    contract: wire.EnvironmentContract,
    most: int,
) -> Golden:
    """Returns golden vectors after a check of their shapes.

    Args:
        observations: [K, *observation_shape].
        actions: [K, A] or [K].
        contract: the environment's contract.
        most: `wire.OnnxFile.max_golden_vectors` of the graph.

    Raises:
        PolicyVerificationError: there are no vectors, or too many, or a shape is wrong.
    """
    count = len(observations) if observations.ndim else 0
    box = contract.action_kind is wire.ActionKind.BOX
    action_shape = (count, contract.action_size) if box else (count,)
    if count == 0 or observations.shape != (count, *contract.observation_shape) or actions.shape != action_shape:
        raise PolicyVerificationError(
            f"golden vectors have shapes {list(observations.shape)} and {list(actions.shape)}; expected "
            f"{[max(count, 1), *contract.observation_shape]} and {list(action_shape)}"
        )
    check_golden_count(count, most)
    return Golden(observations.astype(np.float32), actions)


def _entry(metadata: Mapping[str, str], name: str) -> str:
    value = metadata.get(_PREFIX + name)
    if value is None:
        raise PolicyVerificationError(f"the file's metadata lacks {_PREFIX}{name}: it is not a ThetaPrime policy")
    return value


# Cached: every policy of a meta-policy has the same text.
@functools.lru_cache(maxsize=64)
def _parse_environment(text: str) -> wire.EnvironmentContract:
    fields = read_json({_PREFIX + "environment": text}, "environment")
    with malformed("environment"):
        action = fields["action"]
        discrete = action["kind"] == "discrete"
        return wire.EnvironmentContract(
            environment_id=str(fields["environment_id"]),
            observation_shape=_shape(fields["observation_shape"]),
            action_kind=wire.ActionKind(action["kind"]),
            action_size=_length(action["count"]) if discrete else len(action["low"]),
            # JSON has no infinity: null stands for a missing bound.
            action_low=() if discrete else tuple(_bound(low, -math.inf) for low in action["low"]),
            action_high=() if discrete else tuple(_bound(high, math.inf) for high in action["high"]),
            action_start=int(action.get("start", 0)) if discrete else 0,
            horizon=_length(fields["horizon"]),
            control_timestep=float(fields.get("control_timestep", 0.0)),
        )


def _shape(lengths: list[Any]) -> tuple[int, ...]:
    shape = tuple(map(_length, lengths[:_MAX_AXES]))
    if len(lengths) > _MAX_AXES or math.prod(shape) > _MAX_LENGTH:
        raise ValueError(f"observation_shape has {len(lengths)} axes, or more than {_MAX_LENGTH} numbers")
    return shape


def _length(value: Any) -> int:
    if not 0 < int(value) <= _MAX_LENGTH:
        raise ValueError(f"{str(value)[:20]}; expected 1 to {_MAX_LENGTH}")
    return int(value)


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
