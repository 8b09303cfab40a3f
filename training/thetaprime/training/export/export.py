"""Exports finished runs as an artifact: θ, its comparisons, its evaluation and its model card."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final

from thetaprime.models import AdaptationSpec, ArtifactError, MetaPolicy, Provenance, with_std_factor, write_meta_policy
from thetaprime.training.algorithms.warm_start import run_record
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME, Comparisons
from thetaprime.training.evaluation.evaluation import FINE_TUNED, EvaluationPlan, evaluate, tune_comparisons
from thetaprime.training.evaluation.figures import curves_png, learning_png
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.model_card import model_card
from thetaprime.training.export.reference import describe_tasks, measure_reward
from thetaprime.training.history import read_history
from thetaprime.training.resources import task_threads
from thetaprime.training.run import run_policy, run_tasks

CARD_NAME: Final = "README.md"
FIGURE_NAME: Final = "curves.png"
LEARNING_NAME: Final = "learning.png"
_PACKAGES: Final = ("thetaprime", "torch", "numpy", "gymnasium", "mujoco", "onnx", "safetensors")


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """The runs to export, and how.

    Attributes:
        maml: folder of the meta-policy's run.
        pretrained: folder of the pretrained policy's run.
        oracle: folder of the oracle's run.
        output: folder of the artifact.
        name: of the meta-policy.
        version: counted from 1.
        description: one line.
        tasks: number of held-out tasks to evaluate on.
        seeds: of the evaluation.
        more_trajectories: numbers of trajectories to evaluate with in addition to the meta-policy's.
        adapted_std_factor: replaces the run's in the artifact's `AdaptationSpec`. Algorithms that bound a KL learn
            faster if θ′ is as noisy as θ; the same θ′ returns more with less noise.
        exploration_std_factor: multiplies the noise of the run's θ. More noise gives a more reliable gradient;
            `adapted_std_factor` multiplies the result.
    """

    maml: Path
    pretrained: Path
    oracle: Path
    output: Path
    name: str
    version: int
    description: str
    tasks: int = 40
    seeds: tuple[int, ...] = (7,)
    more_trajectories: tuple[int, ...] = ()
    adapted_std_factor: float | None = None
    exploration_std_factor: float = 1.0


def export_work(request: ExportRequest) -> int:
    """The number of trajectories that `export_meta_policy` measures on."""
    adaptation = _adaptation(request, load_checkpoint(request.maml))
    first, *more = _plans(request)
    return first.work(adaptation, len(FINE_TUNED)) + sum(plan.work(adaptation) for plan in more)


def _plans(request: ExportRequest) -> list[EvaluationPlan]:
    """The evaluation of the model card, then those with other numbers of trajectories."""
    first = EvaluationPlan(tasks=request.tasks, seeds=request.seeds)
    more = [dataclasses.replace(first, trajectories=count, budgets=()) for count in request.more_trajectories]
    return [first, *more]


def export_meta_policy(
    request: ExportRequest, *, on_trajectories: Callable[[int], None] = lambda count: None
) -> tuple[MetaPolicy, Evaluation]:
    """Writes the artifact, evaluates it, and adds its model card and figures.

    Args:
        request: what to export.
        on_trajectories: called with the number of trajectories that the evaluation has just sampled.

    Raises:
        CheckpointError: a run's folder holds no checkpoint.
        ArtifactError: a run's method, task distribution or network is not the expected one.
    """
    runs = {method: load_checkpoint(folder) for method, folder in _folders(request).items()}
    _check(request, runs)
    run = runs["maml"]
    distribution = run_tasks(run.config)
    policy = run_policy(run.config, distribution)
    theta, step_sizes = with_std_factor(run.parameters, request.exploration_std_factor), run.step_sizes
    adaptation = _adaptation(request, run)
    with task_threads(1):  # each operation of torch on one thread, as in training
        described = (distribution, policy, theta, step_sizes, adaptation, run.config.seed)
        reference, golden = describe_tasks(*described)
        environment = distribution.environment.model_copy(update={"reward": measure_reward(*described)})
    comparisons = Comparisons(
        pretrained=runs["pretrained"].parameters,
        random=policy.init(run.config.seed + 1),
        oracle=runs["oracle"].parameters,
        oracle_policy=run_policy(runs["oracle"].config, run_tasks(runs["oracle"].config)),
    )
    provenance = _provenance(run, runs, request)
    histories = {method: read_history(folder) for method, folder in _folders(request).items()}

    def write(files: dict[str, bytes]) -> MetaPolicy:
        return write_meta_policy(
            request.output,
            name=request.name,
            version=request.version,
            description=request.description,
            environment=environment,
            policy_spec=run.config.policy,
            adaptation=adaptation,
            parameters=theta,
            step_sizes=step_sizes,
            provenance=provenance,
            golden_observations=golden.numpy(),
            reference=reference,
            extra_files={**comparisons.files(), **files},
        )

    meta_policy = write({})
    fine_tuning = tune_comparisons(meta_policy, seed=request.seeds[0], on_trajectories=on_trajectories)
    evaluation, *more = (
        evaluate(meta_policy, plan, fine_tuning=fine_tuning, on_trajectories=on_trajectories)
        for plan in _plans(request)
    )
    card = model_card(meta_policy.manifest, evaluation, more, runs, figure=FIGURE_NAME, learning=LEARNING_NAME)
    written = write(
        {
            CARD_NAME: card.encode(),
            FIGURE_NAME: curves_png(evaluation),
            LEARNING_NAME: learning_png(request.name, histories),
            EVALUATION_NAME: evaluation_bytes(evaluation),
            **{more_evaluation_name(each.trajectories): evaluation_bytes(each) for each in more},
        }
    )
    return written, evaluation


def _adaptation(request: ExportRequest, run: RunState) -> AdaptationSpec:
    """The artifact's adaptation settings."""
    served = run.config.adaptation.model_dump(exclude_unset=True)
    if request.adapted_std_factor is not None:
        served["adapted_std_factor"] = request.adapted_std_factor
    return AdaptationSpec.model_validate(served)


