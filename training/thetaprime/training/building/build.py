"""A build: contract test, meta-training, comparisons, evaluation and export, each finished once."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic

from thetaprime.models import MetaPolicy
from thetaprime.models.manifest import MANIFEST_NAME, Manifest
from thetaprime.training.building.plan import (
    ARTIFACT,
    CONTRACT,
    META_TRAINING,
    METHODS,
    ORACLE,
    PRETRAINED,
    allotted_seconds,
    evaluation_sizes,
    evaluations,
    stages,
)
from thetaprime.training.building.record import (
    BuildError,
    BuildRecord,
    ContractError,
    Exported,
    open_record,
    source_digest,
)
from thetaprime.training.checkpoint import CHECKPOINT_NAME, RunState, load_checkpoint
from thetaprime.training.config import changed_config, load_config
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.export import export_meta_policy, export_work
from thetaprime.training.export.request import ExportRequest
from thetaprime.training.recipe.attempts import train_recipe
from thetaprime.training.recipe.decide import BudgetError
from thetaprime.training.recipe.settings import Recipe, settle_recipe
from thetaprime.training.run import Progress, train
from thetaprime.training.tasks.conformance import check_task_distribution
from thetaprime.training.tasks.distributions import resolve_tasks

_Name = pydantic.create_model("_Name", name=(str, Manifest.model_fields["name"]))


@dataclasses.dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        tasks: reference of the task distribution.
        minutes: of all stages together.
        name: of the meta-policy.
        version: counted from 1.
        description: one line.
        output: folder of artifacts, which gets ``<name>/<version>``.
        runs: folder of the runs and of the build's record.
        seed: of the runs.
        comparisons: whether to train a pretrained policy and an oracle, and to compare with them.
        config: TOML file of settings that win over the recipe; None for none.
        recipe: whether the settings that the file leaves open are measured.
    """

    tasks: str
    minutes: float
    name: str
    version: int
    description: str
    output: Path
    runs: Path
    seed: int = 0
    comparisons: bool = True
    config: Path | None = None
    recipe: bool = True

    @property
    def folder(self) -> Path:
        """Folder of the artifact."""
        return self.output / self.name / str(self.version)

    def given(self) -> dict[str, Any]:
        """The settings of meta-training that win over a file and the recipe."""
        return {"tasks": self.tasks, "seed": self.seed}


@dataclasses.dataclass(frozen=True)
class Watcher:
    """What a build tells while it trains.

    Attributes:
        on_probe: called before the recipe measures, with its seconds.
        on_recipe: called with what it settled.
        on_iteration: called after each iteration.
        on_message: called with a sentence about the run.
        stop: called after each iteration; if it returns true, the run is saved, and the build can go on later.
    """

    on_probe: Callable[[float], None] = lambda seconds: None
    on_recipe: Callable[[Recipe], None] = lambda recipe: None
    on_iteration: Callable[[Progress], None] = lambda progress: None
    on_message: Callable[[str], None] = lambda message: None
    stop: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True)
class PlannedExport:
    """An export whose evaluation fits into the time that is left, if any does.

    Attributes:
        request: what to export.
        trajectories: to sample.
        seconds: estimated at the pace of meta-training.
    """

    request: ExportRequest
    trajectories: int
    seconds: float


