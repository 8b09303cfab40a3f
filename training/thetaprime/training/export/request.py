"""Requests to export a run or to compare an artifact, and how an artifact's files are written again."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from thetaprime.models import AdaptationSpec, MetaPolicy, Provenance, load_meta_policy
from thetaprime.models.manifest import MANIFEST_NAME
from thetaprime.models.parameters import digest_bytes
from thetaprime.training.checkpoint import RunState
from thetaprime.training.evaluation.comparisons import FINE_TUNED
from thetaprime.training.evaluation.evaluation import EvaluationPlan
from thetaprime.training.evaluation.fine_tuning import FINE_TUNING_TASKS
from thetaprime.training.evaluation.lifetimes import LifetimeEvaluation
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.add_calibration import HELD_OUT_TASKS
from thetaprime.training.resources import made_here

_PACKAGES: Final = ("thetaprime", "torch", "numpy", "gymnasium", "mujoco", "onnx", "safetensors")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How the model card's evaluation is measured.

    Attributes:
        tasks: number of held-out tasks to evaluate on, for each seed.
        seeds: of the evaluation.
        more_trajectories: numbers of trajectories to evaluate with in addition to the meta-policy's.
        tuning_tasks: number of separate tasks on which a comparison's fine-tuning settings are chosen; 0 for the
            meta-policy's own settings.
    """

    tasks: int = 40
    seeds: tuple[int, ...] = (7,)
    more_trajectories: tuple[int, ...] = ()
    tuning_tasks: int = FINE_TUNING_TASKS

    def plans(self, methods: tuple[str, ...]) -> list[EvaluationPlan]:
        """The evaluation of the model card, then those with other numbers of trajectories."""
        first = EvaluationPlan(tasks=self.tasks, seeds=self.seeds, methods=methods, tuning_tasks=self.tuning_tasks)
        more = [dataclasses.replace(first, trajectories=count, budgets=()) for count in self.more_trajectories]
        return [first, *more]

    def work(self, adaptation: AdaptationSpec, methods: Collection[str], tuned: Collection[str]) -> int:
        """The number of trajectories that `measure_artifact` samples.

        Args:
            adaptation: the meta-policy's.
            methods: to measure.
            tuned: comparisons whose fine-tuning settings are known.
        """
        first, *more = self.plans(tuple(methods))
        untuned = len(set(FINE_TUNED).intersection(methods).difference(tuned))
        return first.work(adaptation, untuned) + sum(plan.work(adaptation) for plan in more)


@dataclasses.dataclass(frozen=True)
class ExportRequest(Measurement):
    """The runs to export, and how.

    Attributes:
        maml: folder of the meta-policy's run.
        output: folder of the artifact.
        name: of the meta-policy.
        version: counted from 1.
        description: one line.
        pretrained: the pretrained policy to compare with: see `comparison_source`; None for none. A random
            initialization is compared beside that of a run.
        oracle: the oracle to compare with, likewise.
        notes: Markdown text for the model card; empty for none.
        adapted_std_factor: replaces the run's in the artifact's `AdaptationSpec`. Algorithms that bound a KL learn
            faster if θ′ is as noisy as θ; the same θ′ returns more with less noise.
        later_step_factor: multiplies the schedule's factors after the first. The gradient of a Gaussian's mean grows as
            its noise shrinks: with `adapted_std_factor` f, steps after the first are as long as in training with f.
        exploration_std_factor: multiplies the noise of the run's θ. More noise gives a more reliable gradient;
            `adapted_std_factor` multiplies the result.
        calibration_tasks: number of tasks that a session's task will be compared with (see `add_calibration`); 0 for
            an artifact without a calibration, whose verdicts say nothing about the task.
    """

    maml: Path = dataclasses.field(kw_only=True)
    output: Path = dataclasses.field(kw_only=True)
    name: str = dataclasses.field(kw_only=True)
    version: int = dataclasses.field(kw_only=True)
    description: str = dataclasses.field(kw_only=True)
    pretrained: str | Path | None = None
    oracle: str | Path | None = None
    notes: str = ""
    adapted_std_factor: float | None = None
    later_step_factor: float = 1.0
    exploration_std_factor: float = 1.0
    calibration_tasks: int = HELD_OUT_TASKS


@dataclasses.dataclass(frozen=True)
class CompareRequest(Measurement):
    """Comparisons to add to an artifact, and how to measure them.

    Attributes:
        artifact: its folder.
        pretrained: the pretrained policy: see `comparison_source`; None keeps the artifact's, if it has one.
        oracle: the oracle, likewise.
    """

    artifact: Path = dataclasses.field(kw_only=True)
    pretrained: str | Path | None = None
    oracle: str | Path | None = None


def rewritten(meta_policy: MetaPolicy, files: Mapping[str, bytes], provenance: Provenance | None = None) -> MetaPolicy:
    """The artifact with some files written again or added, read again. The manifest is replaced last."""
    manifest = meta_policy.manifest
    digests = {**manifest.files, **{name: digest_bytes(data) for name, data in files.items()}}
    changed = manifest.model_copy(
        update={"files": dict(sorted(digests.items())), "provenance": provenance or manifest.provenance}
    )
    for name, data in {**files, MANIFEST_NAME: changed.sealed().to_bytes()}.items():
        written = meta_policy.directory / f"{name}.new"
        written.write_bytes(data)
        written.replace(meta_policy.directory / name)
    return load_meta_policy(meta_policy.directory)


def evaluation_bytes(evaluation: Evaluation | LifetimeEvaluation) -> bytes:
    """The content of an evaluation's file."""
    return (json.dumps(evaluation.to_json(), indent=2) + "\n").encode()


def provenance_of(run: RunState, request: ExportRequest) -> Provenance:
    """The provenance of the run that an artifact is exported from."""
    factor = request.exploration_std_factor
    return Provenance(
        distribution=run.config.tasks,
        config=run.config.model_dump(mode="json"),
        amendments=run.amendments,
        **({"recipe": run.decisions} if run.decisions else {}),
        **({"warm_start": run.warm_start} if run.warm_start else {}),
        **({"exploration_std_factor": factor} if factor != 1.0 else {}),
        seed=run.config.seed,
        iterations=run.iteration,
        environment_steps=run.environment_steps,
        wall_seconds=round(run.wall_seconds, 1),
        **made_here(_PACKAGES),
    )
