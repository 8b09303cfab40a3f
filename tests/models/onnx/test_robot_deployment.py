"""What deployments of mjlab and Isaac Lab read from a policy's file.

The keys and their form are those of `get_base_metadata` and `attach_metadata_to_onnx` in mjlab's exporter
(src/mjlab/rl/exporter_utils.py); names, shapes and the batch of one those of rsl_rl's MLP export, which Isaac Lab uses.
The reader below checks what controllers that are started from such a file check before a robot moves.
"""

import dataclasses
import math
import re

import numpy as np
import onnx
import onnxruntime
import pydantic
import pytest

from tests.support.models.policy_cases import CASES, Array, Case, play, robot_of
from thetaprime.models import ProfileError, RobotDescription, derive_form

EXPRESSED = [case for case in CASES.values() if case.policy.continuous]


@dataclasses.dataclass
class Controller:
    """A joint position controller, as a deployment makes it of a file."""

    session: onnxruntime.InferenceSession
    joint_names: list[str]
    stiffness: list[float]
    damping: list[float]
    default: list[float]
    scale: list[float]
    observation_names: list[str]
    command_names: list[str]

    def target(self, observation: list[float]) -> Array:
        action = self.session.run(["actions"], {"obs": np.array([observation], np.float32)})[0][0]
        target: Array = np.array(self.default) + np.array(self.scale) * action
        return target


def deploy(data: bytes, observation_size: int, joints: list[str]) -> Controller:
    model = onnx.ModelProto.FromString(data)
    onnx.checker.check_model(model)
    assert [each.name for each in model.graph.input] == ["obs"]
    assert [each.name for each in model.graph.output] == ["actions"]
    assert _shape(model.graph.input[0]) == [1, observation_size]
    assert _shape(model.graph.output[0]) == [1, len(joints)]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["run_path"]
    assert metadata["joint_names"].split(",") == joints

    def numbers(key: str) -> list[float]:
        values = [float(each) for each in metadata[key].split(",")]
        assert len(values) == len(joints), key
        assert all(map(math.isfinite, values)), key
        return values

    controller = Controller(
        session,
        joints,
        numbers("joint_stiffness"),
        numbers("joint_damping"),
        numbers("default_joint_pos"),
        numbers("action_scale"),
        metadata["observation_names"].split(","),
        metadata["command_names"].split(","),
    )
    assert min(controller.scale) > 0
    assert min(controller.stiffness + controller.damping) >= 0
    return controller


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    assert not any(dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("case", EXPRESSED, ids=lambda case: case.name)
def test_a_controller_drives_the_joints_to_the_policy_s_targets(case: Case) -> None:
    robot = case.robot
    data = derive_form(case.onnx, "robot", robot).onnx
    controller = deploy(data, case.policy.environment.observation_size, list(robot.joint_names))
    # Every number to the last bit.
    assert controller.stiffness == list(robot.joint_stiffness)
    assert controller.damping == list(robot.joint_damping)
    assert controller.default == list(robot.default_joint_pos)
    assert controller.scale == list(robot.action_scale)
    assert (controller.observation_names, controller.command_names) == (["joint_pos", "joint_vel"], ["twist"])
    observations = play(case)[:, 0]
    expected = np.array(robot.default_joint_pos) + np.array(robot.action_scale) * case.act(observations)
    targets = np.stack([controller.target(observation.tolist()) for observation in observations])
    np.testing.assert_allclose(targets, expected, rtol=1e-5, atol=1e-5)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ProfileError, match="profile: 'robot' cannot express this policy: its actions are discrete"):
        derive_form(CASES["discrete"].onnx, "robot", robot_of(4))


def test_a_missing_or_mismatched_robot_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"^robot: nothing; the profile 'robot' expects a description"):
        derive_form(CASES["bounded"].onnx, "robot")
    with pytest.raises(ProfileError, match=r"^robot\.joint_names: 2 entries; expected 3, one for each action"):
        derive_form(CASES["bounded"].onnx, "robot", robot_of(2))
    with pytest.raises(ProfileError, match=r"^robot: a description; the profile 'epsilon' takes none"):
        derive_form(CASES["bounded"].onnx, "epsilon", robot_of(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("joint_names", ("hip", "knee,left", "ankle")),
        ("joint_names", ("hip", " knee", "ankle")),
        ("joint_names", ("hip", "", "ankle")),
        ("joint_names", ()),
        ("joint_stiffness", (1.0, -1.0, 1.0)),
        ("joint_damping", (1.0, math.inf, 1.0)),
        ("default_joint_pos", (0.0, math.nan, 0.0)),
        ("action_scale", (1.0, 0.0, 1.0)),
        ("observation_names", ("a\nb",)),
        ("command_names", ("",)),
    ],
)
def test_an_ambiguous_description_is_refused(field: str, value: tuple[object, ...]) -> None:
    fields = {**robot_of(3).model_dump(), field: value}
    with pytest.raises(pydantic.ValidationError, match=re.escape(field)):
        RobotDescription.model_validate(fields)
