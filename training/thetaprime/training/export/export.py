"""Exports a finished run as an artifact: θ, its comparisons, its evaluation and its model card.

The comparisons are optional: `compare_meta_policy` adds them to an artifact later.
"""

from collections.abc import Callable, Mapping

from thetaprime.models import (
    AdaptationSpec,
    ArtifactError,
    MetaPolicy,
    Policy,
    load_meta_policy,
    with_std_factor,
    write_meta_policy,
)
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.evaluation.comparisons import (
    EVALUATION_NAME,
    FINE_TUNED,
    comparison_files,
)
from thetaprime.training.evaluation.evaluation import evaluate, held_methods, tune_comparisons
from thetaprime.training.evaluation.figures import curves_png, learning_png
from thetaprime.training.evaluation.fine_tuning import FineTuning, stored_fine_tuning
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.add_calibration import BATCHES, add_calibration, calibration_work
from thetaprime.training.export.model_card import CARD_NAME, FIGURE_NAME, LEARNING_NAME, NOTES_NAME, model_card
from thetaprime.training.export.reference import describe_tasks, measure_reward
from thetaprime.training.export.request import (
    CompareRequest,
    ExportRequest,
    Measurement,
    evaluation_bytes,
    provenance_of,
    rewritten,
)
from thetaprime.training.export.sources import (
    ComparisonSource,
    check_run,
    comparison_sources,
    run_records,
    with_random,
)
from thetaprime.training.history import read_history
from thetaprime.training.resources import task_threads
from thetaprime.training.run import run_policy, run_tasks

OnTrajectories = Callable[[int], None]


def export_work(request: ExportRequest) -> int:
    """The number of trajectories that `export_meta_policy` measures on."""
    run = load_checkpoint(request.maml)
    check_run(run, str(request.maml), "maml")
    sources = _sources(request, run.config.tasks, run_policy(run.config, run_tasks(run.config)), run.config.seed)
    adaptation = _adaptation(request, run)
    measured = request.work(adaptation, ("maml", *sources), _tuned(sources))
    return measured + calibration_work(adaptation, request.calibration_tasks)


def compare_work(request: CompareRequest) -> int:
    """The number of trajectories that `compare_meta_policy` measures on."""
    meta_policy = load_meta_policy(request.artifact)
    sources = _added(request, meta_policy)
    tuned = _tuned(sources, meta_policy)
    return request.work(meta_policy.manifest.adaptation, {*held_methods(meta_policy), *sources}, tuned)


def _tuned(sources: Mapping[str, ComparisonSource], held: MetaPolicy | None = None) -> FineTuning:
    """The fine-tuning settings that are known: of new comparisons, and of an artifact's that are not replaced."""
    known = {method: source.fine_tuning for method, source in sources.items() if source.fine_tuning is not None}
    kept = stored_fine_tuning(held, FINE_TUNED) if held is not None else {}
    return {**{method: spec for method, spec in kept.items() if method not in sources}, **known}


def export_meta_policy(
    request: ExportRequest, *, on_trajectories: OnTrajectories = lambda count: None
) -> tuple[MetaPolicy, Evaluation]:
    """Writes the artifact, evaluates it, and adds its model card and figures.

    Args:
        request: what to export.
        on_trajectories: called with the number of trajectories that a measurement has just sampled.

    Raises:
        CheckpointError: the run's folder holds no checkpoint.
        ArtifactError: a run's method or task distribution is not the expected one.
    """
    run = load_checkpoint(request.maml)
    check_run(run, str(request.maml), "maml")
    distribution = run_tasks(run.config)
    policy = run_policy(run.config, distribution)
    sources = _sources(request, run.config.tasks, policy, run.config.seed)
    theta, step_sizes = with_std_factor(run.parameters, request.exploration_std_factor), run.step_sizes
    adaptation = _adaptation(request, run)
    with task_threads(1):  # each operation of torch on one thread, as in training
        described = (distribution, policy, theta, step_sizes, adaptation, run.config.seed)
        reference, golden = describe_tasks(*described)
        environment = distribution.environment.model_copy(update={"reward": measure_reward(*described)})
    histories = {"maml": read_history(request.maml), **{method: each.history for method, each in sources.items()}}
    files = {LEARNING_NAME: learning_png(request.name, histories)}
    if request.notes:
        files[NOTES_NAME] = request.notes.encode()
    meta_policy = write_meta_policy(
        request.output,
        name=request.name,
        version=request.version,
        description=request.description,
        environment=environment,
        policy_spec=run.config.policy,
        adaptation=adaptation,
        parameters=theta,
        step_sizes=step_sizes,
        provenance=provenance_of(run, request),
        golden_observations=golden.numpy(),
        program=policy.program if isinstance(policy, ModulePolicy) else None,
        reference=reference,
        extra_files=files,
    )
    if request.calibration_tasks:
        meta_policy = add_calibration(
            request.output,
            held_out=request.calibration_tasks,
            on_task=lambda: on_trajectories(BATCHES * adaptation.trajectories_per_round),
        )
    written = _with_comparisons(meta_policy, sources)
    return measure_artifact(written, request, _tuned(sources), on_trajectories=on_trajectories)


