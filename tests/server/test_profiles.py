"""Policies in each form: requested by profile, derived from the stored form."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnxruntime
import pytest

from thetaprime import models, wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb
from thetaprime.v1 import policy_pb2

if TYPE_CHECKING:
    from tests.support.server.service import Service

Collect = Callable[..., list[wire.Trajectory]]
ROBOT: dict[str, Any] = {
    "joint_names": ["x", "y"],
    "joint_stiffness": [20.0, 30.1],
    "joint_damping": [0.5, 0.1],
    "default_joint_pos": [0.0, -0.1],
    "action_scale": [0.25, 1 / 3],
    "observation_names": ["position"],
}


def robot(**fields: Any) -> policy_pb2.RobotDescription:
    return policy_pb2.RobotDescription(**{**ROBOT, **fields})


def theta(service: "Service", **fields: Any) -> policy_pb2.Policy:
    return service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name="point-navigation", **fields)).policy


@pytest.mark.parametrize("profile", ["epsilon", "unity-mlagents", "godot-rl", "rsl-rl", "leapp", "robot"])
def test_theta_and_theta_prime_are_served_in_every_form(service: "Service", collect: Collect, profile: str) -> None:
    created = service.create()
    session_id = created.session.session_id
    service.upload(session_id, collect(created.policy))
    batch = service.get(session_id).session.batch.sha256
    adapted = service.adapt(session_id, 0, batch).policy
    described = robot() if profile == "robot" else None
    description = models.RobotDescription.model_validate(ROBOT) if described else None

    def fetch(index: int) -> policy_pb2.Policy:
        request = service_pb.GetPolicyRequest(session_id=session_id, round=index, profile=profile, robot=described)
        return service.stub.GetPolicy(request).policy

    for default, found in ((created.policy, fetch(0)), (adapted, fetch(1))):
        made = models.derive_form(default.onnx, profile, description)
        assert (found.profile, default.profile) == (profile, "")
        assert (found.onnx, found.onnx_sha256, dict(found.metadata)) == (made.onnx, made.onnx_sha256, made.metadata)
        assert (found.policy_id, found.parent_id) == (default.policy_id, default.parent_id)
        assert found.golden == default.golden
    assert fetch(1) == fetch(1)
    assert theta(service, profile=profile, robot=described, version=2) == fetch(0)
    # The stored policy is unchanged.
    assert service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)).policy == adapted


@pytest.mark.parametrize("profile", ["", "default"])
def test_the_default_form_has_two_names_and_is_served_as_stored(service: "Service", profile: str) -> None:
    created = service.create()
    request = service_pb.GetPolicyRequest(session_id=created.session.session_id, profile=profile)
    assert service.stub.GetPolicy(request).policy == created.policy
    assert theta(service, profile=profile) == created.policy


@pytest.mark.parametrize(("fields", "field", "problem"), [
    ({"profile": "unreal"}, "profile", "'unreal'; expected one of default, epsilon, unity-mlagents, godot-rl, "
     "rsl-rl, leapp, robot"),
    ({"profile": "Epsilon"}, "profile", "'Epsilon'; expected one of"),
    ({"profile": "x" * 100_000}, "profile", "…'; expected one of"),
    ({"profile": "robot"}, "robot", "nothing; the profile 'robot' expects a description"),
    ({"profile": "godot-rl", "robot": robot()}, "robot", "the profile 'godot-rl' takes none"),
    ({"robot": robot()}, "robot", "the profile 'default' takes none"),
    ({"profile": "robot", "robot": robot(joint_names=["x"])}, "robot.joint_names", "1 entries; expected 2"),
    ({"profile": "robot", "robot": robot(joint_names=["x", "y,z"])}, "robot.joint_names[1]", "'y,z'"),
    ({"profile": "robot", "robot": robot(joint_names=["x"] * 1025)}, "robot.joint_names", "at most 1024"),
    ({"profile": "robot", "robot": robot(joint_names=["x", "y" * 10_000])}, "robot.joint_names[1]", "at most 200"),
    ({"profile": "robot", "robot": robot(action_scale=[0.1, 0.0])}, "robot.action_scale[1]", "greater than 0"),
    ({"profile": "robot", "robot": robot(joint_damping=[0.1, float("nan")])}, "robot.joint_damping[1]", "'nan'"),
    ({"profile": "robot", "robot": robot(observation_names=[])}, "robot.observation_names", "at least 1"),
])  # fmt: skip
def test_a_form_that_cannot_be_derived_is_refused(
    service: "Service", fields: dict[str, Any], field: str, problem: str
) -> None:
    session_id = service.create().session.session_id
    for call in (
        lambda: theta(service, **fields),
        lambda: service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, **fields)),
    ):
        with service.refuses(session_id) as refusal:
            call()
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert problem in refusal.message
        assert len(refusal.message) < 600


def test_an_invalid_profile_is_refused_before_the_session_is_looked_up(service: "Service") -> None:
    with service.refuses() as refusal:
        service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id="there-is-none", profile="unreal"))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_form_acts_as_the_servers_golden_vectors_say(service: "Service") -> None:
    found = theta(service, profile="robot", robot=robot())
    session = onnxruntime.InferenceSession(found.onnx, providers=["CPUExecutionProvider"])
    observations = wire.array_from_message(found.golden.observations, "observations")
    given = np.concatenate([session.run(None, {"obs": each[None]})[0] for each in observations])
    np.testing.assert_allclose(given, wire.array_from_message(found.golden.actions, "actions"), atol=1e-5)
