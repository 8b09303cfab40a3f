"""Writes the tables of docs/onnx.md from one file of each profile and each kind of action.

Run ``python models/document_profiles.py``. With ``--check`` it only reports whether the page is up to date.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx
import torch

from thetaprime.models import (
    PROFILES,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    OnnxTemplate,
    Policy,
    PolicySpec,
    ProfileError,
    RobotDescription,
    derive_form,
)
from thetaprime.models.onnx.template import TENSORS

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "onnx.md"
# Distinct lengths, so that a shape identifies its axes.
_OBSERVATION, _ACTION = 17, 11
_AXES: Final = {_OBSERVATION: "O", _ACTION: "A"}
_KINDS: Final = {
    "continuous": BoxAction(low=(-1.0,) * _ACTION, high=(1.0,) * _ACTION),
    "discrete": DiscreteAction(count=_ACTION),
}
_ROBOT: Final = RobotDescription(
    joint_names=tuple(f"joint_{index}" for index in range(_ACTION)),
    joint_stiffness=(20.0,) * _ACTION,
    joint_damping=(0.5,) * _ACTION,
    default_joint_pos=(0.0,) * _ACTION,
    action_scale=(0.25,) * _ACTION,
    observation_names=("joint_pos", "joint_vel"),
)
_HEAD: Final = ("tensor", "direction", "actions", "shape", "dtype", "unit", "what")


class Row(NamedTuple):
    """A tensor of a profile."""

    name: str
    direction: str
    shape: str
    dtype: str
    unit: str
    what: str


def main(arguments: Sequence[str]) -> int:
    """Writes the page, or checks it; returns the exit status."""
    before = PAGE.read_text()
    after = before
    for profile in PROFILES:
        after = _replaced(after, profile, table(profile))
    name = f"docs/{PAGE.name}"
    if arguments != ["--check"]:
        PAGE.write_text(after)
        sys.stdout.write(f"wrote {name}\n")
        return 0
    if before != after:
        sys.stdout.write(f"{name} is out of date: run models/document_profiles.py\n")
        return 1
    sys.stdout.write(f"{name} is up to date\n")
    return 0


def table(profile: str) -> str:
    """The table of a profile's tensors; tensors that differ between continuous and discrete actions have a row each."""
    rows = {kind: list(_rows(model)) for kind, model in _models(profile)}
    every = dict.fromkeys(row for each in rows.values() for row in each)
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for row in sorted(every, key=lambda row: row.direction != "in"):
        of = [kind for kind, each in rows.items() if row in each]
        actions = "both" if len(of) == len(_KINDS) else of[0]
        lines.append(_line([f"`{row.name}`", row.direction, actions, *row[2:]]))
    return "\n".join(lines)


def _models(profile: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    for kind, action in _KINDS.items():
        environment = EnvironmentContract(
            environment_id="any", observation_shape=(_OBSERVATION,), action=action, horizon=1
        )
        policy = Policy(environment, PolicySpec(hidden_sizes=(4,)))
        parameters, observation = policy.init(0), torch.zeros(1, _OBSERVATION)
        golden = {"observations": observation.tolist(), "actions": policy.act(parameters, observation).tolist()}
        data, _ = OnnxTemplate(policy, "any@1").write(parameters, policy_id="", parent_id="", golden=golden)
        try:
            form = derive_form(data, profile, _ROBOT if profile == "robot" else None)
        except ProfileError:
            continue
        yield kind, onnx.ModelProto.FromString(form.onnx)


def _rows(model: onnx.ModelProto) -> Iterator[Row]:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    described = json.loads(metadata["thetaprime.tensors"]) if "thetaprime.tensors" in metadata else TENSORS
    for direction, values in (("in", model.graph.input), ("out", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = [each.dim_param or _AXES.get(each.dim_value, str(each.dim_value)) for each in tensor.shape.dim]
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            yield Row(value.name, direction, f"[{', '.join(shape)}]", dtype, *described[value.name])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _replaced(page: str, profile: str, text: str) -> str:
    start, end = f"<!-- tensors of {profile} -->\n\n", f"\n\n<!-- /tensors of {profile} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{PAGE} lacks {start.strip()} … {end.strip()}")
    return f"{before}{start}{text}{end}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
