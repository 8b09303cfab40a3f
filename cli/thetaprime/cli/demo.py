"""``thetaprime demo``."""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from thetaprime.cli._command import Command, option
from thetaprime.cli._files import NewFolder
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._server_process import server_process

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from thetaprime.cli._rollouts import Rollouts
    from thetaprime.client import AdaptedPolicy, Client

_META_POLICY: Final = "point-navigation"
_ENVIRONMENT: Final = "thetaprime.training:thetaprime/PointNavigation-v0"
_GOAL_RANGE: Final = 0.5  # meta-training drew its goals from this square
_NEEDED: Final = ("gymnasium", "matplotlib", "sqlalchemy", "torch")  # packages of each extra
_NEEDED_BY_SERVER: Final = ("sqlalchemy", "torch")
_NOT_WITH_WEB: Final = ("goal", "seed", "rounds", "trajectories", "episodes", "output", "as_json")
_EVALUATION_SEED: Final = 20_000  # adaptation uses seeds far below


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """θ_k and its measurement.

    Attributes:
        policy: θ_k.
        rollouts: fresh episodes with θ_k, by onnxruntime alone.
        adapt_ms: milliseconds from the trajectories to the loaded θ_k; None for θ_0.
    """

    policy: "AdaptedPolicy"
    rollouts: "Rollouts"
    adapt_ms: float | None


_web_option = functools.partial(option, section="Web page")


@click.command(
    cls=Command,
    examples=("thetaprime demo", "thetaprime demo --goal 0.4 -0.3 --rounds 1", "thetaprime demo --web"),
)
@option("--goal", type=(float, float), metavar="X Y", help="The goal.  [default: drawn with the seed]")
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random draw.")
@option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Adaptation steps to take.")
@option("--trajectories", type=click.IntRange(1), default=20, show_default=True, help="Episodes for each step.")
@option("--episodes", type=click.IntRange(2), default=20, show_default=True, help="Episodes to evaluate with.")
@option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"Folder with your own {_META_POLICY}.  [default: the shipped meta-policies]",
)
@option(
    "--output",
    type=NewFolder(),
    default="demo-output",
    show_default=True,
    help="Folder for the adapted policy and the picture. The demo overwrites its own files.",
)
@_web_option("--web", is_flag=True, help="Open a page in your browser, in which you choose goals.")
@_web_option(
    "--port", type=click.IntRange(0, 65535), default=0, help="With --web: port of the page.  [default: a free one]"
)
@_web_option("--no-browser", is_flag=True, help="With --web: print the address of the page without opening it.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    goal: tuple[float, float] | None,
    seed: int,
    rounds: int,
    trajectories: int,
    episodes: int,
    zoo: Path | None,
    output: Path,
    web: bool,
    port: int,
    no_browser: bool,
    as_json: bool,
) -> None:
    """Adapt a policy to a goal it has never seen, end to end.

    Starts a real server with the shipped meta-policies, collects with θ on a task outside meta-training, takes a few
    REINFORCE steps on the server, and evaluates every policy on the way with onnxruntime alone.

    With --web, the robot walks in a page of your browser and adapts to every goal that you click. The page is served
    on this machine only.
    """
    console = console_for(as_json)
    if web:
        _refuse_beside(context, web=True)
        if importlib.util.find_spec("thetaprime.cli.web") is None:
            raise RuntimeError("--web needs the web extra: pip install 'thetaprime[web]'")
        _check_extras(_NEEDED_BY_SERVER)
        from thetaprime.cli.web.show import show_page

        options = () if zoo is None else ("--zoo", str(zoo))
        show_page(_META_POLICY, options=options, port=port, browser=not no_browser, console=console)
        return
    _refuse_beside(context, web=False)
    _check_extras(_NEEDED)
    goal = goal or _draw_goal(seed)
    output.mkdir(parents=True, exist_ok=True)
    console.print(f"goal ({goal[0]:.3f}, {goal[1]:.3f}): the policy observes its position, never the goal")
    with server_process(*([] if zoo is None else ["--zoo", str(zoo)])) as server:
        # Imported while the server starts: the imports take a second or two.
        import gymnasium

        from thetaprime.client import Client
        from thetaprime.models import load_meta_policy, resolve_meta_policy
        from thetaprime.training.evaluation.curves import oracle_return
        from thetaprime.training.evaluation.figures.paths import paths_figure
        from thetaprime.training.evaluation.figures.style import number, save

        env = gymnasium.make(_ENVIRONMENT, disable_env_checker=True, goal=goal)
        meta_policy = load_meta_policy(resolve_meta_policy(_META_POLICY, zoo), zoo)
        oracle = oracle_return(meta_policy, {"goal": list(goal)}, episodes, _EVALUATION_SEED)
        with Client(server.address()) as client:
            stages = _adapt(client, env, rounds, trajectories, episodes, seed, console)
    env.close()
    console.print(_table(stages, oracle))
    onnx, picture = output / "policy.onnx", output / "paths.png"
    stages[-1].policy.save(onnx)
    titles = ("θ: before adaptation", f"θ′: after {rounds} {'round' if rounds == 1 else 'rounds'}")
    panels = [
        (f"{title}\nmean return {number(each.mean, '.1f')} (oracle {number(oracle, '.1f')})", each.paths)
        for title, each in zip(titles, (stages[0].rollouts, stages[-1].rollouts), strict=True)
    ]
    save(paths_figure(panels, goal), picture)
    console.print(f"wrote {onnx} and {picture}")
    if as_json:
        print_json(
            {
                "meta_policy": meta_policy.label,
                "task": {"goal": list(goal)},
                "trajectories": trajectories,
                "episodes": episodes,
                "rounds": [_as_json(index, stage) for index, stage in enumerate(stages)],
                "oracle_return": oracle,
                "onnx": str(onnx),
                "picture": str(picture),
            }
        )


