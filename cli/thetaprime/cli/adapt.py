"""``thetaprime adapt``."""

import contextlib
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Final

import click
import gymnasium

from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._files import CLIP_FORMATS, FIGURE_FORMATS, NewFile
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._profiles import profile_options
from thetaprime.client import AdaptedPolicy, PolicyFile, RobotDescription, ThetaPrimeError, check_environment
from thetaprime.client._progress import progress_bars

_OUR_NAMESPACE: Final = "thetaprime/"
_OUR_MODULE: Final = "thetaprime.training.tasks.environments"


class KeyJson(click.ParamType[tuple[str, Any]]):
    """``KEY=JSON``."""

    name = "KEY=JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Splits and reads one argument of the environment."""
        key, separator, text = str(value).partition("=")
        if not separator or not key.isidentifier():
            self.fail(f"{value!r}; expected KEY=JSON, such as goal=[0.3,-0.2]", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            self.fail(f"{key}={text}; {text!r} is not JSON (text takes double quotes)", param, ctx)


@click.command()
@click.argument("meta_policy", required=False)
@click.option(
    "--env",
    "env_id",
    required=True,
    metavar="ID",
    help="Gymnasium id of the environment to adapt to: Id, or package.module:Id.",
)
@click.option("--env-args", type=KeyJson(), multiple=True, help="An argument of the environment. May be repeated.")
@connection_options
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Adaptation steps to take.")
@click.option(
    "--trajectories",
    type=click.IntRange(1),
    help="Episodes for each step.  [default: as many as the meta-policy was trained with]",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the environment and of the actions.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="Seconds until all of it is given up.  [default: never]",
)
@click.option(
    "--resume",
    "session_id",
    metavar="SESSION",
    help="Go on with a session, instead of META_POLICY, until it has had --rounds.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("policy.onnx"),
    show_default=True,
    help="Where to write the adapted policy.",
)
@profile_options
@click.option(
    "--plot",
    type=NewFile(FIGURE_FORMATS),
    help="Draw the return by round, and paths or gait before and after where the environment tells them: PNG, PDF or "
    "SVG. Plays fresh episodes to do so.",
)
@click.option(
    "--video",
    type=NewFile(CLIP_FORMATS),
    help="Film an episode before and one after from the same start, side by side: MP4 or GIF. Needs no display.",
)
@json_option
def command(
    meta_policy: str | None,
    env_id: str,
    env_args: tuple[tuple[str, Any], ...],
    rounds: int,
    trajectories: int | None,
    seed: int | None,
    timeout: float | None,
    session_id: str | None,
    output: Path,
    profile: str | None,
    robot: RobotDescription | None,
    plot: Path | None,
    video: Path | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Adapt META_POLICY (name or name@version) to an environment, and write the adapted policy as ONNX.

    \b
    thetaprime adapt half-cheetah-velocity --env thetaprime/HalfCheetahVelocity-v0 \\
        --env-args goal=1.7 --plot adaptation.png --video clip.mp4

    Ctrl-C and errors leave the session to be resumed, and say how. With --resume, --plot and --video also picture a
    session that has had all its rounds, the rounds of earlier processes included.
    """  # noqa: D301  # click's mark for lines that stay as they are
    if not output.parent.is_dir():
        raise click.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    if (meta_policy is None) == (session_id is None):
        raise click.UsageError("expected either a META_POLICY to begin with, or --resume SESSION to go on")
    if robot is not None and profile is None:
        raise click.UsageError("--robot describes the robot for --profile robot")
    make, arguments = functools.partial(_make, env_id), dict(env_args)
    if video is not None and "render_mode" in arguments:
        raise click.BadParameter("render_mode is chosen by --video", param_hint="--env-args")
    console = console_for(as_json)
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(make(arguments)))
        pictures = None
        if plot is not None or video is not None:
            # Only now, and before anything is begun: a package or OpenGL may be missing.
            from thetaprime.cli._pictures import Pictures

            pictures = stack.enter_context(Pictures.prepare(env, make, arguments, plot, video, seed, console))
            env = pictures.env
        client = stack.enter_context(connect(**connection))
        with progress_bars(console) as show:
            if meta_policy is not None:
                found = client.meta_policy(meta_policy)
                check_environment(env, found.environment)  # before a session is opened for nothing
                if profile is not None:  # so is what the profile cannot express
                    client.export(found.label, profile, robot=robot)
                session = client.create_session(found.label)
            else:
                session = client.resume(str(session_id))
                if profile is not None:
                    session.export(profile, robot=robot)
            progress = show if pictures is None else pictures.recording(show)
            adapted = session.run(env, rounds, trajectories, seed=seed, progress=progress, timeout=timeout)
            with contextlib.suppress(ThetaPrimeError):  # θ′ is here; an open session expires by itself
                session.close()
        written: AdaptedPolicy | PolicyFile = adapted
        if profile is not None:
            written = session.export(profile, robot=robot)  # to be had of a closed session too
        written.save(output)
        form = f"{adapted.meta_policy} as {profile}" if profile else adapted.meta_policy
        console.print(f"wrote {output} ({form}, policy {adapted.policy_id[:12]})")
        drawn = {} if pictures is None else pictures.draw(session, _task(env_id, arguments))
    if as_json:
        print_json(
            {
                "meta_policy": adapted.meta_policy,
                "environment": env_id,
                "session": session.id,
                "policy_id": adapted.policy_id,
                "rounds": [dataclasses.asdict(report) for report in session.reports],
                "onnx": str(output),
                "profile": profile or "default",
                "sha256": written.sha256,
                **drawn,
            }
        )


def _task(env_id: str, arguments: dict[str, Any]) -> str:
    """The environment in words, for a title."""
    given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in arguments.items())
    return f"{env_id} ({given})" if given else env_id


def _make(env_id: str, arguments: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """The environment, without gymnasium's checker: `collect` holds it against the policy's contract."""
    # Gymnasium knows an environment once its module is imported, which "module:Id" asks for.
    full_id = f"{_OUR_MODULE}:{env_id}" if env_id.startswith(_OUR_NAMESPACE) else env_id
    try:
        return gymnasium.make(full_id, disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise click.BadParameter(f"{env_id}: {error}", param_hint="--env") from error
