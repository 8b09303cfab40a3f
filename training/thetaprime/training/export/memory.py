"""Exports a finished run of method rl2 as an artifact: a policy that remembers, with its evaluation and model card."""

from typing import Final

import numpy as np
import torch

from thetaprime.models import (
    AdaptationSpec,
    ArtifactError,
    BoxAction,
    EnvironmentContract,
    Manifest,
    MetaPolicy,
    Parameters,
    PolicySpec,
    RecurrentPolicy,
    write_meta_policy,
)
from thetaprime.training.algorithms.rl2 import trained_spec
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME, comparison_files
from thetaprime.training.evaluation.curves import OnTrajectories
from thetaprime.training.evaluation.figures import learning_png
from thetaprime.training.evaluation.figures.lifetimes import lifetimes_figure
from thetaprime.training.evaluation.figures.style import png_bytes
from thetaprime.training.evaluation.lifetimes import (
    LifetimeEvaluation,
    LifetimePlan,
    evaluate_lifetimes,
    lifetime_work,
)
from thetaprime.training.export.model_card import (
    CARD_NAME,
    FIGURE_NAME,
    LEARNING_NAME,
    NOTES_NAME,
    cost_row,
    reward_row,
)
from thetaprime.training.export.request import ExportRequest, evaluation_bytes, provenance_of, rewritten
from thetaprime.training.export.sources import ComparisonSource, check_run, comparison_sources, run_records
from thetaprime.training.history import read_history
from thetaprime.training.resources import task_threads
from thetaprime.training.sampling.lifetimes import Lifetimes, collect_lifetimes
from thetaprime.training.tasks.distributions import resolve_tasks

_TASKS: Final = 40
_GOLDEN: Final = 8
_QUANTILES: Final = np.linspace(0.0, 1.0, 21)
_INNER: Final = ("adapted_std_factor", "later_step_factor", "exploration_std_factor", "more_trajectories")


def export_memory(
    request: ExportRequest, *, on_trajectories: OnTrajectories = lambda count: None
) -> tuple[MetaPolicy, LifetimeEvaluation]:
    """Writes the artifact of a run of method rl2, evaluates it by episode, and adds its card and figures.

    Args:
        request: what to export. Settings of an inner loop do not apply.
        on_trajectories: called with the number of trajectories that were just sampled.

    Raises:
        ArtifactError: a setting of an inner loop is given, or a comparison is of another method or of other tasks.
    """
    run = load_checkpoint(request.maml)
    check_run(run, str(request.maml), "rl2")
    for name in _INNER:
        if (found := getattr(request, name)) != getattr(type(request), name):
            raise ArtifactError(
                str(request.maml), f"{name} is {found!r}; a policy with a memory takes no gradient step: leave it out"
            )
    distribution = resolve_tasks(run.config.tasks)
    spec = _complete(trained_spec(run))
    policy = RecurrentPolicy(distribution.environment, spec)
    pretrained, oracle = (None if each is None else str(each) for each in (request.pretrained, request.oracle))
    sources = comparison_sources(pretrained, oracle, run.config.tasks)
    rng = np.random.default_rng(np.random.SeedSequence(run.config.seed, spawn_key=(1,)))
    with task_threads(1):
        tasks = distribution.sample_tasks(_TASKS, rng)
        lifetimes = collect_lifetimes(distribution, tasks, policy, run.parameters, run.config.rl2.episodes, rng=rng)
    reference, golden = _described(lifetimes, run.config.rl2.episodes, rng)
    environment = _rewarded(distribution.environment, lifetimes, run.config.seed)
    histories = {"rl2": read_history(request.maml), **{name: each.history for name, each in sources.items()}}
    files = {
        LEARNING_NAME: learning_png(request.name, histories),
        **comparison_files({name: source.comparison for name, source in sources.items()}),
    }
    if request.notes:
        files[NOTES_NAME] = request.notes.encode()
    provenance = provenance_of(run, request).model_copy(update={"comparisons": run_records(sources)})
    written = write_meta_policy(
        request.output,
        name=request.name,
        version=request.version,
        description=request.description,
        environment=environment,
        policy_spec=spec,
        adaptation=AdaptationSpec(inner_steps=0),
        parameters=run.parameters,
        provenance=provenance,
        golden_observations=golden.reshape(_GOLDEN, *environment.observation_shape),
        reference=reference,
        extra_files=files,
    )
    evaluation = evaluate_lifetimes(written, lifetime_plan(request, run), on_trajectories=on_trajectories)
    card = memory_card(written, evaluation, sources)
    return (
        rewritten(
            written,
            {
                CARD_NAME: card.encode(),
                FIGURE_NAME: png_bytes(lifetimes_figure(evaluation)),
                EVALUATION_NAME: evaluation_bytes(evaluation),
            },
        ),
        evaluation,
    )


def memory_work(request: ExportRequest) -> int:
    """The number of trajectories that `export_memory` measures on."""
    run = load_checkpoint(request.maml)
    compared = sum(each is not None for each in (request.pretrained, request.oracle))
    return lifetime_work(lifetime_plan(request, run), compared)


def lifetime_plan(request: ExportRequest, run: RunState) -> LifetimePlan:
    """The evaluation of the model card: lifetimes of three times as many episodes as in training, ten at least."""
    return LifetimePlan(request.tasks, request.seeds, max(10, 3 * run.config.rl2.episodes))


def _complete(spec: PolicySpec) -> PolicySpec:
    """The specification with a number for the scale of rewards, as an artifact has it."""
    memory = spec.memory
    if memory is None or memory.reward_scale is not None:
        return spec
    return spec.model_copy(update={"memory": memory.model_copy(update={"reward_scale": 1.0})})


