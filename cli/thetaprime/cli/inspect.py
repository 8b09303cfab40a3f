"""``thetaprime inspect``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from thetaprime.cli._command import Command
from thetaprime.cli._output import console_for, json_option, print_json

# Hundreds of numbers, or shown in another row.
_NOT_SHOWN: Final = ("thetaprime.golden", "thetaprime.environment", "thetaprime.tensors")


@click.command(
    cls=Command,
    examples=("thetaprime inspect policy.onnx", "thetaprime inspect zoo/point-navigation/1 --json"),
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Verify and describe PATH: a policy (an .onnx file, in any form), or the folder of an artifact.

    Computes every digest again, and runs the golden vectors through onnxruntime. The exit status is 0 only if every
    check passes.
    """
    facts = _artifact(path) if path.is_dir() else _policy(path)
    console = console_for(as_json)
    rows = dict(_rows("", facts))
    width = min(32, max(map(len, rows)))
    for name, value in rows.items():  # unfolded: names and digests are copied
        console.print(f"{name:<{width}}  {value}", soft_wrap=True)
    console.print(f"{path}: verified", soft_wrap=True)
    if as_json:
        print_json({"path": str(path), "verified": True, **facts})


def _policy(path: Path) -> dict[str, Any]:
    from thetaprime.cli._describe import describe_contract
    from thetaprime.client import AdaptedPolicy, PolicyFile

    file = PolicyFile.load(path)
    if file.profile == "default":
        AdaptedPolicy.load(path)  # checks the golden vectors too
    return {
        "kind": "policy",
        "profile": file.profile,
        "meta_policy": file.meta_policy,
        "policy_id": file.policy_id,
        "parent_id": file.parent_id,
        "sha256": file.sha256,
        "tensors": {each.name: str(each) for each in file.tensors},
        "environment": describe_contract(file.contract),
        "metadata": dict(file.metadata),
    }


def _artifact(directory: Path) -> dict[str, Any]:
    from thetaprime.cli._describe import describe_contract
    from thetaprime.client import AdaptedPolicy
    from thetaprime.models import load_meta_policy

    meta_policy = load_meta_policy(directory)
    policy = AdaptedPolicy.load(directory / "policy.onnx")
    if policy.policy_id != meta_policy.policy_id:
        raise ValueError(
            f"{directory}: policy.onnx holds policy {policy.policy_id}, theta.safetensors {meta_policy.policy_id}"
        )
    manifest = meta_policy.manifest.model_dump(mode="json")
    return {
        "kind": "artifact",
        "meta_policy": meta_policy.label,
        "description": manifest["description"],
        "policy_id": policy.policy_id,
        "environment": describe_contract(policy.contract),
        "policy": manifest["policy"],
        "adaptation": manifest["adaptation"],
        "learned_step_sizes": meta_policy.step_sizes is not None,
        "provenance": manifest["provenance"],
        "files": manifest["files"],
    }


def _rows(prefix: str, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Flattens nested facts into rows of a dotted name and a value."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _rows(f"{prefix}{name}.", value)
        elif name not in _NOT_SHOWN:
            yield f"{prefix}{name}", str(value)
