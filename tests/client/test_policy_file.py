"""`export` returns verified policies in the profiles of other engines."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import thetaprime.client as tp
from thetaprime import models, wire
from thetaprime.client import aio
from thetaprime.v1 import policy_pb2

Artifact = Callable[[str], models.MetaPolicy]
ROBOT = tp.RobotDescription(
    joint_names=("x", "y"),
    joint_stiffness=(20.0, 30.1),
    joint_damping=(0.5, 0.1),
    default_joint_pos=(0.0, -0.1),
    action_scale=(0.25, 1 / 3),
    observation_names=("position",),
)
PROFILES = ("default", "epsilon", "unity-mlagents", "godot-rl", "rsl-rl", "leapp", "robot")


def still(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
    """Episodes of one observation, with actions that the policy samples."""
    observations = np.zeros((5, 2), np.float32)
    return [
        wire.Trajectory(
            policy_id=policy.policy_id,
            observations=observations,
            actions=policy.sample(observations)[1],
            rewards=np.arange(5, dtype=np.float32) + episode,
            terminated=False,
            truncated=True,
            final_observation=observations[0],
        )
        for episode in range(count)
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_session_exports_each_of_its_policies(client: tp.Client, profile: str, tmp_path: Path) -> None:
    robot = ROBOT if profile == "robot" else None
    session = client.create_session("point-navigation")
    theta = session.export(profile, robot=robot)
    session.upload(still(session.policy, 4))
    adapted = session.adapt()
    file = session.export(profile, robot=robot)
    assert (file.policy_id, file.parent_id) == (adapted.policy_id, theta.policy_id)
    assert (file.profile, file.meta_policy) == (profile, "point-navigation@1")
    assert session.export(profile, round=0, robot=robot).onnx == theta.onnx != file.onnx
    assert client.export("point-navigation@1", profile, robot=robot).sha256 == theta.sha256
    file.save(tmp_path / "policy.onnx")
    assert tp.PolicyFile.load(tmp_path / "policy.onnx", file.sha256).metadata == file.metadata
    session.close()
    assert session.export(profile, robot=robot).onnx == file.onnx  # readable until it expires
    if profile == "default":
        assert file.onnx == adapted.onnx
    else:
        with pytest.raises(tp.PolicyVerificationError, match=rf"policy\.onnx: the file has profile '{profile}'"):
            tp.AdaptedPolicy.load(tmp_path / "policy.onnx")


async def _export(address: str) -> tuple[tp.PolicyFile, tp.PolicyFile]:
    async with aio.Client(address) as client:
        session = await client.create_session("point-navigation")
        return await session.export("godot-rl"), await client.export("point-navigation", "godot-rl")


def test_the_asynchronous_client_exports_the_same(client: tp.Client) -> None:
    first, second = asyncio.run(_export(client.address))
    assert first.onnx == second.onnx == client.export("point-navigation", "godot-rl").onnx


def test_a_file_lists_its_tensors(client: tp.Client) -> None:
    tensors = client.export("cart-pole", "unity-mlagents").tensors
    assert tensors[0] == tp.TensorInfo(
        "obs_0", "in", ("batch", 4), "float32", "the environment's", "the observation, raw"
    )
    by_name = {each.name: each for each in tensors}
    assert (by_name["discrete_actions"].shape, by_name["discrete_actions"].dtype) == (("batch", 1), "int64")
    assert all(each.what and each.unit for each in tensors)
    assert [each.name for each in client.export("cart-pole", "default").tensors] == ["obs", "actions", "logits"]


def test_an_unknown_or_impossible_profile_is_an_invalid_input(client: tp.Client) -> None:
    with pytest.raises(tp.InvalidInputError, match=r"'unreal'; expected one of default, epsilon") as caught:
        client.export("pendulum", "unreal")
    assert [each.field for each in caught.value.violations] == ["profile"]
    with pytest.raises(tp.InvalidInputError, match="its actions are discrete"):
        client.export("cart-pole", "robot", robot=ROBOT)
    with pytest.raises(tp.InvalidInputError, match=r"robot\.joint_names: 2 entries; expected 1"):
        client.export("pendulum", "robot", robot=ROBOT)
    with pytest.raises(tp.InvalidInputError, match="robot: malformed"):
        client.export("pendulum", "robot", robot=dataclasses.replace(ROBOT, action_scale=("wide",)))  # type: ignore[arg-type]


def edited(artifact: Artifact, profile: str, edit: Callable[[onnx.ModelProto], None]) -> bytes:
    meta_policy = artifact("point-navigation")
    model = onnx.ModelProto.FromString(
        models.derive_form(meta_policy.export(meta_policy.parameters).onnx, profile).onnx
    )
    edit(model)
    return model.SerializeToString()


def set_metadata(model: onnx.ModelProto, key: str, value: str | None) -> None:
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != key}
    onnx.helper.set_model_props(model, kept if value is None else {**kept, key: value})


def golden_with(**changes: Any) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        golden = json.loads({prop.key: prop.value for prop in model.metadata_props}["thetaprime.golden"])
        set_metadata(model, "thetaprime.golden", json.dumps({**golden, **changes}))

    return edit


def rename_the_golden_inputs(model: onnx.ModelProto) -> None:
    golden = json.loads({prop.key: prop.value for prop in model.metadata_props}["thetaprime.golden"])
    count = len(next(iter(golden["inputs"].values())))
    golden_with(inputs={"somewhere": [[0.0, 0.0]] * count})(model)


def turn_a_bias(model: onnx.ModelProto) -> None:
    bias = next(each for each in model.graph.initializer if each.name == "theta.layers.2.bias")
    bias.raw_data = np.full(2, 0.3, np.float32).tobytes()


@pytest.mark.parametrize("profile", ["epsilon", "unity-mlagents", "godot-rl"])
@pytest.mark.parametrize(("edit", "problem"), [
    (turn_a_bias, "fails its golden vectors"),
    (golden_with(inputs={}), "golden inputs do not match the graph"),
    (golden_with(outputs=[]), "golden is malformed"),
    (golden_with(inputs={"obs": []}), "golden is malformed"),
    (rename_the_golden_inputs, "golden inputs do not match the graph"),
    (lambda model: set_metadata(model, "thetaprime.golden", "{"), "golden is malformed"),
    (lambda model: set_metadata(model, "thetaprime.golden", None), "lacks thetaprime.golden"),
    (lambda model: set_metadata(model, "thetaprime.policy_id", None), "not a ThetaPrime policy"),
    (lambda model: set_metadata(model, "thetaprime.tensors", "[]"), "tensors is malformed"),
])  # fmt: skip
def test_a_file_with_wrong_metadata_or_outputs_is_refused(
    artifact: Artifact, profile: str, edit: Callable[[onnx.ModelProto], None], problem: str
) -> None:
    with pytest.raises(tp.PolicyVerificationError, match=problem):
        tp.PolicyFile(edited(artifact, profile, edit))


def test_a_wrong_digest_is_refused(client: tp.Client, tmp_path: Path) -> None:
    client.export("pendulum", "epsilon").save(tmp_path / "policy.onnx")
    with pytest.raises(tp.PolicyVerificationError, match=r"policy\.onnx: sha256 .* expected 0000"):
        tp.PolicyFile.load(tmp_path / "policy.onnx", "0" * 64)


def test_a_reply_that_contradicts_its_file_is_refused(artifact: Artifact) -> None:
    meta_policy = artifact("point-navigation")
    form = models.derive_form(meta_policy.export(meta_policy.parameters).onnx, "epsilon")
    reply = policy_pb2.Policy(
        policy_id=meta_policy.policy_id,
        onnx=form.onnx,
        onnx_sha256=form.onnx_sha256,
        metadata=form.metadata,
        profile="epsilon",
    )
    assert tp.PolicyFile.from_message(reply, "epsilon").policy_id == meta_policy.policy_id
    for name, value in (("policy_id", "other"), ("metadata", {"other": "keys"})):
        changed = policy_pb2.Policy(**{**{f.name: v for f, v in reply.ListFields()}, name: value})
        with pytest.raises(tp.PolicyVerificationError, match=f"the reply has {name}"):
            tp.PolicyFile.from_message(changed, "epsilon")
    older = policy_pb2.Policy()
    older.CopyFrom(reply)
    older.profile = ""
    with pytest.raises(tp.ServerError, match="asked for the form 'epsilon', the server sent 'default': it is older"):
        tp.PolicyFile.from_message(older, "epsilon")


def test_the_epsilon_profile_samples_as_the_policy_does(client: tp.Client) -> None:
    """The file and `AdaptedPolicy.sample` compute equal actions from equal noise."""
    policy, file = client.theta("point-navigation"), client.export("point-navigation", "epsilon")
    session = onnxruntime.InferenceSession(file.onnx, providers=["CPUExecutionProvider"])
    observations = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    noise = np.random.default_rng(2).standard_normal((20, 2), dtype=np.float32)
    action, recorded = policy.sample(observations, rng=np.random.default_rng(2))
    given = session.run(["actions", "policy_actions"], {"obs": observations, "epsilon": noise})
    np.testing.assert_allclose(given[0], action, atol=1e-6)
    np.testing.assert_allclose(given[1], recorded, atol=1e-6)
