"""Profile ``robot``: the form that deployments of mjlab and Isaac Lab (rsl_rl) read.

The graph is that of the profile ``rsl-rl``. The metadata describes the conversion of the
action to joint targets, in full precision: mjlab's own exporter rounds its numbers to three decimals.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from thetaprime.models.onnx import rsl_rl
from thetaprime.models.onnx.profile import Head, ProfileError
from thetaprime.models.onnx.robot_description import RobotDescription
from thetaprime.models.onnx.source import DefaultForm

_PER_ACTION: Final = ("joint_names", "joint_stiffness", "joint_damping", "default_joint_pos", "action_scale")


def head(source: DefaultForm, robot: RobotDescription | None) -> Head:
    """The head for a policy.

    Raises:
        ProfileError: the policy's actions are discrete, or the description is missing or of another robot.
    """
    what = "the deterministic action; a joint's target is default_joint_pos + action_scale · actions"
    bare = rsl_rl.head(source, "robot", what)
    if robot is None:
        raise ProfileError(
            "robot",
            "nothing; the profile 'robot' expects a description of the robot (joint_names, joint_stiffness, "
            "joint_damping, default_joint_pos, action_scale, observation_names), which no policy contains",
        )
    size = source.action_size
    for name in _PER_ACTION:
        if len(getattr(robot, name)) != size:
            raise ProfileError(
                f"robot.{name}", f"{len(getattr(robot, name))} entries; expected {size}, one for each action"
            )
    return dataclasses.replace(
        bare,
        metadata={
            "run_path": f"{source.metadata['thetaprime.meta_policy']}/{source.metadata['thetaprime.policy_id']}",
            **{name: _csv(getattr(robot, name)) for name in (*_PER_ACTION, "observation_names", "command_names")},
        },
    )


def _csv(values: Sequence[str | float]) -> str:
    return ",".join(value if isinstance(value, str) else repr(value) for value in values)