def compare_meta_policy(
    request: CompareRequest, *, on_trajectories: OnTrajectories = lambda count: None
) -> tuple[MetaPolicy, Evaluation]:
    """Adds comparisons to an artifact, evaluates it again, and writes its model card and figure again.

    θ, its ONNX file and its id stay as they are.

    Args:
        request: the artifact and the comparisons.
        on_trajectories: see `export_meta_policy`.

    Raises:
        ArtifactError: no comparison is given, or one is of another method or of other tasks.
    """
    meta_policy = load_meta_policy(request.artifact)
    sources = _added(request, meta_policy)
    if not sources:
        raise ArtifactError(str(request.artifact), "nothing to compare with; give a pretrained policy or an oracle")
    written = _with_comparisons(meta_policy, sources)
    return measure_artifact(written, request, _tuned(sources, meta_policy), on_trajectories=on_trajectories)


def _added(request: CompareRequest, meta_policy: MetaPolicy) -> dict[str, ComparisonSource]:
    provenance = meta_policy.manifest.provenance
    return _sources(request, provenance.distribution, meta_policy.policy, provenance.seed)


def _sources(
    request: ExportRequest | CompareRequest, tasks: str, policy: Policy, seed: int
) -> dict[str, ComparisonSource]:
    pretrained, oracle = (None if each is None else str(each) for each in (request.pretrained, request.oracle))
    return with_random(comparison_sources(pretrained, oracle, tasks), policy, seed)


def _with_comparisons(meta_policy: MetaPolicy, sources: Mapping[str, ComparisonSource]) -> MetaPolicy:
    """The artifact with more comparisons."""
    if not sources:
        return meta_policy
    provenance = meta_policy.manifest.provenance
    records = {**provenance.comparisons, **run_records(sources)}
    return rewritten(
        meta_policy,
        comparison_files({method: source.comparison for method, source in sources.items()}),
        provenance.model_copy(update={"comparisons": records}),
    )


def measure_artifact(
    meta_policy: MetaPolicy,
    measurement: Measurement,
    tuned: FineTuning,
    *,
    on_trajectories: OnTrajectories = lambda count: None,
) -> tuple[MetaPolicy, Evaluation]:
    """Evaluates an artifact and its comparisons, and writes its model card, its figure and its results.

    Args:
        meta_policy: the artifact.
        measurement: what to measure.
        tuned: the fine-tuning settings that are known; the others are chosen first.
        on_trajectories: see `export_meta_policy`.
    """
    methods = held_methods(meta_policy)
    untuned = tuple(method for method in FINE_TUNED if method in methods and method not in tuned)
    chosen = tune_comparisons(
        meta_policy,
        untuned,
        seed=measurement.seeds[0],
        tasks=measurement.tuning_tasks,
        on_trajectories=on_trajectories,
    )
    fine_tuning = {**tuned, **chosen}
    evaluation, *more = (
        evaluate(meta_policy, plan, fine_tuning=fine_tuning, on_trajectories=on_trajectories)
        for plan in measurement.plans(methods)
    )
    files = {
        CARD_NAME: model_card(meta_policy, evaluation, more).encode(),
        FIGURE_NAME: curves_png(evaluation),
        EVALUATION_NAME: evaluation_bytes(evaluation),
        **{more_evaluation_name(each.trajectories): evaluation_bytes(each) for each in more},
    }
    return rewritten(meta_policy, files), evaluation


def _adaptation(request: ExportRequest, run: RunState) -> AdaptationSpec:
    """The artifact's adaptation settings."""
    served = run.config.adaptation.model_dump(exclude_unset=True)
    if request.adapted_std_factor is not None:
        served["adapted_std_factor"] = request.adapted_std_factor
    if request.later_step_factor != 1.0:
        first, *later = run.config.adaptation.inner_lr_schedule
        served["inner_lr_schedule"] = (first, *(request.later_step_factor * each for each in later or [first]))
    return AdaptationSpec.model_validate(served)


def more_evaluation_name(trajectories: int) -> str:
    """The file name of an evaluation with another number of trajectories than the meta-policy's."""
    return f"evaluation-{trajectories}-trajectories.json"