def _described(
    lifetimes: Lifetimes, episodes: int, rng: np.random.Generator
) -> tuple[Parameters, np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """Statistics of observations and returns, and observations [K, O] for golden vectors."""
    observations = lifetimes.observations[lifetimes.mask]
    chosen = rng.choice(len(observations), _GOLDEN, replace=len(observations) < _GOLDEN)
    returns = lifetimes.returns(episodes)
    statistics = {
        "observation_mean": observations.mean(0, np.float64),
        "observation_std": observations.std(0, np.float64),
        "pre_adaptation_return_quantiles": np.quantile(returns[0], _QUANTILES),
        "post_adaptation_return_quantiles": np.quantile(returns[-1], _QUANTILES),
    }
    return {name: torch.from_numpy(value).float() for name, value in statistics.items()}, observations[chosen]


def _rewarded(environment: EnvironmentContract, lifetimes: Lifetimes, seed: int) -> EnvironmentContract:
    """The contract with the measured ranges of rewards and of first episodes' returns, where it states a formula."""
    if environment.reward is None:
        return environment
    rewards, returns = lifetimes.rewards[lifetimes.mask], lifetimes.returns(1)[0]
    measured = environment.reward.model_copy(
        update={
            "step_range": (_rounded(rewards.min()), _rounded(rewards.max())),
            "return_range": (_rounded(returns.min()), _rounded(returns.max())),
            "tasks": len(returns),
            "seed": seed,
        }
    )
    return environment.model_copy(update={"reward": measured})


def _rounded(value: float) -> float:
    return float(f"{float(value):.6g}")


def lifetimes_table(evaluation: LifetimeEvaluation) -> str:
    """A Markdown table of the mean return ± standard deviation over tasks, and S, by episode."""
    episodes = range(1, len(evaluation.returns) + 1)
    rows = ["| episode | " + " | ".join(map(str, episodes)) + " |", "|---" * (len(evaluation.returns) + 1) + "|"]
    cells = [f"{row.mean():.2f} ± {row.std():.2f}" for row in evaluation.returns]
    rows.append("| return | " + " | ".join(cells) + " |")
    if evaluation.scored:
        low, high = evaluation.score_interval()
        scores = [f"{s:.3f} [{a:.3f}, {b:.3f}]" for s, a, b in zip(evaluation.scores(), low, high, strict=True)]
        rows.append("| S, 95 % interval | " + " | ".join(scores) + " |")
    return "\n".join(rows)


def memory_card(meta_policy: MetaPolicy, evaluation: LifetimeEvaluation, sources: dict[str, ComparisonSource]) -> str:
    """The model card in Markdown."""
    manifest = meta_policy.manifest
    environment, provenance, memory = manifest.environment, manifest.provenance, manifest.policy.memory
    if memory is None:
        raise ArtifactError(meta_policy.label, "has no memory")
    action = environment.action
    taken = f"one of {action.size}"
    if isinstance(action, BoxAction):
        taken = f"{action.size} numbers in [{min(action.low):g}, {max(action.high):g}]"
    compared = [f"{name} {each.mean():.2f} ± {each.std():.2f}" for name, each in evaluation.comparisons.items()]
    versus = f"Compared with: {'; '.join(compared)}. " if compared else "It was not compared with other policies. "
    if evaluation.scored:
        versus += "S is 0 at the pretrained policy and 1 at the oracle, which observes the task."
    runs = "\n".join(
        [cost_row("rl2", provenance), *(cost_row(name, s.run) for name, s in sources.items() if s.run is not None)]
    )
    notes = meta_policy.read_extra(NOTES_NAME).decode().strip() + "\n\n" if NOTES_NAME in manifest.files else ""
    seeds = ", ".join(map(str, evaluation.seeds))
    return f"""# {manifest.name}, version {manifest.version}

{manifest.description}

| | |
|---|---|
| environment | `{environment.environment_id}`, at most {environment.horizon} steps |
| observation | {environment.observation_size} numbers, raw |
| action | {taken} |
{reward_row(environment)}| network | {_network(manifest)} |
| what adapts | the state of a {memory.cell.upper()} of {memory.size}, while the policy acts: no gradient, no upload |
| lifetime in training | {provenance.config["rl2"]["episodes"]} episodes of one task; the state is kept between them |

The state begins at `memory.initial` with each new task. It must be fed back at every step, with the action that was
taken, its reward, and whether the step begins another episode. Reset it when the task changes, and not between episodes
of one task.

## How well it adapts

Undiscounted return of the stochastic policy by episode of a lifetime, mean ± standard deviation over
{len(evaluation.tasks)} held-out tasks, one lifetime each (seed {seeds}). {versus}

{lifetimes_table(evaluation)}

![Return by episode of experience]({FIGURE_NAME})

{notes}## How it was trained

By RL² (Duan et al. 2016): PPO over whole lifetimes, through time.

| run | iterations | environment steps | time |
|---|---|---|---|
{runs}

On {provenance.machine} cores with torch {provenance.versions["torch"]}, seed {provenance.seed}. The whole configuration
is in `manifest.json` under `provenance.config`.

![Return over environment steps]({LEARNING_NAME})

## What it is for

Tasks from its training distribution, and bodies that change while they act. Whether its memory helps on other tasks is
unknown. The policy is only as safe as the environment that bounds its actions.
"""


def _network(manifest: Manifest) -> str:
    """The network in a few words."""
    memory = manifest.policy.memory
    encoder = f"encoder {' × '.join(map(str, memory.encoder_sizes))}, " if memory and memory.encoder_sizes else ""
    sizes = " × ".join(map(str, manifest.policy.hidden_sizes))
    return f"{encoder}MLP {sizes} over the observation and the memory, {manifest.policy.activation}"
