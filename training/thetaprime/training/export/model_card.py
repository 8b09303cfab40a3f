"""The model card of a meta-policy: its interface, its evaluation, its training."""

from collections.abc import Sequence
from typing import Final

from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    ComparisonRun,
    EnvironmentContract,
    Manifest,
    MetaPolicy,
    PolicySpec,
    Provenance,
)
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.published import published_maml

CARD_NAME: Final = "README.md"
FIGURE_NAME: Final = "curves.png"
LEARNING_NAME: Final = "learning.png"
NOTES_NAME: Final = "notes.md"
"""Text for the card from the one who exported."""


def returns_table(evaluation: Evaluation) -> str:
    """A Markdown table of the mean return ± standard deviation over tasks, and S_k, by gradient step."""
    steps = range(len(evaluation.returns["maml"]))
    rows = ["| gradient steps | " + " | ".join(str(step) for step in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    names = {"maml": "meta-policy", "pretrained": "pretrained", "random": "random initialization"}
    for method, curve in evaluation.returns.items():
        cells = [f"{row.mean():.2f} ± {row.std():.2f}" for row in curve]
        rows.append(f"| {names[method]} | " + " | ".join(cells) + " |")
    if evaluation.oracle is not None:
        oracle = f"{evaluation.oracle.mean():.2f} ± {evaluation.oracle.std():.2f}"
        rows.append("| oracle | " + oracle + " |" * len(steps))
    if evaluation.scored:
        low, high = evaluation.interval(evaluation.scores)
        scores = [f"{s:.3f} [{a:.3f}, {b:.3f}]" for s, a, b in zip(evaluation.scores(), low, high, strict=True)]
        rows.append("| S_k, 95 % interval | " + " | ".join(scores) + " |")
        if len(evaluation.seeds) > 1:
            ends = zip(evaluation.scores_by_seed().min(0), evaluation.scores_by_seed().max(0), strict=True)
            rows.append("| S_k, lowest and highest seed | " + " | ".join(f"{a:.3f}, {b:.3f}" for a, b in ends) + " |")
    else:
        low, high = evaluation.return_interval("maml")
        means = [f"[{a:.2f}, {b:.2f}]" for a, b in zip(low, high, strict=True)]
        rows.append("| meta-policy, 95 % interval | " + " | ".join(means) + " |")
    fallen = ["–", *(f"{100 * share:.1f} %" for share in evaluation.negative_adaptation())]
    rows.append("| tasks with R_k < R_0 | " + " | ".join(fallen) + " |")
    return "\n".join(rows)


def budgets_table(evaluation: Evaluation) -> str:
    """A Markdown table of R_1, and of S_1 if there is a score, by the number of trajectories of the gradient step."""
    rows = [
        "| trajectories | " + " | ".join(map(str, evaluation.budgets)) + " |",
        "|---" * (len(evaluation.budgets) + 1) + "|",
    ]
    if evaluation.scored:
        low, high = evaluation.interval(evaluation.scores_by_budget)
        scores = zip(evaluation.scores_by_budget(), low, high, strict=True)
        rows.append("| S_1, 95 % interval | " + " | ".join(f"{s:.3f} [{a:.3f}, {b:.3f}]" for s, a, b in scores) + " |")
    else:
        returns = [f"{row.mean():.2f} ± {row.std():.2f}" for row in evaluation.by_budget]
        rows.append("| R_1 | " + " | ".join(returns) + " |")
    return "\n".join(rows)


def _warm_start(manifest: Manifest) -> str:
    """The paragraph on the oracle's run that θ was initialized from; its cost is a part of θ's."""
    warm = manifest.provenance.warm_start
    if warm is None:
        return ""
    return f"""
The meta-policy was initialized from an oracle's run, with the task as its context: {warm.iterations} iterations and
{warm.environment_steps:,} environment steps, which count as its own. It then learned to find the context from rewards.
"""


def _discounts(adaptation: AdaptationSpec) -> str:
    """The discount of an inner loop, and the other ones if it has some."""
    others = " or ".join(f"{each:g}" for each in adaptation.late_discounts)
    return f"{adaptation.discount:g}" + (f" ({others} for tasks whose rewards come late)" if others else "")


def _seeds(evaluation: Evaluation) -> str:
    return ("seed " if len(evaluation.seeds) == 1 else "seeds ") + ", ".join(map(str, evaluation.seeds))


def _ways(evaluation: Evaluation, own: AdaptationSpec) -> str:
    ways = []
    for method, spec in evaluation.fine_tuning.items():
        same = spec.model_copy(update={"adapted_std_factor": own.adapted_std_factor}) == own
        way = "as the meta-policy does" if same else f"with α {spec.inner_lr:g} and discount {spec.discount:g}"
        if spec.adapted_std_factor != own.adapted_std_factor:
            way += ", with its noise unchanged"
        ways.append(f"the {method} policy {way}")
    return ", ".join(ways)


def reward_row(environment: EnvironmentContract) -> str:
    """The card's table row on the reward, with its newline; empty if the contract says nothing about it."""
    reward = environment.reward
    if reward is None:
        return ""
    facts = [f"`{reward.formula.replace('|', chr(92) + '|')}`"]
    if reward.step_range is not None:
        facts.append("one step under θ: {:.3g} to {:.3g}".format(*reward.step_range))
    if reward.return_range is not None:
        facts.append("θ's return on {} tasks: {:.4g} to {:.4g}".format(reward.tasks, *reward.return_range))
    return f"| reward | {'; '.join(facts)} |\n"


def other_networks(manifest: Manifest) -> list[str]:
    """The comparisons whose network is not the meta-policy's. A field that came later has its default in old runs."""
    return [
        method
        for method, run in manifest.provenance.comparisons.items()
        if "policy" not in run.config or PolicySpec.model_validate(run.config["policy"]) != manifest.policy
    ]


def _compared(evaluation: Evaluation, manifest: Manifest) -> str:
    """The sentences on the policies that the meta-policy is compared with."""
    said = []
    if evaluation.scored:
        said.append("S_k is 0 at the pretrained policy before adaptation and 1 at the oracle, which observes the task.")
    adaptation = manifest.adaptation
    if evaluation.fine_tuning and all(spec == adaptation for spec in evaluation.fine_tuning.values()):
        said.append("The comparisons that adapt are fine-tuned with the meta-policy's settings.")
    elif evaluation.fine_tuning:
        said.append(
            "The comparisons that adapt are fine-tuned with the best of several settings, chosen on separate tasks: "
            f"{_ways(evaluation, adaptation)}."
        )
    if evaluation.oracle is not None:
        said.append("The oracle acts with its learned noise, or with the noise reduced as in θ′ if that returns more.")
        run = manifest.provenance.comparisons.get("oracle")
        if run is not None and run.warm_start is not None:
            said.append(
                "It began where the meta-policy's adaptation arrived, and its steps include those of the meta-policy."
            )
    others = other_networks(manifest)
    if others:
        said.append(f"Another network than the meta-policy's: {' and '.join(f'the {each}' for each in others)}.")
    return " ".join(said) or "It was not compared with other policies."


def cost_row(method: str, run: Provenance | ComparisonRun) -> str:
    """The card's table row on the cost of a run."""
    return f"| {method} | {run.iterations} | {run.environment_steps:,} | {run.wall_seconds / 60:.1f} min |"


def model_card(meta_policy: MetaPolicy, evaluation: Evaluation, more: Sequence[Evaluation]) -> str:
    """The model card in Markdown.

    Args:
        meta_policy: the artifact.
        evaluation: of the artifact.
        more: evaluations with other numbers of trajectories for each gradient step.
    """
    manifest = meta_policy.manifest
    environment, adaptation, provenance = manifest.environment, manifest.adaptation, manifest.provenance
    action = environment.action
    if isinstance(action, BoxAction):
        taken = f"{action.size} numbers in [{min(action.low):g}, {max(action.high):g}]"
    else:
        taken = f"one of {action.count}, counted from {action.start}"
    moving = "all parameters" if adaptation.inner_lr else f"the context, {manifest.policy.context_size} numbers"
    sizes = "learned, one for each parameter"
    if not meta_policy.step_sizes:
        sizes = f"{adaptation.inner_lr or adaptation.context_lr:g}"
    if adaptation.target_return is not None:
        sizes += f", times the mean return's gap to {adaptation.target_return:g} over {adaptation.return_gap:g}"
    schedule = ", ".join(f"{factor:g}" for factor in adaptation.inner_lr_schedule)
    costs = "\n".join(
        [cost_row("maml", provenance), *(cost_row(method, run) for method, run in provenance.comparisons.items())]
    )
    tasks = len(evaluation.tasks) // len(evaluation.seeds)
    noise = "the same in θ′ as in θ"
    if adaptation.adapted_std_factor != 1.0:
        noise = f"the first step multiplies its standard deviation by {adaptation.adapted_std_factor:g}"
    others = "".join(
        f"\nWith {each.trajectories} trajectories for each gradient step:\n\n{returns_table(each)}\n" for each in more
    )
    flags = " ".join(f"--seed {seed}" for seed in evaluation.seeds)
    notes = meta_policy.read_extra(NOTES_NAME).decode().strip() + "\n\n" if NOTES_NAME in manifest.files else ""
    network = f"MLP {' × '.join(map(str, manifest.policy.hidden_sizes))}, {manifest.policy.activation}"
    if manifest.policy.module:
        count = sum(value.numel() for value in meta_policy.parameters.values())
        network = f"`{manifest.policy.module}`, {count:,} parameters"
    return f"""# {manifest.name}, version {manifest.version}

{manifest.description}

| | |
|---|---|
| environment | `{environment.environment_id}`, at most {environment.horizon} steps |
| observation | {environment.observation_size} numbers, raw |
| action | {taken} |
{reward_row(environment)}| network | {network} |
| what adapts | {moving} |
| one round | {adaptation.trajectories_per_round} trajectories, one REINFORCE step |
| step size | {sizes}; factor by round: {schedule}, and the last one in later rounds |
| action noise | {noise} |
| inner advantages | discount {_discounts(adaptation)}, GAE λ {adaptation.gae_lambda:g}, linear feature baseline |

## How well it adapts

Undiscounted return of the stochastic policy, mean ± standard deviation over {len(evaluation.tasks)} held-out tasks,
{evaluation.trajectories} trajectories for each gradient step ({_seeds(evaluation)}).
{_compared(evaluation, manifest)}

{returns_table(evaluation)}

![Return over gradient steps]({FIGURE_NAME})

One gradient step on fewer or more trajectories:

{budgets_table(evaluation)}
{others}
Repeat the measurement with `thetaprime evaluate {manifest.name} --tasks {tasks} {flags}`.

{published_maml(manifest)}{notes}## How it was trained

| run | iterations | environment steps | time |
|---|---|---|---|
{costs}
{_warm_start(manifest)}
On {provenance.machine} cores with torch {provenance.versions["torch"]}, seed
{provenance.seed}. The whole configuration is in `manifest.json` under `provenance.config`.

![Return over environment steps]({LEARNING_NAME})

## What it is for

A starting point for tasks from its training distribution. Whether adaptation helps on other tasks is unknown. The
policy is only as safe as the environment that bounds its actions.
"""
