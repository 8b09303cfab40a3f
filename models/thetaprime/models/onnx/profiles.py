"""The profiles by name."""

import functools
from collections.abc import Callable, Mapping
from typing import Final

from thetaprime.models.onnx import epsilon, godot_rl, robot, rsl_rl, unity_mlagents
from thetaprime.models.onnx.profile import Head, OnnxForm, ProfileError, assemble_form
from thetaprime.models.onnx.robot_description import RobotDescription
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.parameters import digest_bytes

DEFAULT_PROFILE: Final = "default"
"""Contract version 1, which servers store and clients act on."""
_ROBOT: Final = "robot"
_HEADS: Final[Mapping[str, Callable[[DefaultForm], Head]]] = {
    "epsilon": epsilon.head,
    "unity-mlagents": unity_mlagents.head,
    "godot-rl": godot_rl.head,
    "rsl-rl": functools.partial(rsl_rl.head, profile="rsl-rl"),
    "leapp": functools.partial(rsl_rl.head, profile="leapp"),
}
_SHOWN: Final = 40

PROFILES: Final = (DEFAULT_PROFILE, *_HEADS, _ROBOT)
"""The names of all profiles."""


def check_profile(profile: str, robot_description: RobotDescription | None = None) -> None:
    """Checks that a profile exists and takes the description, for any policy.

    Args:
        profile: one of `PROFILES`.
        robot_description: the robot, for the profile ``robot``.

    Raises:
        ProfileError: the profile is unknown, or takes no description.
    """
    if profile not in PROFILES:
        name = repr(profile if len(profile) <= _SHOWN else profile[:_SHOWN] + "…")
        raise ProfileError("profile", f"{name}; expected one of {', '.join(PROFILES)}")
    if robot_description is not None and profile != _ROBOT:
        raise ProfileError("robot", f"a description; the profile {profile!r} takes none, only {_ROBOT!r} does")


def derive_form(onnx: bytes, profile: str, robot_description: RobotDescription | None = None) -> OnnxForm:
    """Derives the form of a profile from a policy's default form.

    Args:
        onnx: the file in the default form.
        profile: one of `PROFILES`.
        robot_description: the robot, for the profile ``robot``.

    Returns:
        The file; the same bytes for the same arguments.

    Raises:
        ProfileError: the profile is unknown, or cannot express the policy.
        ValueError: `onnx` is not a policy in the default form.
    """
    check_profile(profile, robot_description)
    source = DefaultForm.read(onnx)
    if profile == DEFAULT_PROFILE:
        return OnnxForm(profile, onnx, digest_bytes(onnx), source.metadata)
    return assemble_form(source, profile, _head(source, profile, robot_description))


def _head(source: DefaultForm, profile: str, robot_description: RobotDescription | None) -> Head:
    if profile == _ROBOT:
        return robot.head(source, robot_description)
    return _HEADS[profile](source)
