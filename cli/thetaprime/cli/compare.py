"""``thetaprime compare``."""

from pathlib import Path
from typing import Any

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import MANIFEST, complete_meta_policy
from thetaprime.cli._measurement import exported_facts, measurement_options
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_progress


@click.command(
    cls=Command,
    examples=(
        "thetaprime compare zoo/my-robot/1 --pretrained runs/pretrained --oracle runs/oracle",
        "thetaprime compare zoo/my-cheetah/1 --oracle half-cheetah-direction --seed 11 --seed 12",
    ),
)
@click.argument("artifact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option(
    "--pretrained",
    shell_complete=complete_meta_policy,
    help="The folder of a run of --method pretrained, or an artifact that has a pretrained policy. A random "
    "initialization is compared, too.",
)
@option(
    "--oracle",
    shell_complete=complete_meta_policy,
    help="The folder of a run of --method oracle, or an artifact that has an oracle.",
)
@measurement_options
@json_option
def command(artifact: Path, as_json: bool, **fields: Any) -> None:
    """Add policies to compare with to the folder ARTIFACT of an exported meta-policy, and measure it again.

    The command writes the evaluation, the figure and the model card again. θ and its ONNX form stay as they are. The
    network of a comparison may be another than the meta-policy's; its tasks are the same.
    """
    if not (artifact / MANIFEST).is_file():
        raise click.BadParameter(f"{artifact}: expected a folder with a {MANIFEST}", param_hint="ARTIFACT")
    if not fields["pretrained"] and not fields["oracle"]:
        raise click.UsageError("nothing to compare with; give --pretrained, --oracle, or both")
    # Imported here: --help needs neither torch nor a simulator.
    from thetaprime.training.export.export import compare_meta_policy, compare_work
    from thetaprime.training.export.request import CompareRequest

    console = console_for(as_json)
    request = CompareRequest(artifact=artifact, **fields)
    with work_progress(console, f"measuring {artifact}", compare_work(request), count=False) as advance:
        written, evaluation = compare_meta_policy(request, on_trajectories=advance)
    facts = exported_facts(console, written, evaluation)
    if as_json:
        print_json(facts)
