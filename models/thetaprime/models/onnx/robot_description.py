"""The description of a robot in a deployed policy's file."""

from typing import Annotated

import pydantic

from thetaprime.models.spec import Spec


def _plain(name: str) -> str:
    # The file joins names with commas, and its readers split them there.
    if not name or name != name.strip() or "," in name or not name.isprintable():
        raise ValueError("expected a name without commas, line breaks and blanks around it")
    return name


Name = Annotated[str, pydantic.Field(max_length=200), pydantic.AfterValidator(_plain)]
Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(allow_inf_nan=False, ge=0.0)]
Positive = Annotated[float, pydantic.Field(allow_inf_nan=False, gt=0.0)]


class RobotDescription(Spec):
    """The robot's data that a deployment needs beside the policy, for each joint in the order of the actions.

    No policy contains them: they belong to the robot and its environment. The joint's position target is
    ``default_joint_pos + action_scale · action``.
    """

    joint_names: tuple[Name, ...] = pydantic.Field(min_length=1)
    """[A] the joints that the actions move."""
    joint_stiffness: tuple[NotNegative, ...]
    """[A] proportional gain of each joint's position controller, N·m/rad."""
    joint_damping: tuple[NotNegative, ...]
    """[A] derivative gain of each joint's position controller, N·m·s/rad."""
    default_joint_pos: tuple[Number, ...]
    """[A] position target of each joint at action 0, rad."""
    action_scale: tuple[Positive, ...]
    """[A] change of the position target for one unit of the action, rad."""
    observation_names: tuple[Name, ...] = pydantic.Field(min_length=1)
    """The terms of the observation, in order."""
    command_names: tuple[Name, ...] = ()
    """The commands among these terms."""
