"""Writes docs/results.md and the summary in README.md: results of the shipped meta-policies and of the paper."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from thetaprime.models import MetaPolicy, find_meta_policies, load_meta_policy, zoo_directory
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME
from thetaprime.training.tasks import TASKS_OF_RECORD

ROOT: Final = Path(__file__).resolve().parent.parent
PAPER: Final = Path(__file__).with_name("maml-2017-results.csv")
PAGE: Final = ROOT / "docs" / "results.md"
README: Final = ROOT / "README.md"
_OPEN, _CLOSE = "<!-- summary -->", "<!-- /summary -->"

_HEAD: Final = """# Results

`thetaprime evaluate` measured every number on this page with the shipped meta-policies. The page compares them with
Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks* (ICML 2017), decoded from
the result files that the authors published. `make results` writes this page from the measurements in the zoo.

A return is the undiscounted return of the stochastic policy: the mean over trajectories and then over test tasks, ±
the standard deviation over tasks. Finn et al. used another simulator (rllab, MuJoCo 1.31) than Gymnasium: compare
scores, not returns. The normalized score after k gradient steps is

$$S_k = \\frac{R_k - R_{\\text{pretrained},0}}{R_{\\text{oracle}} - R_{\\text{pretrained},0}}.$$

It is 0 for the pretrained policy before adaptation and 1 for the oracle, whose network receives the task as an
input, each in its own simulator. A weak oracle makes high scores easy: the page shows the
oracle's return and training too. The share of tasks with R_1 < R_0 is *negative adaptation*: one step made the
return worse.

The shipped meta-policies differ from the paper's in more than the simulator:

- Only a context of a few numbers adapts, and no other parameter.
- Step sizes are learned (Meta-SGD). Where the best return is known, the step is proportional to the gap to it,
  along the normalized gradient.
- The inner loop discounts more.
- The first step reduces the action noise of half-cheetah and ant: θ explores with it, and θ′ does not need it.
- The outer loop is ProMP, or TRPO for half-cheetah-direction.
- half-cheetah-direction and both ants started from an oracle's run (`thetaprime train --warm-start`):
  meta-training may know its tasks, and the oracle's task input became the context that adaptation has to find.
  Their environment steps include the oracle's. The oracle of the comparison trained for as many steps, or for more;
  that of ant-direction is the one that the meta-policy started from.
- Navigation takes 20 trajectories for each step; the paper took 40.

The configurations in `training/configs/` are complete. The pretrained and the random policy adapt in the way that
was best on six other tasks: as the meta-policy does, or with all parameters, by one of four step sizes and two
discounts, with reduced noise or not. The best way on those tasks may still diverge on others. The oracle acts with
its learned noise, or with noise reduced as for θ′: the better of both. Test tasks are held out from training. The
direction tasks have only two tasks: their test tasks are seeds of these two.
"""


_PUBLISHED: Final = "-maml"
"""Ending of the names of meta-policies that are MAML as published."""

_PUBLISHED_HEAD: Final = """## MAML as published

The meta-policies above adapt a context. These are what the paper describes: every parameter of two layers of 100 ReLU
units adapts by REINFORCE, TRPO improves θ to second order, and there is no context, no known best return and no
oracle's run before. Their cards say where their settings differ from the paper's. The comparisons are those of the
context policies below: other networks, fine-tuned as there.

| meta-policy | R_0 | R_1 | R_2 | R_3 | S_1 | paper | S_3 | paper | R_1 < R_0 | training |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Writes the pages, or checks that they are up to date."""
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
    """Returns the page as Markdown."""
    shipped, paper = _shipped(), paper_results()
    found = {name: _measured(each) for name, each in shipped.items()}
    head = ["## At a glance\n", _summary(found, paper, "")]
    head.append("\nIn brackets: 95 % bootstrap intervals over the tasks of all seeds.\n")
    head.append(_budgets(found))
    sections = [_section(shipped[name], measured, paper[name]) for name, measured in found.items()]
    return "\n".join([_HEAD, *head, _published(paper), *sections])


def readme() -> str:
    """Returns the README with the current summary."""
    before, _, rest = README.read_text().partition(_OPEN)
    _, _, after = rest.partition(_CLOSE)
    found = {name: _measured(each) for name, each in _shipped().items()}
    return f"{before}{_OPEN}\n{_plain_summary(found, paper_results())}\n{_CLOSE}{after}"


def _shipped() -> dict[str, MetaPolicy]:
    """Returns the newest version of each shipped meta-policy, in the order of `TASKS_OF_RECORD`."""
    newest = _newest()
    return {name: newest[name] for name in TASKS_OF_RECORD if name in newest}


def _newest() -> dict[str, MetaPolicy]:
    return {path.parent.name: load_meta_policy(path) for path in find_meta_policies(zoo_directory())}


def _measured(meta_policy: MetaPolicy) -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(meta_policy.read_extra(EVALUATION_NAME))
    return measured


Paper = dict[str, dict[int | None, tuple[float, float]]]


def paper_results() -> dict[str, Paper]:
    """Returns task -> method -> gradient steps (None: oracle) -> mean return and standard deviation over tasks."""
    results: dict[str, Paper] = {}
    with PAPER.open() as file:
        for row in csv.DictReader(file):
            steps = int(row["gradient_steps"]) if row["gradient_steps"] else None
            value = float(row["mean_return"]), float(row["std_over_tasks"])
            results.setdefault(row["task"], {}).setdefault(row["method"], {})[steps] = value
    return results


def paper_scores(paper: Paper, method: str = "maml") -> list[float]:
    """Returns the paper's scores S_0, S_1 and so on."""
    floor, oracle = paper["pretrained"][0][0], paper["oracle"][None][0]
    return [(mean - floor) / (oracle - floor) for steps, (mean, _) in sorted(_by_step(paper[method]).items())]


