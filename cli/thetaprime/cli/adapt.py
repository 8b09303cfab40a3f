"""``thetaprime adapt``."""

import contextlib
import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import complete_environment, complete_meta_policy
from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._environment import KeyJson, make_environment
from thetaprime.cli._files import CLIP_FORMATS, FIGURE_FORMATS, NewFile, force_option
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._profiles import profile_options
from thetaprime.cli._resume import resumable
from thetaprime.cli._suggestions import suggesting

if TYPE_CHECKING:
    import gymnasium
    from rich.console import Console

    from thetaprime.client import (
        Adaptation,
        AdaptedPolicy,
        Client,
        PolicyFile,
        Progress,
        ReasonCode,
        RobotDescription,
        Session,
    )
    from thetaprime.client._progress import Show

_task_option = functools.partial(option, section="Task")
_round_option = functools.partial(option, section="Rounds")
_trust_option = functools.partial(option, section="Trust")
_NOTHING_GAINED: Final = 3
_SESSION_OPTIONS: Final = ("caution", "reward_scale", "reward_offset", "max_kl")
_output_option = functools.partial(option, section="Output")


@click.command(
    cls=Command,
    examples=(
        "thetaprime adapt point-navigation --env thetaprime/PointNavigation-v0 --env-args 'goal=[0.4,-0.3]'",
        "thetaprime adapt half-cheetah-velocity --env thetaprime/HalfCheetahVelocity-v0 \\\n"
        "    --env-args goal=1.7 --plot adaptation.png --video clip.mp4",
        "thetaprime adapt my-robot --env my_package:MyRobot-v0 --address robots.example:50051 --tls",
    ),
)
@click.argument("meta_policy", required=False, shell_complete=complete_meta_policy)
@_task_option(
    "--env",
    "env_id",
    required=True,
    metavar="ID",
    shell_complete=complete_environment,
    help="Gymnasium id of the environment to adapt to: Id, or package.module:Id. package.module:Class of a task "
    "distribution makes the environment of one task.",
)
@_task_option(
    "--env-args",
    type=KeyJson(),
    multiple=True,
    help="An argument of the environment, or a number of the task. May be repeated.",
)
@_round_option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Adaptation steps to take.")
@_round_option(
    "--trajectories",
    type=click.IntRange(1),
    help="Episodes for each step.  [default: as many as the meta-policy was trained with]",
)
@_round_option(
    "--verify",
    type=click.IntRange(0),
    help="Episodes that measure the last policy, which is handed out only if it is the best one; 0 for none.  "
    "[default: a quarter of a round, at least 5]",
)
@_round_option("--seed", type=click.IntRange(0), help="Seed of the environment and of the actions.")
@_round_option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds for the whole command.  [default: no limit]"
)
@_round_option(
    "--resume",
    "session_id",
    metavar="SESSION",
    help="Go on with a session, in place of META_POLICY, until it has had --rounds.",
)
@_trust_option(
    "--caution",
    type=click.Choice(["off", "warn", "hold"]),
    help="hold: a step that is predicted to hurt is shortened or held, and one that did hurt is rolled back. warn: "
    "every step is taken, and its verdict says what hold would have done. off: every step is taken.  [default: hold]",
)
@_trust_option(
    "--reward-scale",
    type=click.FloatRange(0, min_open=True),
    metavar="A",
    help="The task's rewards are A·r + B, where r has the units of meta-training (`thetaprime models` shows them).  "
    "[default: as far as the rewards tell]",
)
@_trust_option("--reward-offset", type=float, metavar="B", help="See --reward-scale.")
@_trust_option(
    "--max-kl",
    type=click.FloatRange(0, min_open=True),
    metavar="NATS",
    help="Longest step, as mean KL divergence between two policies. For robots.  [default: no limit]",
)
@_output_option(
    "--output", type=NewFile(), default="policy.onnx", show_default=True, help="File of the adapted policy, ONNX."
)
@profile_options
@_output_option(
    "--plot",
    type=NewFile(FIGURE_FORMATS),
    help="Draw the return by round, and paths or gait before and after where the environment tells them: PNG, PDF or "
    "SVG. Plays fresh episodes for it.",
)
@_output_option(
    "--video",
    type=NewFile(CLIP_FORMATS),
    help="Film an episode before and an episode after from the same start, side by side: MP4 or GIF. Needs no display.",
)
@force_option
@connection_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    meta_policy: str | None,
    env_id: str,
    env_args: tuple[tuple[str, Any], ...],
    rounds: int,
    trajectories: int | None,
    seed: int | None,
    verify: int | None,
    caution: str | None,
    reward_scale: float | None,
    reward_offset: float | None,
    max_kl: float | None,
    timeout: float | None,
    session_id: str | None,
    output: Path,
    profile: str | None,
    robot: "RobotDescription | None",
    plot: Path | None,
    video: Path | None,
    force: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Adapt META_POLICY (name or name@version) to an environment, and write the adapted policy as ONNX.

    Prints the return of θ and of each θ′, and a verdict on each step: whether the task is like those of meta-training,
    what the step is expected to gain, and what it did gain. `thetaprime explain SESSION` tells more.

    The exit status is 3 if nothing was gained beyond noise; the file is written all the same. With --caution off or
    warn, and with --verify 0, it is 0.

    Ctrl-C and errors keep the session, and print the command line that resumes it. With --resume, --plot and --video
    also picture a session that has had all its rounds, the rounds of earlier processes included.
    """
    if (meta_policy is None) == (session_id is None):
        raise click.UsageError("expected either a META_POLICY to begin with, or --resume SESSION to go on")
    if robot is not None and profile is None:
        raise click.UsageError("--robot describes the robot for --profile robot")
    options = {"caution": caution, "reward_scale": reward_scale, "reward_offset": reward_offset, "max_kl": max_kl}
    given = [name for name in _SESSION_OPTIONS if options[name] is not None]
    if session_id is not None and given:
        flag = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{flag} belongs to a new session; a resumed session keeps its own")
    make, arguments = functools.partial(make_environment, env_id), dict(env_args)
    if video is not None and "render_mode" in arguments:
        raise click.BadParameter("render_mode is chosen by --video", param_hint="--env-args")
    from thetaprime.client import ThetaPrimeError
    from thetaprime.client._progress import progress_bars

    console = console_for(as_json)
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(make(arguments)))
        pictures = None
        if plot is not None or video is not None:
            # Before a session begins: a package or OpenGL may be missing.
            from thetaprime.cli._pictures import Pictures

            pictures = stack.enter_context(Pictures.prepare(env, make, arguments, plot, video, seed, console))
            env = pictures.env
        client = stack.enter_context(connect(**connection))
        if meta_policy:
            session = _begun(client, meta_policy, env, profile, robot, options)
        else:
            session = client.resume(str(session_id))
        if meta_policy is None and profile is not None:
            session.export(profile, robot=robot)  # refused now where the profile cannot express the policy
        console.print(f"session {session.id} of {session.meta_policy.label}", soft_wrap=True)
        stack.enter_context(resumable(context, session, output))
        with progress_bars(console) as show:
            told = _telling(console, show)
            progress = told if pictures is None else pictures.recording(told)
            adapted = session.run(
                env, rounds, trajectories, verify=verify, seed=seed, progress=progress, timeout=timeout
            )
        if adapted.history and adapted.history[-1].report is None:
            console.print(str(adapted.history[-1]), soft_wrap=True)
        console.print(adapted.summary, soft_wrap=True)
        # A closed session still exports.
        written: AdaptedPolicy | PolicyFile = (
            adapted if profile is None else session.export(profile, round=adapted.round, robot=robot)
        )
        written.save(output)
        form = f"{adapted.meta_policy} as {profile}" if profile else adapted.meta_policy
        console.print(f"wrote {output} ({form}, policy {adapted.policy_id[:12]})", soft_wrap=True)
        with contextlib.suppress(ThetaPrimeError):  # the policy is written; an open session expires by itself
            session.close()
        drawn = {} if pictures is None else pictures.draw(session, adapted.round, _task(env_id, arguments))
    if as_json:
        print_json(
            {
                "meta_policy": adapted.meta_policy,
                "environment": env_id,
                "session": session.id,
                "policy_id": adapted.policy_id,
                "round": adapted.round,
                "improved": adapted.improved,
                "gain": None if adapted.gain is None else dataclasses.asdict(adapted.gain),
                "rounds": [dataclasses.asdict(report) for report in session.reports],
                "verification": _verification(adapted),
                "onnx": str(output),
                "profile": profile or "default",
                "sha256": written.sha256,
                **drawn,
            }
        )
    if adapted.improved is False and verify != 0 and session.caution == "hold":
        context.exit(_NOTHING_GAINED)


def _telling(console: "Console", show: "Show") -> "Show":
    """Returns a callable that shows progress, and after each step the policy's return and the verdict in lines."""
    told: set[ReasonCode] = set()

    def tell(progress: "Progress") -> None:
        from thetaprime.client import RoundResult

        if progress.report is None or console.is_terminal:
            show(progress)
        if progress.report is not None:
            result = RoundResult.of_report(progress.report)
            console.print(str(result), soft_wrap=True)
            if result.verdict is not None:
                console.print(f"    {result.verdict.line(told)}", soft_wrap=True)
                told.update(reason.code for reason in result.verdict.reasons)

    return tell


def _verification(adapted: "Adaptation") -> dict[str, Any] | None:
    """Returns the entry of the last policy's episodes; None without them."""
    last = adapted.history[-1] if adapted.history else None
    if last is None or last.report is not None:
        return None
    numbers = ("round", "trajectories", "mean_return", "std_return")
    return {name: getattr(last, name) for name in numbers}


def _begun(
    client: "Client",
    meta_policy: str,
    env: "gymnasium.Env[Any, Any]",
    profile: str | None,
    robot: "RobotDescription | None",
    options: dict[str, Any],
) -> "Session":
    """Creates a session, once the environment and the profile are known to fit the meta-policy."""
    from thetaprime.client import check_environment

    def served() -> list[str]:
        labels = [each.label for each in client.meta_policies()]
        return [*labels, *(label.partition("@")[0] for label in labels)]

    with suggesting(meta_policy, served):
        found = client.meta_policy(meta_policy)
    check_environment(env, found.environment)
    if profile is not None:
        client.export(found.label, profile, robot=robot)
    return client.create_session(found.label, **options)


def _task(env_id: str, arguments: dict[str, Any]) -> str:
    """Returns the environment in words, for a title."""
    given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in arguments.items())
    return f"{env_id} ({given})" if given else env_id
