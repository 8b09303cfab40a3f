"""The comparisons of an export: from runs, or from an artifact that has them already."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from thetaprime.models import (
    AdaptationSpec,
    ArtifactError,
    ComparisonRun,
    Policy,
    load_meta_policy,
    resolve_meta_policy,
)
from thetaprime.training.algorithms.warm_start import run_record
from thetaprime.training.checkpoint import CHECKPOINT_NAME, RunState, load_checkpoint
from thetaprime.training.evaluation.comparisons import Comparison, comparison_policy, load_comparison
from thetaprime.training.evaluation.fine_tuning import stored_fine_tuning
from thetaprime.training.history import History, read_history
from thetaprime.training.tasks.distributions import resolve_tasks


@dataclasses.dataclass(frozen=True, eq=False)
class ComparisonSource:
    """A comparison with its origin.

    Attributes:
        comparison: its network and parameters.
        run: the record of its run; None without a run, as for a random initialization.
        history: the run's learning curves; None without its logs.
        fine_tuning: the settings by which it is fine-tuned, if they were chosen before.
    """

    comparison: Comparison
    run: ComparisonRun | None
    history: History | None = None
    fine_tuning: AdaptationSpec | None = None


def comparison_source(source: str, method: str, tasks: str) -> ComparisonSource:
    """Reads a comparison.

    Args:
        source: the folder of a run of `method`; or an artifact (its folder, or its name in the shipped zoo), whose own
            comparison is taken. Its network may be another than the meta-policy's.
        method: ``pretrained`` or ``oracle``.
        tasks: the reference of the meta-policy's task distribution.

    Raises:
        ArtifactError: there is neither, or it is of another method or of other tasks.
    """
    if (Path(source) / CHECKPOINT_NAME).exists():
        run = load_checkpoint(Path(source))
        check_run(run, source, method)
        _check_tasks(run.config.tasks, source, tasks)
        policy = comparison_policy(method, resolve_tasks(tasks), run.config.policy)
        return ComparisonSource(Comparison(policy, run.parameters), run_record(run), read_history(Path(source)))
    if Path(source).is_dir() and not (Path(source) / "manifest.json").exists():
        raise ArtifactError(source, f"no {CHECKPOINT_NAME} there; expected the folder of a run of --method {method}")
    artifact = load_meta_policy(resolve_meta_policy(source))
    _check_tasks(artifact.manifest.provenance.distribution, source, tasks)
    comparison = load_comparison(artifact, method, resolve_tasks(tasks))
    record = artifact.manifest.provenance.comparisons.get(method)
    return ComparisonSource(comparison, record, fine_tuning=stored_fine_tuning(artifact, [method]).get(method))


def comparison_sources(pretrained: str | None, oracle: str | None, tasks: str) -> dict[str, ComparisonSource]:
    """The comparisons that were given, by method: see `comparison_source`."""
    given = {"pretrained": pretrained, "oracle": oracle}
    return {method: comparison_source(each, method, tasks) for method, each in given.items() if each is not None}


def with_random(sources: Mapping[str, ComparisonSource], policy: Policy, seed: int) -> dict[str, ComparisonSource]:
    """The comparisons, and a random initialization beside a newly trained pretrained policy.

    A pretrained policy of an artifact has one there, in its own network.

    Args:
        sources: by method.
        policy: the meta-policy's network.
        seed: of the meta-policy's run; the initialization has another.
    """
    if "pretrained" not in sources or sources["pretrained"].fine_tuning is not None:
        return dict(sources)
    return {**sources, "random": ComparisonSource(Comparison(policy, policy.init(seed + 1)), None)}


def run_records(sources: Mapping[str, ComparisonSource]) -> dict[str, ComparisonRun]:
    """The records of the runs, by method."""
    return {method: source.run for method, source in sources.items() if source.run is not None}


def check_run(run: RunState, source: str, method: str) -> None:
    """Refuses a run of another method.

    Raises:
        ArtifactError: naming both.
    """
    if run.config.method != method:
        raise ArtifactError(source, f"a run of method {run.config.method}; expected {method}")


def _check_tasks(found: str, source: str, tasks: str) -> None:
    if found != tasks:
        raise ArtifactError(source, f"its tasks are {found}; the meta-policy's are {tasks}")
