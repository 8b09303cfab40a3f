"""``thetaprime import``."""

from pathlib import Path
from typing import Any

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import MANIFEST, complete_environment
from thetaprime.cli._environment import KeyJson, importing_id
from thetaprime.cli._files import force_option, require_new_file
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_progress


@click.group()
def command() -> None:
    """Import a policy that was trained elsewhere, to serve and adapt it."""


@command.command(
    "sb3",
    cls=Command,
    examples=(
        "thetaprime import sb3 pendulum.zip --env Pendulum-v1 --name my-pendulum",
        "thetaprime import sb3 walker.zip --env Walker2d-v5 --name my-walker \\\n    --normalization normalization.npz",
    ),
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option(
    "--env",
    "environment_id",
    required=True,
    metavar="ID",
    shell_complete=complete_environment,
    help="Gymnasium id of the environment that the policy was trained in: Id, or package.module:Id.",
)
@option("--env-args", "arguments", type=KeyJson(), multiple=True, help="An argument of it. May be repeated.")
@option(
    "--horizon",
    type=click.IntRange(min=1),
    help="Longest episode, in steps.  [default: the environment's limit]",
)
@option(
    "--normalization",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.npz",
    help="Mean and variance of the observations, for a policy that was trained with VecNormalize. Write it with "
    "numpy.savez('normalization.npz', mean=env.obs_rms.mean, var=env.obs_rms.var).  [default: raw observations]",
)
@option("--name", required=True, help="Name of the meta-policy, such as my-pendulum.", section="Artifact")
@option(
    "--version",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Version, counted from 1.",
    section="Artifact",
)
@option("--description", help="One line for people.  [default: the model's file and environment]", section="Artifact")
@option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("zoo"),
    show_default=True,
    help="Folder of artifacts to write into, as <name>/<version>.",
    section="Artifact",
)
@option(
    "--trajectories",
    type=click.IntRange(min=2),
    default=20,
    show_default=True,
    help="Episodes of one round.",
    section="Adaptation",
)
@option(
    "--discount",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=0.9,
    show_default=True,
    help="Discount of the advantages: near 1 where an action pays late, lower for less noise.",
    section="Adaptation",
)
@option(
    "--step-kl",
    type=click.FloatRange(0.0, min_open=True),
    default=0.05,
    show_default=True,
    help="Length of a step: its KL divergence in the environment above, in nats.",
    section="Adaptation",
)
@option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the measurement.")
@force_option
@json_option
def sb3(
    output: Path,
    name: str,
    version: int,
    model: Path,
    environment_id: str,
    arguments: tuple[tuple[str, Any], ...],
    description: str | None,
    force: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Import the policy of MODEL, a file that Stable-Baselines3 saved, as a meta-policy.

    PPO, A2C and TRPO with MlpPolicy, Gaussian or categorical actions. The imported policy takes the same actions as
    the original. Adaptation fine-tunes all of its parameters to a changed environment, with verdicts. Nothing in the
    file is executed: the settings are read as JSON, the weights by a reader that makes nothing but tensors.

    `thetaprime serve --zoo FOLDER` serves the artifact, and `thetaprime adapt` adapts it.
    """
    folder = output / name / str(version)
    require_new_file(folder / MANIFEST, "--output", force=force)
    # Imported here: --help needs neither torch nor a simulator.
    import gymnasium

    from thetaprime.training.importing.artifact import ImportRequest, import_policy, import_work

    console = console_for(as_json)
    request = ImportRequest(
        model=model,
        environment_id=importing_id(environment_id),
        arguments=dict(arguments),
        output=folder,
        name=name,
        version=version,
        description=description or f"The policy of {model.name}, trained in {environment_id}.",
        **fields,
    )
    try:
        with work_progress(console, f"measuring {name}", import_work(request), count=False) as advance:
            written, returns = import_policy(request, on_trajectories=advance)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise click.BadParameter(f"{environment_id}: {error}", param_hint="--env") from error
    mean, std = float(returns.mean()), float(returns.std())
    console.print(f"return in {environment_id}: {mean:.2f} ± {std:.2f} over {len(returns)} episodes", soft_wrap=True)
    console.print(f"wrote {written.directory}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "artifact": str(written.directory),
                "meta_policy": written.label,
                "policy_id": written.policy_id,
                "return": {"mean": mean, "std": std, "episodes": len(returns)},
                "step_size": written.manifest.adaptation.inner_lr,
            }
        )
