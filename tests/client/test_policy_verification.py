"""`AdaptedPolicy` refuses damaged files and contradictory replies."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import thetaprime.client as tp
from thetaprime import models, wire
from thetaprime.v1 import policy_pb2

Artifact = Callable[[str], models.MetaPolicy]
Theta = Callable[[str], tp.AdaptedPolicy]


def edited(meta_policy: models.MetaPolicy, edit: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.ModelProto.FromString(meta_policy.export(meta_policy.parameters).onnx)
    edit(model)
    return model.SerializeToString()


def set_metadata(model: onnx.ModelProto, key: str, value: str | None) -> None:
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != key}
    onnx.helper.set_model_props(model, kept if value is None else {**kept, key: value})


def message_of(exported: models.ExportedPolicy) -> policy_pb2.Policy:
    return policy_pb2.Policy(
        policy_id=exported.policy_id,
        parent_id=exported.parent_id,
        onnx=exported.onnx,
        onnx_sha256=exported.onnx_sha256,
        metadata=exported.metadata,
        golden=policy_pb2.GoldenVectors(
            observations=wire.array_to_message(exported.golden_observations),
            actions=wire.array_to_message(exported.golden_actions),
        ),
    )


def test_a_wrong_digest_is_refused(theta: Theta, tmp_path: Path) -> None:
    policy, path = theta("pendulum"), tmp_path / "policy.onnx"
    policy.save(path)
    with pytest.raises(tp.PolicyVerificationError, match=r"policy\.onnx: sha256 .* expected 0000"):
        tp.AdaptedPolicy.load(path, sha256="0" * 64)


@pytest.mark.parametrize("data", [b"", b"not onnx", b"\x00" * 1000])
def test_bytes_that_are_not_onnx_are_refused(data: bytes) -> None:
    with pytest.raises(tp.PolicyVerificationError):
        tp.AdaptedPolicy(data)


def test_a_cut_file_is_refused(theta: Theta) -> None:
    onnx_bytes = theta("pendulum").onnx
    with pytest.raises(tp.PolicyVerificationError):
        tp.AdaptedPolicy(onnx_bytes[: len(onnx_bytes) // 2])


@pytest.mark.parametrize("name", ["pendulum", "cart-pole"])
def test_other_weights_fail_the_golden_vectors(name: str, artifact: Artifact) -> None:
    def negate(model: onnx.ModelProto) -> None:
        for initializer in model.graph.initializer:
            if initializer.name.startswith("theta.layers"):
                initializer.raw_data = (-np.frombuffer(initializer.raw_data, np.float32)).tobytes()

    with pytest.raises(tp.PolicyVerificationError, match=r"fails its golden vectors: for observation \d"):
        tp.AdaptedPolicy(edited(artifact(name), negate))


def test_weights_that_are_not_finite_fail_the_golden_vectors(artifact: Artifact) -> None:
    def poison(model: onnx.ModelProto) -> None:
        for initializer in model.graph.initializer:
            if initializer.name == "theta.layers.2.bias":
                initializer.raw_data = np.full(1, np.nan, np.float32).tobytes()

    with pytest.raises(tp.PolicyVerificationError, match="golden"):
        tp.AdaptedPolicy(edited(artifact("pendulum"), poison))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("policy_id", None, "lacks thetaprime.policy_id"),
        ("environment", None, "lacks thetaprime.environment"),
        ("golden", None, "lacks thetaprime.golden"),
        ("contract_version", "3", "contract_version is '3'; this client reads '1' and '2'"),
        ("contract_version", "2", "lacks thetaprime.memory"),
        ("environment", "{}", "environment is malformed"),
        ("environment", "no json", "environment is malformed"),
        ("golden", '{"observations": [], "actions": []}', "golden vectors have shapes"),
        ("golden", '{"observations": [[0]], "actions": [[0]]}', "golden vectors have shapes"),
        ("golden", "[", "golden is malformed"),
        ("distribution", "categorical", "distribution is 'categorical'"),
    ],
)
def test_invalid_metadata_is_refused(key: str, value: str | None, problem: str, artifact: Artifact) -> None:
    data = edited(artifact("pendulum"), lambda model: set_metadata(model, f"thetaprime.{key}", value))
    with pytest.raises(tp.PolicyVerificationError, match=problem):
        tp.AdaptedPolicy(data)


def test_a_graph_of_another_width_is_refused(artifact: Artifact) -> None:
    environment = json.loads(
        artifact("pendulum").export(artifact("pendulum").parameters).metadata["thetaprime.environment"]
    )
    environment["observation_shape"] = [4]
    golden = json.dumps({"observations": [[0, 0, 0, 0]], "actions": [[0]]})

    def widen(model: onnx.ModelProto) -> None:
        set_metadata(model, "thetaprime.environment", json.dumps(environment))
        set_metadata(model, "thetaprime.golden", golden)

    with pytest.raises(tp.PolicyVerificationError, match="input 'obs'"):
        tp.AdaptedPolicy(edited(artifact("pendulum"), widen))


def test_null_and_infinity_mean_no_bound(artifact: Artifact) -> None:
    """null and infinity both mean no bound: the action is not scaled."""
    meta_policy = artifact("half-open")
    environment = json.loads(meta_policy.export(meta_policy.parameters).metadata["thetaprime.environment"])
    environment["action"].update(low=[None, 0.0, "-Infinity"], high=["Infinity", 10.0, 5.0])

    def open_bounds(model: onnx.ModelProto) -> None:
        set_metadata(model, "thetaprime.environment", json.dumps(environment))

    policy = tp.AdaptedPolicy(edited(meta_policy, open_bounds), seed=0)
    assert policy.contract.action_low == (-math.inf, 0.0, -math.inf)
    assert policy.contract.action_high == (math.inf, 10.0, 5.0)
    given, action = policy.sample(np.zeros((100, 2), np.float32))
    np.testing.assert_array_equal(given[:, [0, 2]], action[:, [0, 2]])
    np.testing.assert_allclose(given[:, 1], (np.clip(action[:, 1], -1, 1) + 1) * 5, atol=1e-5)


def test_a_reply_loads(artifact: Artifact) -> None:
    meta_policy = artifact("cart-pole")
    exported = meta_policy.export(meta_policy.parameters, parent_id="f" * 64)
    policy = tp.AdaptedPolicy.from_message(message_of(exported))
    assert policy.parent_id == "f" * 64
    assert dict(policy.metadata) == exported.metadata


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy_id", "0" * 64),
        ("parent_id", "0" * 64),
        ("onnx_sha256", "0" * 64),
        ("metadata", {"thetaprime.policy_id": "x"}),
        ("golden", policy_pb2.GoldenVectors()),
    ],
)
def test_a_reply_that_differs_from_its_file_is_refused(field: str, value: object, artifact: Artifact) -> None:
    meta_policy = artifact("pendulum")
    message = message_of(meta_policy.export(meta_policy.parameters))
    message.ClearField(field)
    message.MergeFrom(policy_pb2.Policy(**{field: value}))  # type: ignore[arg-type]
    with pytest.raises(tp.PolicyVerificationError):
        tp.AdaptedPolicy.from_message(message)


def test_the_golden_vectors_of_a_reply_are_checked(artifact: Artifact) -> None:
    meta_policy = artifact("pendulum")
    message = message_of(meta_policy.export(meta_policy.parameters))
    actions = wire.array_from_message(message.golden.actions, "actions") + np.float32(1e-3)
    message.golden.actions.CopyFrom(wire.array_to_message(actions))
    with pytest.raises(tp.PolicyVerificationError, match="fails its golden vectors"):
        tp.AdaptedPolicy.from_message(message)