def more_evaluation_name(trajectories: int) -> str:
    """The file name of an evaluation with another number of trajectories than the meta-policy's."""
    return f"evaluation-{trajectories}-trajectories.json"


def evaluation_bytes(evaluation: Evaluation) -> bytes:
    """The content of an evaluation's file."""
    return (json.dumps(evaluation.to_json(), indent=2) + "\n").encode()


def _folders(request: ExportRequest) -> dict[str, Path]:
    return {"maml": request.maml, "pretrained": request.pretrained, "oracle": request.oracle}


def _check(request: ExportRequest, runs: dict[str, RunState]) -> None:
    folders = _folders(request)
    first = runs["maml"].config
    for method, run in runs.items():
        where = str(folders[method])
        if run.config.method != method:
            raise ArtifactError(where, f"a run of method {run.config.method}; expected {method}")
        if (run.config.tasks, run.config.policy) != (first.tasks, first.policy):
            raise ArtifactError(where, f"its tasks or policy are not those of {request.maml}")


def _provenance(run: RunState, runs: dict[str, RunState], request: ExportRequest) -> Provenance:
    factor = request.exploration_std_factor
    return Provenance(
        distribution=run.config.tasks,
        config=run.config.model_dump(mode="json"),
        amendments=run.amendments,
        **({"warm_start": run.warm_start} if run.warm_start else {}),
        **({"exploration_std_factor": factor} if factor != 1.0 else {}),
        seed=run.config.seed,
        iterations=run.iteration,
        environment_steps=run.environment_steps,
        wall_seconds=round(run.wall_seconds, 1),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=f"{os.cpu_count()} x {platform.machine()}",
        versions={"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
        comparisons={method: run_record(each) for method, each in runs.items() if method != run.config.method},
    )
