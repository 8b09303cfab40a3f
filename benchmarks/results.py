"""Writes docs/results.md, and the summary in README.md: what the shipped meta-policies reach, beside the paper's."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from thetaprime.models import MetaPolicy, find_meta_policies, load_meta_policy, zoo_directory
from thetaprime.training.export.export import EVALUATION_NAME
from thetaprime.training.tasks import TASKS_OF_RECORD

ROOT: Final = Path(__file__).resolve().parent.parent
PAPER: Final = Path(__file__).with_name("maml-2017-results.csv")
PAGE: Final = ROOT / "docs" / "results.md"
README: Final = ROOT / "README.md"
_OPEN, _CLOSE = "<!-- summary -->", "<!-- /summary -->"

_HEAD: Final = """# Results

Every number on this page was measured with the shipped meta-policies by `thetaprime evaluate`, and stands beside
that of Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks* (ICML 2017),
decoded from the result files that its authors published. `make results` writes the page again from the measurements
in the zoo.

A return is undiscounted, of the stochastic policy, the mean over trajectories and then over test tasks, ± its
standard deviation over tasks. The paper's physics (rllab, MuJoCo 1.31) is not Gymnasium's, so that returns do not
carry over from one to the other. What does is the normalized score after k gradient steps,

$$S_k = \\frac{R_k - R_{\\text{pretrained},0}}{R_{\\text{oracle}} - R_{\\text{pretrained},0}},$$

0 at the pretrained policy before it adapts and 1 at the oracle, which is told the task, each in its own physics. A
weak oracle makes scores cheap, as ant-direction's does: its return and its training stand beside them. The share of
tasks with R_1 < R_0 is that of *negative adaptation*: where one step made it worse.

