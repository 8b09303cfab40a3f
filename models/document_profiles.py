"""Writes the tables of docs/onnx.md and docs/policies-with-memory.md from one file of each profile and kind of action.

Run ``python models/document_profiles.py``. With ``--check`` it only reports whether the page is up to date.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx
import torch

from thetaprime.models import (
    DEFAULT_PROFILE,
    PROFILES,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MemorySpec,
    OnnxTemplate,
    Policy,
    PolicySpec,
    ProfileError,
    RecurrentPolicy,
    RobotDescription,
    derive_form,
)
from thetaprime.models.exported import export_policy
from thetaprime.models.onnx.template import TENSORS

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
PAGE: Final = DOCS / "onnx.md"
MEMORY_PAGE: Final = DOCS / "policies-with-memory.md"
# Distinct lengths, so that a shape identifies its axes.
_OBSERVATION, _ACTION, _MEMORY = 17, 11, 13
_AXES: Final = {_OBSERVATION: "O", _ACTION: "A", _MEMORY: "H"}
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
    tables = {PAGE: {profile: table(profile) for profile in PROFILES}}
    tables[MEMORY_PAGE] = {DEFAULT_PROFILE: table(DEFAULT_PROFILE, MemorySpec(cell="lstm", size=_MEMORY))}
    return max(_write(page, of, check=arguments == ["--check"]) for page, of in tables.items())


def _write(page: Path, tables: Mapping[str, str], *, check: bool) -> int:
    before, name = page.read_text(), f"docs/{page.name}"
    after = before
    for profile, text in tables.items():
        after = _replaced(after, page, profile, text)
    if not check:
        page.write_text(after)
        sys.stdout.write(f"wrote {name}\n")
        return 0
    if before != after:
        sys.stdout.write(f"{name} is out of date: run models/document_profiles.py\n")
        return 1
    sys.stdout.write(f"{name} is up to date\n")
    return 0


def table(profile: str, memory: MemorySpec | None = None) -> str:
    """The table of a profile's tensors; tensors that differ between continuous and discrete actions have a row each."""
    rows = {kind: list(_rows(model)) for kind, model in _models(profile, memory)}
    every = dict.fromkeys(row for each in rows.values() for row in each)
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for row in sorted(every, key=lambda row: row.direction != "in"):
        of = [kind for kind, each in rows.items() if row in each]
        actions = "both" if len(of) == len(_KINDS) else of[0]
        lines.append(_line([f"`{row.name}`", row.direction, actions, *row[2:]]))
    return "\n".join(lines)


def _models(profile: str, memory: MemorySpec | None) -> Iterator[tuple[str, onnx.ModelProto]]:
    for kind, action in _KINDS.items():
        environment = EnvironmentContract(
            environment_id="any", observation_shape=(_OBSERVATION,), action=action, horizon=1
        )
        spec = PolicySpec(hidden_sizes=(4,), memory=memory)
        policy = Policy(environment, spec) if memory is None else RecurrentPolicy(environment, spec)
        template, observation = OnnxTemplate(policy, "any@1"), torch.zeros(1, _OBSERVATION)
        data = export_policy(policy, template, observation, policy.init(0), "").onnx
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


def _replaced(content: str, page: Path, profile: str, text: str) -> str:
    start, end = f"<!-- tensors of {profile} -->\n\n", f"\n\n<!-- /tensors of {profile} -->"
    before, found, rest = content.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} lacks {start.strip()} … {end.strip()}")
    return f"{before}{start}{text}{end}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
