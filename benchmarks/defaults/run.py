"""Trains a family by the recipe's defaults, and scores it between a pretrained policy and an oracle of as many steps.

python benchmarks/defaults/run.py point-navigation --minutes 10
python benchmarks/defaults/run.py families:CartPole --minutes 30 --seed 1
python benchmarks/defaults/run.py --page                    write the table of docs/your-own-tasks.md again

`families` are those of benchmarks/defaults/families.py; any reference that thetaprime train takes will do. The minutes
are of meta-training, with its measurements; a comparison gets no more. Nothing is given but the tasks, the minutes and
the seed.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

from thetaprime.training.checkpoint import RunState
from thetaprime.training.config import changed_config
from thetaprime.training.evaluation.comparisons import Comparison
from thetaprime.training.evaluation.curves import TASKS, adaptation_curve, oracle_returns, stream
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.recipe.attempts import train_recipe
from thetaprime.training.recipe.settings import settle_recipe
from thetaprime.training.resources import task_threads
from thetaprime.training.run import Progress, run_policy, run_tasks, train

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
RESULTS: Final = HERE / "results.json"
PAGE: Final = ROOT / "docs" / "your-own-tasks.md"
BEGIN, END = "<!-- defaults -->\n", "<!-- end of defaults -->\n"
_TASKS: Final = 40
_STEPS: Final = 3
_EPISODES: Final = 20
_SEED: Final = 7
_EVERY: Final = 10.0


def main() -> None:
    """Measures one family, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", help="reference of a task distribution")
    parser.add_argument("--minutes", type=float, default=30.0, help="of meta-training; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the runs; default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "defaults", help="folder of the runs")
    parser.add_argument("--page", action="store_true", help="write the table again, and measure nothing")
    arguments = parser.parse_args()
    if arguments.family is None and not arguments.page:
        parser.error("family: none; expected the reference of a task distribution, or --page")
    if arguments.family is not None:
        sys.path.insert(0, str(HERE))  # where `families` is
        row = measure(arguments.family, arguments.minutes, arguments.seed, arguments.output)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        kept = [each for each in rows if (each["family"], each["seed"]) != (row["family"], row["seed"])]
        RESULTS.write_text(json.dumps(sorted([*kept, row], key=lambda each: each["family"]), indent=1) + "\n")
        print(json.dumps(row, indent=1))
    write_page()


def measure(family: str, minutes: float, seed: int, output: Path) -> dict[str, Any]:
    """Trains and scores one family.

    Returns:
        The result, as `RESULTS` keeps it.
    """
    folder = output / f"{family.replace(':', '-')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    started, busy = time.monotonic(), _processor_seconds()
    recipe = settle_recipe(None, {"tasks": family, "minutes": minutes, "seed": seed, "tracker": "none"})
    for each in recipe.decisions:
        print(f"  {each.setting} = {each.value}: {each.reason}", flush=True)
    learned = train_recipe(recipe, folder / "maml", on_iteration=_Shown(), on_message=print)
    took, busy = time.monotonic() - started, _processor_seconds() - busy

    runs = {"maml": learned}
    for method in ("pretrained", "oracle"):
        # An oracle that arrives at once needs many short episodes for as many steps.
        minutes = max(0.1, took / 60.0)
        budget = {"minutes": minutes, "iterations": None, "environment_steps": learned.environment_steps}
        config = changed_config(learned.config, {**budget, "method": method})
        print(f"{method}: {learned.environment_steps:,} steps", flush=True)
        runs[method] = train(config, folder / method, on_iteration=_Shown())
    evaluation = evaluate(family, runs)
    low, high = evaluation.interval(evaluation.scores)
    return {
        "family": family,
        "seed": seed,
        "minutes": round(took / 60.0, 1),
        "cores": round(busy / took, 2),
        "environment_steps": learned.environment_steps,
        "iterations": learned.iteration,
        "outer_loop": learned.config.outer_loop,
        "returns": evaluation.returns["maml"].mean(1).round(2).tolist(),
        "pretrained": round(float(evaluation.returns["pretrained"].mean()), 2),
        "oracle": None if evaluation.oracle is None else round(float(evaluation.oracle.mean()), 2),
        "steps_of_comparisons": [runs[method].environment_steps for method in ("pretrained", "oracle")],
        "scores": evaluation.scores().round(3).tolist(),
        "interval": [low.round(2).tolist(), high.round(2).tolist()],
    }


def evaluate(family: str, runs: dict[str, RunState]) -> Evaluation:
    """Measures the three policies on 40 tasks that none of them was trained on, with 20 episodes for each return."""
    learned = runs["maml"]
    distribution = run_tasks(learned.config)
    tasks = list(distribution.sample_tasks(_TASKS, stream(_SEED, TASKS)))
    adaptation = learned.config.adaptation
    with task_threads(learned.config.threads) as map_tasks:
        curves = {
            method: adaptation_curve(
                distribution,
                tasks,
                run_policy(runs[method].config, distribution),
                runs[method].parameters,
                runs[method].step_sizes,
                adaptation,
                gradient_steps=_STEPS if method == "maml" else 0,
                trajectories=_EPISODES,
                seed=_SEED,
                each_task=map_tasks,
            )
            for method in ("maml", "pretrained")
        }
        oracle = runs["oracle"]
        policy = run_policy(oracle.config, run_tasks(oracle.config))
        told = oracle_returns(Comparison(policy, oracle.parameters), distribution, tasks, _EPISODES, [1.0], seed=_SEED)
    return Evaluation(family, (_SEED,), _EPISODES, tasks, curves, told[0])


class _Shown:
    """Prints an iteration every ten seconds, and the last one."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._due and progress.spent < 1.0:
            return
        self._due = time.monotonic() + _EVERY
        print(
            f"  {progress.iteration}: {progress.pre_return:.2f} -> {progress.post_return:.2f}, "
            f"{progress.environment_steps:,} steps, {progress.remaining_seconds:.0f} s left",
            flush=True,
        )


def _processor_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime
    for worker in multiprocessing.active_children():  # of Linux
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def table() -> str:
    """The results as Markdown."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    lines = [
        "| family | minutes × cores that it got | steps | pretrained | before, after 1, after 3 steps | oracle | S_1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, first, *_, last = row["returns"]
        told = row["oracle"] - row["pretrained"] > 0.05 * abs(row["pretrained"])
        low, high = row["interval"][0][1], row["interval"][1][1]
        score = f"{row['scores'][1]:.2f} ({low:.2f} to {high:.2f})" if told else "the oracle gains nothing"
        lines.append(
            f"| `{row['family'].split(':')[-1]}` | {row['minutes']:g} × {row['cores']:g} | "
            f"{row['environment_steps'] / 1e6:.1f} M | {row['pretrained']:g} | {before:g}, {first:g}, {last:g} | "
            f"{row['oracle']:g} | {score} |"
        )
    return "\n".join(lines) + "\n"


def write_page() -> None:
    """Writes the table between its marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
