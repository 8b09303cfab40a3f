"""``thetaprime models``."""

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._describe import describe_contract
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.client import MetaPolicyInfo


@click.command()
@connection_options
@click.option("--local", is_flag=True, help="List the meta-policies that ship with this installation; no server.")
@click.option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="List the meta-policies of a folder; no server.",
)
@json_option
def command(local: bool, zoo: Path | None, as_json: bool, **connection: Any) -> None:
    """List the meta-policies of a server, of this installation, or of a folder."""
    if local or zoo is not None:
        source, found = _of_folder(zoo)
    else:
        with connect(**connection) as client:
            source, found = client.address, client.meta_policies()
    table = Table()
    table.add_column("meta-policy", no_wrap=True)
    for name in ("environment", "observation", "actions", "horizon", "episodes", "description"):
        table.add_column(name, overflow="fold")
    for each in found:
        contract = each.environment
        table.add_row(
            each.label,
            contract.environment_id,
            str(list(contract.observation_shape)),
            f"{contract.action_kind.value} {contract.action_size}",
            str(contract.horizon),
            f"{each.trajectories_per_round} a round",
            each.description,
        )
    console = console_for(as_json)
    console.print(table if found else f"no meta-policies in {source}")
    if as_json:
        print_json({"source": source, "meta_policies": [_as_json(each) for each in found]})


def _as_json(info: MetaPolicyInfo) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "environment": describe_contract(info.environment)}


def _of_folder(zoo: Path | None) -> tuple[str, list[MetaPolicyInfo]]:
    from thetaprime.cli._describe import contract_of
    from thetaprime.models import find_meta_policies, load_meta_policy, zoo_directory

    folder = zoo_directory() if zoo is None else zoo
    found = []
    for directory in find_meta_policies(folder):
        meta_policy = load_meta_policy(directory)
        manifest, adaptation = meta_policy.manifest, meta_policy.manifest.adaptation
        found.append(
            MetaPolicyInfo(
                name=manifest.name,
                version=manifest.version,
                description=manifest.description,
                environment=contract_of(manifest.environment),
                inner_lr=0.0 if meta_policy.step_sizes else adaptation.inner_lr or adaptation.context_lr,
                trajectories_per_round=adaptation.trajectories_per_round,
                inner_steps=adaptation.inner_steps,
                discount=adaptation.discount,
                policy_id=meta_policy.policy_id,
                parameter_count=sum(value.numel() for value in meta_policy.parameters.values()),
            )
        )
    return str(folder), found
