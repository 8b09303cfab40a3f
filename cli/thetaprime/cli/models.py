"""``thetaprime models``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._output import console_for, json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from thetaprime import wire
    from thetaprime.client import MetaPolicyInfo

_INDENT: Final = 4


@click.command(
    cls=Command,
    examples=("thetaprime models --local", "thetaprime models --address robots.example:50051 --tls --json"),
)
@option("--local", is_flag=True, help="List the meta-policies that ship with this installation, without a server.")
@option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="List the meta-policies of a folder, without a server.",
)
@connection_options
@json_option
def command(local: bool, zoo: Path | None, as_json: bool, **connection: Any) -> None:
    """List the meta-policies of a server, of this installation, or of a folder."""
    if local or zoo is not None:
        source, found = _of_folder(zoo)
    else:
        with connect(**connection) as client:
            source, found = client.address, client.meta_policies()
    console = console_for(as_json)
    if not found:
        console.print(f"no meta-policies in {source}", soft_wrap=True)
    for index, each in enumerate(found):
        _print(console, each, first=index == 0)
    if as_json:
        print_json({"source": source, "meta_policies": [_as_json(each) for each in found]})


def _print(console: "Console", info: "MetaPolicyInfo", *, first: bool) -> None:
    """Prints a meta-policy. Names and ids stand on lines of their own and are never folded: they are copied."""
    from rich.padding import Padding
    from rich.text import Text

    contract = info.environment
    shape = "×".join(map(str, contract.observation_shape))
    episodes = f"{info.trajectories_per_round} episodes a round"
    adapts = f"adapts in its memory ({info.memory})" if info.memory else episodes
    facts = (
        f"observation {shape}, {contract.action_kind.value} action {contract.action_size}, "
        f"horizon {contract.horizon}, {adapts}"
    )
    if not first:
        console.print()
    console.print(Text(info.label, "bold"), soft_wrap=True)
    console.print(Text(f"{'':{_INDENT}}{contract.environment_id}"), soft_wrap=True)
    for line in (facts, *_reward(contract), info.description):
        console.print(Padding(Text(line), (0, 0, 0, _INDENT), expand=False))


def _reward(contract: "wire.EnvironmentContract") -> list[str]:
    """The line on the reward, if the contract states it."""
    reward = contract.reward
    if reward is None:
        return []
    line = f"reward {reward.formula}"
    if reward.return_range is not None:
        line += "; return of θ in meta-training {:.4g} to {:.4g}".format(*reward.return_range)
    return [line]


def _as_json(info: "MetaPolicyInfo") -> dict[str, Any]:
    from thetaprime.cli._describe import describe_contract

    return {**dataclasses.asdict(info), "environment": describe_contract(info.environment)}


def _of_folder(zoo: Path | None) -> tuple[str, "list[MetaPolicyInfo]"]:
    from thetaprime.cli._describe import contract_of
    from thetaprime.client import MetaPolicyInfo
    from thetaprime.models import find_meta_policies, load_meta_policy, zoo_directory

    folder = zoo_directory() if zoo is None else zoo
    found = []
    for directory in find_meta_policies(folder):
        meta_policy = load_meta_policy(directory, folder)
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
                memory=meta_policy.manifest.policy.memory.cell if meta_policy.manifest.policy.memory else "",
            )
        )
    return str(folder), found
