"""What a deployed policy's file says about its robot."""

from typing import Annotated

import pydantic

from thetaprime.models.spec import Spec


def _plain(name: str) -> str:
    # The names are joined with commas, and split at them by who reads them.
    if not name or name != name.strip() or "," in name or not name.isprintable():
        raise ValueError("expected a name without commas, line breaks and blanks around it")
    return name


Name = Annotated[str, pydantic.Field(max_length=200), pydantic.AfterValidator(_plain)]
Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(allow_inf_nan=False, ge=0.0)]
Positive = Annotated[float, pydantic.Field(allow_inf_nan=False, gt=0.0)]


class RobotDescription(Spec):
    """What a deployment has to know of a robot beside its policy, joint by joint in the order of the actions.

    A policy cannot know these: they belong to the robot, and to what its environment does with an action. The joint's
    position target is ``default_joint_pos + action_scale · action``.
    """

    joint_names: tuple[Name, ...] = pydantic.Field(min_length=1)
    """[A] the joints that the actions move."""
    joint_stiffness: tuple[NotNegative, ...]
    """[A] proportional gain of each joint's position controller, N·m/rad."""
    joint_damping: tuple[NotNegative, ...]
    """[A] its derivative gain, N·m·s/rad."""
    default_joint_pos: tuple[Number, ...]
    """[A] where each joint is held at action 0, rad."""
    action_scale: tuple[Positive, ...]
    """[A] what one unit of the action moves the target by, rad."""
    observation_names: tuple[Name, ...] = pydantic.Field(min_length=1)
    """The terms of the observation, in order."""
    command_names: tuple[Name, ...] = ()
    """The commands among them."""