How ours differ from the paper's, beyond the physics: a context of a few numbers adapts and no other parameter; step
sizes are learned (Meta-SGD) and, where a best return is known, proportional to the gap to it, along the normalized
gradient; the inner loop discounts more; the first step lessens the action noise of half-cheetah and ant, which θ
explores with and θ′ does not need; the outer loop is ProMP, or TRPO (half-cheetah-direction). Two of them,
half-cheetah-direction and ant-velocity, began from an oracle's run (`thetaprime train --warm-start`): meta-training
may know the tasks it trains on, and what the oracle was told became the context that adaptation has to find. The
oracle's steps count as theirs, and the oracle that they are measured against went on to at least as many.
Navigation takes 20 trajectories for each step, where the paper took 40. The configurations in `training/configs/`
say all of it. The pretrained policy and the random one learn in the way that served each best on six tasks apart:
as the meta-policy does, or with all parameters by one of four step sizes and two discounts, with the noise lessened
or not; what serves best there may still diverge elsewhere. The oracle acts with as much noise as it learned, or
with as much less as θ′, by what returns more. Test tasks are drawn apart from those of training. The direction
tasks have two tasks only: their test tasks are so many seeds of two.
"""


def main() -> None:
    """Writes the pages, or checks that they are what the measurements say."""
    written = {PAGE: page(), README: readme()}
    for path, text in written.items():
        name = path.relative_to(ROOT)
        if sys.argv[1:] != ["--check"]:
            path.write_text(text)
            print(f"wrote {name}")
        elif not path.exists() or path.read_text() != text:
            raise SystemExit(f"{name} is out of date: run make results")
        else:
            print(f"{name} is up to date")


def page() -> str:
    """The page, in Markdown."""
    shipped, paper = _shipped(), paper_results()
    found = {name: _measured(each) for name, each in shipped.items()}
    head = ["## At a glance\n", _summary(found, paper, "")]
    head.append("\nIn brackets: 95 % bootstrap intervals over tasks, those of all seeds together.\n")
    head.append(_budgets(found))
    sections = [_section(shipped[name], measured, paper[name]) for name, measured in found.items()]
    return "\n".join([_HEAD, *head, *sections])


def readme() -> str:
    """The README, with the summary of today."""
    before, _, rest = README.read_text().partition(_OPEN)
    _, _, after = rest.partition(_CLOSE)
    found = {name: _measured(each) for name, each in _shipped().items()}
    return f"{before}{_OPEN}\n{_plain_summary(found, paper_results())}\n{_CLOSE}{after}"


def _shipped() -> dict[str, MetaPolicy]:
    """The newest version of each, in the order of the tasks of record."""
    newest = {path.parent.name: load_meta_policy(path) for path in find_meta_policies(zoo_directory())}
    return {name: newest[name] for name in TASKS_OF_RECORD if name in newest}


def _measured(meta_policy: MetaPolicy) -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(meta_policy.read_extra(EVALUATION_NAME))
    return measured


Paper = dict[str, dict[int | None, tuple[float, float]]]


def paper_results() -> dict[str, Paper]:
    """Task -> method -> gradient steps (None for the oracle) -> mean return and its standard deviation over tasks."""
    results: dict[str, Paper] = {}
    with PAPER.open() as file:
        for row in csv.DictReader(file):
            steps = int(row["gradient_steps"]) if row["gradient_steps"] else None
            value = float(row["mean_return"]), float(row["std_over_tasks"])
            results.setdefault(row["task"], {}).setdefault(row["method"], {})[steps] = value
    return results


def paper_scores(paper: Paper, method: str = "maml") -> list[float]:
    """S_0, S_1, … of the paper."""
    floor, oracle = paper["pretrained"][0][0], paper["oracle"][None][0]
    return [(mean - floor) / (oracle - floor) for steps, (mean, _) in sorted(_by_step(paper[method]).items())]


def _by_step(curve: Mapping[int | None, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    return {steps: value for steps, value in curve.items() if steps is not None}


# The shares of tasks that fell, from the same result files.
_PAPER_FELL: Final = {
    "point-navigation": 3,
    "half-cheetah-direction": 0,
    "half-cheetah-velocity": 23,
    "ant-direction": 0,
    "ant-velocity": 12,
}


def _summary(found: Mapping[str, Any], paper: Mapping[str, Paper], page: str) -> str:
    rows = [
        "| task | S_1 | paper | S_3 | paper | R_1 < R_0 | paper | 1 step against 3 of the pretrained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in found.items():
        theirs, (low, high) = paper_scores(paper[name]), measured["scores_interval_95"]
        ours = [f"**{measured['scores'][k]:.3f}** [{low[k]:.3f}, {high[k]:.3f}]" for k in (1, 3)]
        fell = f"{100 * measured['negative_adaptation'][0]:.1f} %"
        one, three = measured["returns"]["maml"][1], measured["returns"]["pretrained"][3]
        rows.append(
            f"| [{name}]({page}#{name}) | {ours[0]} | {theirs[1]:.2f} | {ours[1]} | {theirs[3]:.2f} | {fell} "
            f"| {_PAPER_FELL[name]} % | {one:.1f} against {three:.1f} |"
        )
    return "\n".join(rows)


def _plain_summary(found: Mapping[str, Any], paper: Mapping[str, Paper]) -> str:
    """The README's table: S_1 as a percentage, between the returns that it lies between."""
    rows = [
        "| task | trained on all tasks | after one step of 20 episodes | given the task | of the way | Finn et al. |",
        "|---|---|---|---|---|---|",
    ]
    for name, measured in found.items():
        returns, (low, high) = measured["returns"], measured["scores_interval_95"]
        rows.append(
            f"| [{name}](docs/results.md#{name}) | {returns['pretrained'][0]:.1f} | {returns['maml'][1]:.1f} "
            f"| {returns['oracle']:.1f} | **{measured['scores'][1]:.0%}** [{100 * low[1]:.0f}, {high[1]:.0%}] "
            f"| {paper_scores(paper[name])[1]:.0%} |".replace("%", " %")
        )
    worse = max(100 * measured["negative_adaptation"][0] for measured in found.values())
    rows.append(f"\nShare of held-out tasks that the step made worse: {worse:.1f} % (the largest of the five).")
    return "\n".join(rows)


