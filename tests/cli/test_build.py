"""``thetaprime build``: from a class to an artifact, in stages that can be interrupted and repeated."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.command import Command, last_json
from thetaprime.cli._environment import make_environment
from thetaprime.models import AdaptationSpec, load_meta_policy
from thetaprime.training import run
from thetaprime.training.building import build as building
from thetaprime.training.building.plan import allotted_seconds, evaluation_sizes, evaluations, stages
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.evaluation.evaluation import EvaluationPlan
from thetaprime.training.run import Progress

TASKS = "tests.support.training.short:Short"
TINY = """
iterations = 2
meta_batch_size = 2
tracker = "none"
checkpoint_every = 1
[policy]
hidden_sizes = [4]
[adaptation]
trajectories_per_round = 2
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of a tiny build in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    return ["build", TASKS, "--name", "tiny", "--minutes", 0.5, "--config", "tiny.toml", "--json"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_from_a_class_to_an_artifact_and_nothing_twice(build: list[Any], thetaprime: Command) -> None:
    first = thetaprime(*build)
    facts = last_json(first)
    artifact = load_meta_policy(Path("zoo/tiny/1"))
    assert (facts["meta_policy"], facts["policy_id"]) == (artifact.label, artifact.policy_id)
    assert len(facts["scores"]) == 5 and {"pretrained.safetensors", "oracle.safetensors"} <= facts["files"].keys()
    assert facts["serve"] == "thetaprime serve --zoo zoo --store state"
    assert facts["adapt"] == f"thetaprime adapt tiny --env {TASKS} --output tiny.onnx"
    assert [each["skipped"] for each in facts["stages"]] == [False] * 5
    runs = {method: load_checkpoint(Path("runs/tiny") / method) for method in ("maml", "pretrained", "oracle")}
    assert {method: each.config.method for method, each in runs.items()} == {method: method for method in runs}
    # The comparisons get as many environment steps: a single iteration may take them further.
    for each in (runs["pretrained"], runs["oracle"]):
        assert each.config.environment_steps == runs["maml"].environment_steps <= each.environment_steps
    headings = re.findall(r"^stage (\d) of 5, ([a-z -]+): ", first.stderr, re.MULTILINE)
    assert [name for _, name in headings] == list(stages(comparisons=True))

    again = thetaprime(*build)
    assert [each["skipped"] for each in last_json(again)["stages"]] == [True] * 5
    assert again.stderr.count("finished before, in ") == 5 and "iteration" not in again.stderr
    assert {method: load_checkpoint(Path("runs/tiny") / method).iteration for method in runs} == {
        method: each.iteration for method, each in runs.items()
    }
    # Another name is exported from the same runs, and without comparisons.
    other = last_json(thetaprime(*build, "--name", "other", "--runs", "runs/tiny", "--no-comparisons"))
    assert [each["skipped"] for each in other["stages"]] == [True, True, False]
    assert other["scores"] is None and other["policy_id"] == facts["policy_id"]


def test_an_interrupted_training_goes_on_where_it_was(
    build: list[Any], thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.toml").write_text(TINY.replace("iterations = 2", "iterations = 100000"))

    def train(*arguments: Any, on_iteration: Callable[[Progress], None], **options: Any) -> RunState:
        def interrupt(progress: Progress) -> None:
            on_iteration(progress)
            if progress.first:
                signal.raise_signal(signal.SIGINT)

        return run.train(*arguments, on_iteration=interrupt, **options)

    monkeypatch.setattr(building, "train", train)
    for iterations in (2, 4):
        stopped = thetaprime(*build)
        assert stopped.exit_code == 130
        error = json.loads(stopped.stdout.splitlines()[-1])["error"]
        assert "stopped and saved in the stage meta-training: the same command goes on" in error["message"]
        assert error["details"] == {"stage": "meta-training", "run": "runs/tiny/maml"}
        assert load_checkpoint(Path("runs/tiny/maml")).iteration == iterations
    assert "stage 1 of 5, contract test: finished before" in stopped.stderr
    assert set(json.loads(Path("runs/tiny/build.json").read_text())["taken"]) == {"contract test"}


@pytest.mark.usefixtures("quick_evaluation")
def test_an_interrupted_export_is_repeated_without_force(
    build: list[Any], thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("thetaprime.training.export.export.measure_artifact", interrupt)
        stopped = thetaprime(*build, "--no-comparisons")
    assert stopped.exit_code == 130
    assert "interrupted; in the stage evaluation and export; the same command goes on" in stopped.stderr
    assert Path("zoo/tiny/1/manifest.json").exists()
    found = last_json(thetaprime(*build, "--no-comparisons"))
    assert [each["skipped"] for each in found["stages"]] == [True, True, False]
    # An artifact of another build stays.
    refused = thetaprime(*build, "--no-comparisons", "--runs", "runs/other")
    assert refused.exit_code == 2 and "manifest.json exists" in refused.stderr and not Path("runs/other").exists()


def test_a_class_that_breaks_its_contract_stops_before_training(build: list[Any], thetaprime: Command) -> None:
    broken = thetaprime(*build[:1], "tests.support.training.short:TooLong", *build[2:])
    error = json.loads(broken.stdout.splitlines()[-1])["error"]
    assert broken.exit_code == 1 and error["code"] == "INVALID_ARGUMENT"
    said = "short:TooLong breaks the contract of a task distribution: an episode continued past the horizon"
    assert said in error["message"] and "in the stage contract test" in error["message"]
    raising = thetaprime(*build[:1], "tests.support.training.short:Unmakeable", *build[2:])
    assert "contract of a task distribution: KeyError: 'gravity'" in raising.stderr
    assert not Path("runs").exists() and not Path("zoo").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["--name", "My Robot"], "name: String should match pattern"),
        (["--minutes", 0], "0.0 is not in the range x>0"),
        (["--seed", 1], "seed is 1; the build in this folder began with 0: choose another folder with --runs"),
        (["--recipe", "auto"], "settings is "),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    changes: list[Any], problem: str, build: list[Any], thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "train", lambda *_, **__: pytest.fail("trained"))
    with monkeypatch.context() as patched:
        patched.setattr(building.Build, "train", lambda *_: False)  # as if it were interrupted
        assert thetaprime(*build).exit_code == 130
    refused = thetaprime(*build, *changes)
    assert refused.exit_code in (1, 2) and problem in refused.stderr


def test_too_few_minutes_are_said_to_be_those_of_meta_training(build: list[Any], thetaprime: Command) -> None:
    refused = thetaprime(*build, "--recipe", "auto", "--minutes", 0.001)
    assert refused.exit_code == 1 and "minutes: 0 are left after the measurements" in refused.stderr
    assert "these are the minutes of meta-training, which gets 35% of the build's" in refused.stderr


def test_unknown_tasks_are_named(build: list[Any], thetaprime: Command) -> None:
    refused = thetaprime(*build[:1], "point-navigatoin", *build[2:])  # codespell:ignore navigatoin
    assert "did you mean 'point-navigation'?" in refused.stderr


def test_a_changed_class_is_tested_again_and_said(
    build: list[Any], thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building.Build, "export", interrupt)
    build = [*build, "--recipe", "auto", "--no-comparisons"]
    begun = thetaprime(*build)
    assert "meta-training, iteration 2 of 2" in begun.stderr and "  policy.observation_std = [" in begun.stderr
    record = Path("runs/tiny/build.json")
    changed = {**json.loads(record.read_text()), "source": "before"}
    record.write_text(json.dumps(changed))
    again = thetaprime(*build)
    assert f"the module of {TASKS} has changed since the build in runs/tiny began" in again.stderr
    assert "contract test: a moment" in again.stderr and "meta-training: finished before" in again.stderr
    assert json.loads(record.read_text())["source"] != "before"


def test_time_is_shared_by_parts_and_passed_on() -> None:
    planned = stages(comparisons=True)
    taken: dict[str, float] = {}
    for stage in planned:  # each takes all of its time
        taken[stage] = allotted_seconds(stage, planned, 3600.0, taken)
    assert [seconds / 60.0 for seconds in taken.values()] == pytest.approx([0.0, 21.0, 15.0, 15.0, 9.0])
    taken = {"meta-training": 600.0, "pretrained policy": 300.0}  # 30 minutes less than planned
    assert allotted_seconds("oracle", planned, 3600.0, taken) == pytest.approx(2700.0 * 5 / 8)
    assert allotted_seconds("oracle", planned, 600.0, taken) == 0.0
    alone = stages(comparisons=False)
    assert allotted_seconds("meta-training", alone, 3600.0, {}) / 60.0 == pytest.approx(51.0)
    work = {size: float(size.tasks * 10) for size in evaluations()}
    assert [evaluation_sizes(seconds, work).tasks for seconds in (1e9, 250.0, 0.0)] == [40, 20, 2]


def test_the_choice_of_fine_tuning_settings_shrinks_with_the_evaluation() -> None:
    adaptation = AdaptationSpec(trajectories_per_round=10)
    plans = [EvaluationPlan(tasks=size.tasks, tuning_tasks=size.tuning) for size in evaluations()]
    work = [plan.work(adaptation, tuned=2) for plan in plans]
    assert work == sorted(work, reverse=True)
    # The smallest evaluation is bounded by its tasks: no setting is tried.
    assert work[-1] == plans[-1].work(adaptation)


def test_adapt_makes_the_environment_of_a_task_of_a_class() -> None:
    env = make_environment(TASKS, {"sign": -1.0})
    env.reset(seed=0)
    assert env.step([0.5])[1] == -0.5
    with pytest.raises(click.BadParameter, match="a task has no sing; expected some of sign"):
        make_environment(TASKS, {"sing": 1.0})
    # An id of Gymnasium after a module stays one.
    assert make_environment("thetaprime.training:thetaprime/PointNavigation-v0", {}).spec is not None
    with pytest.raises(click.BadParameter, match="NoSuch"):
        make_environment("tests.support.training.short:NoSuch", {})
