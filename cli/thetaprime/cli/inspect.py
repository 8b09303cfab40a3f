"""``thetaprime inspect``."""

from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape
from rich.table import Table

from thetaprime.cli._describe import describe_contract
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.client import AdaptedPolicy, PolicyFile

# Hundreds of numbers, or shown already.
_NOT_SHOWN: Final = ("thetaprime.golden", "thetaprime.environment", "thetaprime.tensors")


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Verify and describe PATH: a policy (an .onnx file, in any form), or the folder of an artifact.

    Every digest is computed again, and the golden vectors are run through onnxruntime. Ends with a status other than
    0 where something does not fit.
    """
    facts = _artifact(path) if path.is_dir() else _policy(path)
    table = Table(title=str(path), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    _add_rows(table, "", facts)
    console = console_for(as_json)
    console.print(table)
    console.print("verified")
    if as_json:
        print_json({"path": str(path), "verified": True, **facts})


def _policy(path: Path) -> dict[str, Any]:
    file = PolicyFile.load(path)
    if file.profile == "default":
        AdaptedPolicy.load(path)  # which acts on it, and checks more
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


def _add_rows(table: Table, prefix: str, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            _add_rows(table, f"{prefix}{name}.", value)
        elif name not in _NOT_SHOWN:
            table.add_row(f"{prefix}{name}", escape(str(value)))
