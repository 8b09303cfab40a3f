"""Policies in the forms of other engines: the options, the robot's file, and a form made without a server."""

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from thetaprime.cli._command import option
from thetaprime.cli._completion import PROFILES, complete_profile, meta_policy_names
from thetaprime.cli._suggestions import suggesting

if TYPE_CHECKING:
    from thetaprime.client import PolicyFile, RobotDescription

_Function = TypeVar("_Function", bound=Callable[..., Any])


class RobotFile(click.ParamType["RobotDescription"]):
    """The path of a TOML file that describes a robot."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "RobotDescription":
        """Reads the file."""
        from thetaprime.client import RobotDescription

        known = {field.name: field for field in dataclasses.fields(RobotDescription)}
        if isinstance(value, RobotDescription):
            return value
        try:
            fields = tomllib.loads(Path(value).read_text())
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except ValueError as error:
            self.fail(f"{value}: not TOML: {error}", param, ctx)
        required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
        if unknown := sorted(fields.keys() - known.keys()):
            self.fail(f"{value}: {', '.join(unknown)}; expected no keys but {', '.join(known)}", param, ctx)
        if missing := sorted(required - fields.keys()):
            self.fail(f"{value}: lacks {', '.join(missing)}", param, ctx)
        for name, entries in fields.items():
            kind = str if name.endswith("_names") else (int, float)
            if not isinstance(entries, list) or any(isinstance(e, bool) or not isinstance(e, kind) for e in entries):
                expected = "a list of texts" if kind is str else "a list of numbers"
                self.fail(f"{value}: {name} = {entries!r}; expected {expected}", param, ctx)
        return RobotDescription(**{name: tuple(entries) for name, entries in fields.items()})


def profile_options(function: _Function) -> _Function:
    """Adds ``--profile`` and ``--robot``."""
    function = option(
        "--robot",
        section="Output",
        type=RobotFile(),
        help="For --profile robot: a TOML file with joint_names, joint_stiffness, joint_damping, default_joint_pos, "
        "action_scale, observation_names and, if there are any, command_names.",
    )(function)
    return option(
        "--profile",
        section="Output",
        metavar="NAME",
        shell_complete=complete_profile,
        help=f"Write the policy in the form that an engine reads: {', '.join(PROFILES[:-1])} or {PROFILES[-1]}.",
    )(function)


def make_form(source: str, profile: str, robot: "RobotDescription | None") -> "PolicyFile":
    """Returns a policy of this machine in another form.

    Args:
        source: an ONNX file in the default form, the folder of an artifact, or a shipped meta-policy by name.
        profile: the form.
        robot: the robot, for the profile ``robot``.

    Raises:
        ValueError: the policy or the profile does not exist, or the profile cannot express the policy.
    """
    from thetaprime import models
    from thetaprime.client import PolicyFile

    described = None if robot is None else models.RobotDescription.model_validate(dataclasses.asdict(robot))
    models.check_profile(profile, described)
    return PolicyFile(models.derive_form(_default_form(source), profile, described).onnx)


def _default_form(source: str) -> bytes:
    from thetaprime.client import AdaptedPolicy
    from thetaprime.models import load_meta_policy, resolve_meta_policy

    if Path(source).is_file():
        return AdaptedPolicy.load(source).onnx
    with suggesting(source, meta_policy_names):
        meta_policy = load_meta_policy(resolve_meta_policy(source))
    return meta_policy.export(meta_policy.parameters).onnx