def _refuse_beside(context: click.Context, *, web: bool) -> None:
    """Refuses options that would have no effect."""
    idle = _NOT_WITH_WEB if web else ("port", "no_browser")
    for parameter in context.command.params:
        if parameter.name in idle and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} {'does nothing' if web else 'is only'} with --web")


def _check_extras(needed: Sequence[str]) -> None:
    """Raises an error for a missing extra before anything is started or written; imports nothing."""
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def _draw_goal(seed: int) -> tuple[float, float]:
    import numpy as np

    x, y = np.random.default_rng(seed).uniform(-_GOAL_RANGE, _GOAL_RANGE, 2)
    return float(x), float(y)


def _adapt(
    client: "Client", env: Any, rounds: int, trajectories: int, episodes: int, seed: int, console: "Console"
) -> list[Stage]:
    """Adapts, and evaluates θ_0 to θ_rounds on fresh episodes."""
    from thetaprime.client import collect

    session = client.create_session(_META_POLICY)
    stages = [_stage(session.policy, env, episodes, None)]
    for round_index in range(rounds):
        collected = collect(session.policy, env, trajectories, seed=seed + round_index)
        start = time.perf_counter()
        session.upload(collected)
        policy = session.adapt()
        milliseconds = (time.perf_counter() - start) * 1e3
        console.print(f"round {round_index + 1}: {trajectories} trajectories, adapted in {milliseconds:.0f} ms")
        stages.append(_stage(policy, env, episodes, milliseconds))
    session.close()
    return stages


def _stage(policy: "AdaptedPolicy", env: Any, episodes: int, adapt_ms: float | None) -> Stage:
    from thetaprime.cli._rollouts import roll_out

    return Stage(policy, roll_out(policy.onnx, env, episodes, _EVALUATION_SEED), adapt_ms)


def _table(stages: list[Stage], oracle: float) -> "Table":
    from rich.table import Table

    table = Table("round", "mean return ± sd", "oracle", "ms for the round", title="evaluated on fresh episodes")
    for index, stage in enumerate(stages):
        milliseconds = "" if stage.adapt_ms is None else f"{stage.adapt_ms:.0f}"
        table.add_row(
            str(index), f"{stage.rollouts.mean:.2f} ± {stage.rollouts.std:.2f}", f"{oracle:.2f}", milliseconds
        )
    return table


def _as_json(index: int, stage: Stage) -> dict[str, Any]:
    return {
        "round": index,
        "mean_return": stage.rollouts.mean,
        "std_return": stage.rollouts.std,
        "adapt_ms": stage.adapt_ms,
    }