def _by_step(curve: Mapping[int | None, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    return {steps: value for steps, value in curve.items() if steps is not None}


# Percentage of tasks with R_1 < R_0, from the same result files.
_PAPER_NEGATIVE: Final = {
    "point-navigation": 3,
    "half-cheetah-direction": 0,
    "half-cheetah-velocity": 23,
    "ant-direction": 0,
    "ant-velocity": 12,
}


def _summary(found: Mapping[str, Any], paper: Mapping[str, Paper], page: str) -> str:
    rows = [
        "| task | S_1 | paper | S_3 | paper | R_1 < R_0 | paper | 1 step; pretrained after 3 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in found.items():
        theirs, (low, high) = paper_scores(paper[name]), measured["scores_interval_95"]
        ours = [f"**{measured['scores'][k]:.3f}** [{low[k]:.3f}, {high[k]:.3f}]" for k in (1, 3)]
        negative = f"{100 * measured['negative_adaptation'][0]:.1f} %"
        one, three = measured["returns"]["maml"][1], measured["returns"]["pretrained"][3]
        rows.append(
            f"| [{name}]({page}#{name}) | {ours[0]} | {theirs[1]:.2f} | {ours[1]} | {theirs[3]:.2f} | {negative} "
            f"| {_PAPER_NEGATIVE[name]} % | {one:.1f}; {three:.1f} |"
        )
    return "\n".join(rows)


def _published(paper: Mapping[str, Paper]) -> str:
    """Returns the section on the meta-policies that are MAML as published."""
    newest = _newest()
    rows = []
    for name in TASKS_OF_RECORD:
        if f"{name}{_PUBLISHED}" not in newest:
            continue
        meta_policy = newest[f"{name}{_PUBLISHED}"]
        measured = _measured(meta_policy)
        spread = zip(measured["returns"]["maml"], measured["std_over_tasks"]["maml"], strict=True)
        returns = [f"{mean:.1f} ± {std:.1f}" for mean, std in list(spread)[:4]]
        low, high = measured["scores_interval_95"]
        scores = [f"{measured['scores'][k]:.3f} [{low[k]:.3f}, {high[k]:.3f}]" for k in (1, 3)]
        theirs = paper_scores(paper[name])
        run = meta_policy.manifest.provenance
        rows.append(
            f"| [{name}{_PUBLISHED}](../models/thetaprime/models/zoo/{name}{_PUBLISHED}/{meta_policy.manifest.version}/"
            f"README.md) | {' | '.join(returns)} | {scores[0]} | {theirs[1]:.2f} | {scores[1]} | {theirs[3]:.2f} "
            f"| {100 * measured['negative_adaptation'][0]:.1f} % | {run.environment_steps / 1e6:.1f} M, "
            f"{run.wall_seconds / 60:.0f} min |"
        )
    return "\n".join([_PUBLISHED_HEAD, *rows]) + "\n" if rows else ""


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
            f"| {paper_scores(paper[name])[1]:.0%} |".replace("%", "\u00a0%")
        )
    worse = max(100 * measured["negative_adaptation"][0] for measured in found.values())
    rows.append(f"\nShare of held-out tasks that the step made worse: {worse:.1f}\u00a0% (the largest of the five).")
    return "\n".join(rows)


def _budgets(found: Mapping[str, Any]) -> str:
    """Returns the section on S_1 by number of trajectories per step."""
    budgets = next(iter(found.values()))["budgets"]
    lines = [
        "## Fewer trajectories, and more\n",
        "S_1 after one gradient step on this number of trajectories, with its 95 % interval over tasks.\n",
        _row("task", [str(budget) for budget in budgets]),
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name, measured in found.items():
        scored = zip(measured["scores_by_budget"], *measured["scores_by_budget_interval_95"], strict=True)
        lines.append(_row(name, [f"{score:.3f} [{low:.3f}, {high:.3f}]" for score, low, high in scored]))
    return "\n".join(lines) + "\n"


_NOTES: Final = {
    "ant-direction": "The oracle began where the adaptation of a first meta-policy arrived, and walked faster after "
    "200 more iterations. The meta-policy began from this oracle, and explores with four times its noise.\n",
    "ant-velocity": "θ explores with twice its learned noise, chosen on other tasks. With less noise, 20 trajectories "
    "do not always show which direction is faster, and the step made one task in twelve worse.\n",
}
"""Remarks on the numbers of a task."""


def _section(meta_policy: MetaPolicy, measured: Mapping[str, Any], paper: Paper) -> str:
    name = meta_policy.manifest.name
    steps = range(len(measured["returns"]["maml"]))
    seeds = measured["seeds"]
    lines = [
        f"## {name}\n",
        f"{measured['tasks'] // len(seeds)} test tasks for each of the seeds {', '.join(map(str, seeds))}, "
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
        if method in measured["returns"]:
            curve = zip(measured["returns"][method], measured["std_over_tasks"][method], strict=True)
            lines.append(_row(label, [f"{mean:.1f} ± {spread:.1f}" for mean, spread in curve]))
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
    negative = ["", *(f"{100 * share:.1f} %" for share in measured["negative_adaptation"])]
    lines.append(_row("tasks with R_k < R_0", negative))
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
        f"{trained.wall_seconds / 60:.0f} min; {others}. See its "
        f"[card](../models/thetaprime/models/zoo/{meta_policy.manifest.name}/{meta_policy.manifest.version}/README.md)."
    )


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _cell(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.1f} ± {value[1]:.1f}"


if __name__ == "__main__":
    main()