class Build:
    """A build that begins, or goes on from what an earlier one with the same request finished.

    Args:
        request: what to build.

    Attributes:
        request: what to build.
        stages: to take in this order.

    Raises:
        BuildError: the folder of runs holds another build.
        ValueError: the name, the tasks or a setting is invalid.
    """

    def __init__(self, request: BuildRequest) -> None:
        _Name(name=request.name)
        self.request, self.stages = request, stages(request.comparisons)
        self._distribution = resolve_tasks(request.tasks)
        settings = {}
        if request.config is not None:
            settings = load_config(request.config, request.given()).model_dump(mode="json")
        if not request.recipe:
            settings["recipe"] = None
        settings = json.loads(json.dumps(settings))
        self._record = open_record(request.runs, BuildRecord(tasks=request.tasks, seed=request.seed, settings=settings))
        self._source = source_digest(self._distribution)

    @property
    def began_to_export(self) -> bool:
        """Whether this build wrote the artifact's folder, completely or not."""
        exported = self._record.exported
        return exported is not None and exported.folder == str(self.request.folder)

    @property
    def changed(self) -> bool:
        """Whether training began with another module of the tasks than there is now."""
        begun = (self.run(META_TRAINING) / CHECKPOINT_NAME).exists()
        return begun and bool(self._record.source) and self._record.source != self._source

    def finished(self, stage: str) -> bool:
        """Whether a stage was finished before."""
        if stage == CONTRACT:
            return stage in self._record.taken and self._record.source == self._source
        if stage == ARTIFACT:
            exported, folder = self._record.exported, self.request.folder
            return (
                self.began_to_export
                and exported is not None
                and exported.complete
                and exported.comparisons == self.request.comparisons
                and (folder / MANIFEST_NAME).is_file()
            )
        return stage in self._record.taken

    def seconds(self, stage: str) -> float:
        """The time of a stage: see `allotted_seconds`."""
        return allotted_seconds(stage, self.stages, 60.0 * self.request.minutes, self._record.taken)

    def taken(self, stage: str) -> float:
        """The seconds that a finished stage took."""
        return self._record.taken.get(stage, 0.0)

    def run(self, stage: str) -> Path:
        """The folder of a stage's run."""
        return self.request.runs / METHODS[stage]

    def check(self) -> None:
        """Takes the stage `CONTRACT`.

        Raises:
            ContractError: the distribution breaks its contract; the message says how.
        """
        started = time.monotonic()
        try:
            with warnings.catch_warnings(record=True):  # of style, for which the test does not fail
                check_task_distribution(self._distribution, seed=self.request.seed)
        except Exception as error:
            told = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise ContractError(f"{self.request.tasks} breaks the contract of a task distribution: {told}") from error
        self._record.source = self._source
        self._finish(CONTRACT, time.monotonic() - started)

    def train(self, stage: str, watcher: Watcher) -> bool:
        """Takes a stage of `METHODS`, or goes on with it.

        Args:
            stage: the stage.
            watcher: is told what happens.

        Returns:
            Whether the stage is finished; otherwise `stop` ended it, and another call goes on.

        Raises:
            ValueError: a setting is invalid, the tasks teach nothing, or the time is too short.
        """
        spent = 0.0

        def on_iteration(progress: Progress) -> None:
            nonlocal spent
            spent = progress.spent
            watcher.on_iteration(progress)

        limits: dict[str, Any] = {"minutes": self.seconds(stage) / 60.0}
        if limits["minutes"] <= 0.0:
            raise BuildError(f"minutes: nothing of {self.request.minutes:g} is left for the {stage}; give more minutes")
        folder = self.run(stage)
        if (folder / CHECKPOINT_NAME).exists():
            config = changed_config(load_checkpoint(folder).config, limits)
            state = train(config, folder, resume=True, on_iteration=on_iteration, stop=watcher.stop)
        elif stage == META_TRAINING:
            state = self._meta_train(folder, limits, dataclasses.replace(watcher, on_iteration=on_iteration))
        else:
            learned = load_checkpoint(self.run(META_TRAINING))
            as_many = {"iterations": None, "environment_steps": learned.environment_steps}
            config = changed_config(learned.config, {**limits, **as_many, "method": METHODS[stage]})
            state = train(config, folder, on_iteration=on_iteration, stop=watcher.stop)
        if watcher.stop() and spent < 1.0:
            return False
        self._finish(stage, state.wall_seconds)
        return True

    @property
    def environment_id(self) -> str:
        """The Gymnasium id in the contract of the tasks."""
        return self._distribution.environment.environment_id

    def steps(self, stage: str) -> int:
        """The environment steps of a stage's run."""
        return load_checkpoint(self.run(stage)).environment_steps

    def _meta_train(self, folder: Path, limits: dict[str, Any], watcher: Watcher) -> RunState:
        given, file = {**self.request.given(), **limits}, self.request.config
        if not self.request.recipe:
            return train(load_config(file, given), folder, on_iteration=watcher.on_iteration, stop=watcher.stop)
        try:
            recipe = settle_recipe(file, given, on_probe=watcher.on_probe)
        except BudgetError as error:
            part = self.seconds(META_TRAINING) / (60.0 * self.request.minutes)
            error.add_note(f"these are the minutes of {META_TRAINING}, which gets {part:.0%} of the build's")
            raise
        watcher.on_recipe(recipe)
        return train_recipe(
            recipe, folder, on_iteration=watcher.on_iteration, on_message=watcher.on_message, stop=watcher.stop
        )

    def plan_export(self) -> "PlannedExport":
        """The largest evaluation that fits into the time of the stage `ARTIFACT`."""
        request, learned = self.request, load_checkpoint(self.run(META_TRAINING))
        compared = self.request.comparisons
        whole = ExportRequest(
            maml=self.run(META_TRAINING),
            output=request.folder,
            name=request.name,
            version=request.version,
            description=request.description,
            pretrained=self.run(PRETRAINED) if compared else None,
            oracle=self.run(ORACLE) if compared else None,
        )
        sized = {
            size: dataclasses.replace(
                whole, tasks=size.tasks, calibration_tasks=size.calibration, tuning_tasks=size.tuning
            )
            for size in evaluations()
        }
        work = {size: export_work(each) for size, each in sized.items()}
        # Whole episodes, at the pace of meta-training, whose gradients an evaluation does not compute.
        second = self._distribution.environment.horizon * learned.wall_seconds / learned.environment_steps
        estimates = {size: second * count for size, count in work.items()}
        chosen = evaluation_sizes(self.seconds(ARTIFACT), estimates)
        return PlannedExport(sized[chosen], work[chosen], estimates[chosen])

    def export(
        self, planned: "PlannedExport", *, on_trajectories: Callable[[int], None] = lambda count: None
    ) -> tuple[MetaPolicy, Evaluation]:
        """Takes the stage `ARTIFACT`.

        Args:
            planned: from `plan_export`.
            on_trajectories: called with the number of trajectories that a measurement has just sampled.
        """
        started = time.monotonic()
        self._record.exported = Exported(folder=str(planned.request.output), comparisons=self.request.comparisons)
        self._record.save(self.request.runs)
        written = export_meta_policy(planned.request, on_trajectories=on_trajectories)
        self._record.exported.complete = True
        self._finish(ARTIFACT, time.monotonic() - started)
        return written

    def _finish(self, stage: str, seconds: float) -> None:
        self._record.taken[stage] = round(seconds, 1)
        self._record.save(self.request.runs)