def _budgets(found: Mapping[str, Any]) -> str:
    """S_1 by the number of trajectories that the step was taken on."""
    budgets = next(iter(found.values()))["budgets"]
    lines = [
        "## Fewer trajectories, and more\n",
        "S_1 of one gradient step on so many trajectories, with its 95 % interval over tasks.\n",
        _row("task", [str(budget) for budget in budgets]),
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name, measured in found.items():
        scored = zip(measured["scores_by_budget"], *measured["scores_by_budget_interval_95"], strict=True)
        lines.append(_row(name, [f"{score:.3f} [{low:.3f}, {high:.3f}]" for score, low, high in scored]))
    return "\n".join(lines) + "\n"


_NOTES: Final = {
    "ant-direction": "The oracle settled into a slower gait than the meta-policy, on as many environment steps and "
    "with the same settings. A score above 1 says that about this oracle, and not that adapting beats knowing.\n",
    "ant-velocity": "θ explores with twice the noise that it learned, chosen on tasks apart: with less of it, 20 "
    "trajectories do not always tell which way is faster, and on one task in twelve the step went the wrong way.\n",
}
"""What else has to be known to read a task's numbers."""


def _section(meta_policy: MetaPolicy, measured: Mapping[str, Any], paper: Paper) -> str:
    name = meta_policy.manifest.name
    steps = range(len(measured["returns"]["maml"]))
    seeds = measured["seeds"]
    lines = [
        f"## {name}\n",
        f"{measured['tasks'] // len(seeds)} test tasks of each of the seeds {', '.join(map(str, seeds))}, "
        f"{measured['trajectories']} trajectories for each gradient step. `thetaprime evaluate {name} "
        f"--tasks {measured['tasks'] // len(seeds)} {' '.join(f'--seed {seed}' for seed in seeds)}`\n",
        *([_NOTES[name]] if name in _NOTES else []),
        "| | " + " | ".join(f"{step} steps" for step in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for method, label, key in (
        ("maml", "meta-policy", "maml"),
        ("pretrained", "pretrained", "pretrained"),
        ("random", "random initialization", "random-init"),
    ):
        spread = measured["std_over_tasks"][method]
        lines.append(
            _row(label, [f"{m:.1f} ± {s:.1f}" for m, s in zip(measured["returns"][method], spread, strict=True)])
        )
        theirs = _by_step(paper[key])
        lines.append(_row("– in the paper", [_cell(theirs.get(step)) for step in steps]))
        if f"{key}-20-trajectories" in paper:
            fewer = _by_step(paper[f"{key}-20-trajectories"])
            lines.append(_row("– in the paper, 20 trajectories", [_cell(fewer.get(step)) for step in steps]))
    for file in sorted(meta_policy.manifest.files):
        if file.startswith(EVALUATION_NAME.removesuffix(".json") + "-"):
            other = json.loads(meta_policy.read_extra(file))
            curve = zip(other["returns"]["maml"], other["std_over_tasks"]["maml"], strict=True)
            label = f"meta-policy, {other['trajectories']} trajectories"
            lines.append(_row(label, [f"{mean:.1f} ± {spread:.1f}" for mean, spread in curve]))
            lines.append(_row("– its S_k", [f"{score:.3f}" for score in other["scores"]]))
    oracle = f"{measured['returns']['oracle']:.1f} ± {measured['std_over_tasks']['oracle']:.1f}"
    lines.append(_row("oracle", [oracle] + [""] * (len(steps) - 1)))
    lines.append(_row("– in the paper", [_cell(paper["oracle"][None])] + [""] * (len(steps) - 1)))
    low, high = measured["scores_interval_95"]
    scored = zip(measured["scores"], low, high, strict=True)
    lines.append(_row("S_k, 95 % interval over tasks", [f"{s:.3f} [{a:.3f}, {b:.3f}]" for s, a, b in scored]))
    by_seed = list(zip(*measured["scores_by_seed"], strict=True))
    lines.append(_row("S_k, lowest and highest seed", [f"{min(each):.3f}, {max(each):.3f}" for each in by_seed]))
    theirs_scored = paper_scores(paper)
    lines.append(_row("– in the paper", [f"{s:.2f}" for s in theirs_scored] + [""] * (len(steps) - len(theirs_scored))))
    fell = ["", *(f"{100 * share:.1f} %" for share in measured["negative_adaptation"])]
    lines.append(_row("tasks with R_k < R_0", fell))
    lines.append("\n" + _training(meta_policy))
    folder = f"../models/thetaprime/models/zoo/{name}/{meta_policy.manifest.version}"
    lines.append(f"\n![Return over gradient steps]({folder}/curves.png) ![Training]({folder}/learning.png)\n")
    return "\n".join(lines)


def _training(meta_policy: MetaPolicy) -> str:
    trained = meta_policy.manifest.provenance
    others = "; ".join(
        f"{method} {run.environment_steps / 1e6:.1f} M in {run.wall_seconds / 60:.0f} min"
        for method, run in trained.comparisons.items()
    )
    return (
        f"Environment steps in training: meta-policy {trained.environment_steps / 1e6:.1f} M in "
        f"{trained.wall_seconds / 60:.0f} min; {others}. More in its "
        f"[card](../models/thetaprime/models/zoo/{meta_policy.manifest.name}/{meta_policy.manifest.version}/README.md)."
    )


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _cell(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.1f} ± {value[1]:.1f}"


if __name__ == "__main__":
    main()
