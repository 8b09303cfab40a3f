import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.training.tiny import tiny_config
from thetaprime.training.budget import Budget, Spent
from thetaprime.training.checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.history import HISTORY_NAME, LOG_FOLDER, read_history
from thetaprime.training.run import Progress, train
from thetaprime.training.trackers import TrackerError


@pytest.mark.parametrize(
    ("method", "outer_loop"),
    [("maml", "maml_trpo"), ("oracle", "maml_trpo"), ("maml", "promp"), ("maml", "dice"), ("pretrained", "promp")],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, method: str, outer_loop: str) -> None:
    config = tiny_config({"method": method, "outer_loop": outer_loop, "learn_step_sizes": True})
    whole = train(config, tmp_path / "whole")

    class InterruptedRunError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.iteration == 3:  # between two checkpoints: iteration 3 is lost and repeated
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "halves", on_iteration=stop)
    assert load_checkpoint(tmp_path / "halves").iteration == 2
    # The result does not depend on threads, so another machine may resume with another number.
    resumed = train(config.model_copy(update={"threads": 3}), tmp_path / "halves", resume=True)
    assert resumed.iteration == whole.iteration == 4
    assert resumed.environment_steps == whole.environment_steps
    assert resumed.generator_state == whole.generator_state
    for name, value in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], value)
    for name, value in whole.step_size_state.items():
        assert torch.equal(resumed.step_size_state[name], value)
    assert set(whole.optimizer_state) == (set() if outer_loop == "maml_trpo" else {"count", "moment", "square"})
    for name, value in whole.optimizer_state.items():
        assert torch.equal(resumed.optimizer_state[name], value)


def test_a_checkpoint_without_outer_loop_settings_can_be_resumed(tmp_path: Path, tiny: TrainConfig) -> None:
    whole = train(tiny, tmp_path / "whole")
    train(tiny.model_copy(update={"iterations": 2}), tmp_path / "old")
    file = tmp_path / "old" / CHECKPOINT_NAME
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["config"])
    for field in ("outer_loop", "outer_lr", "outer_epochs", "clip_range", "inner_kl_penalty", "exploration_credit"):
        del config[field]
    save_file(load_file(file), file, {**metadata, "config": json.dumps(config)})
    resumed = train(tiny, tmp_path / "old", resume=True)
    assert all(torch.equal(resumed.parameters[name], value) for name, value in whole.parameters.items())


def test_a_finished_run_can_be_prolonged_but_not_changed(tmp_path: Path, tiny: TrainConfig) -> None:
    train(tiny.model_copy(update={"iterations": 2}), tmp_path)
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(tiny, tmp_path)
    with pytest.raises(CheckpointError, match=r"max_kl is 0\.5; the run began with 0\.01"):
        train(tiny.model_copy(update={"max_kl": 0.5}), tmp_path, resume=True)
    assert train(tiny, tmp_path, resume=True).iteration == 4


def test_an_amended_run_records_its_amendment(tmp_path: Path, tiny: TrainConfig) -> None:
    train(tiny.model_copy(update={"iterations": 2}), tmp_path)
    other = tiny.model_copy(update={"max_kl": 0.5, "support_trajectories": 1})
    fewer: list[int] = []
    amended = train(other, tmp_path, resume=True, amend=True, on_iteration=lambda p: fewer.append(p.environment_steps))
    assert amended.iteration == 4
    assert amended.amendments == load_checkpoint(tmp_path).amendments
    assert [(each.iteration, each.before) for each in amended.amendments] == [
        (2, {"max_kl": 0.01, "support_trajectories": None})
    ]
    whole = train(tiny, tmp_path / "whole")
    assert fewer[-1] < whole.environment_steps
    for field, value in (("seed", 9), ("method", "oracle")):
        with pytest.raises(CheckpointError, match=f"{field} is .*and keeps it"):
            train(other.model_copy(update={field: value}), tmp_path, resume=True, amend=True)


def test_the_seed_determines_the_result(tmp_path: Path, tiny: TrainConfig) -> None:
    runs = [
        train(tiny.model_copy(update={"seed": seed, "iterations": 1}), tmp_path / str(number)).parameters
        for number, seed in enumerate((0, 0, 1))
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["layers.0.weight"], runs[2]["layers.0.weight"])


def test_tensorboard_shows_every_iteration_once_after_a_resume(tmp_path: Path, tiny: TrainConfig) -> None:
    train(tiny.model_copy(update={"iterations": 2}), tmp_path)
    # TensorBoard orders files by the second in their names: let the first file be of an earlier one.
    (file,) = (tmp_path / LOG_FOLDER).glob("events.out.tfevents.*")
    file.rename(file.with_name(re.sub(r"\d+", lambda second: str(int(second[0]) - 1), file.name, count=1)))
    train(tiny, tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / LOG_FOLDER))
    events.Reload()
    assert [event.step for event in events.Scalars("return/post_adaptation")] == [1, 2, 3, 4]
    history = read_history(tmp_path)
    assert history is not None
    assert history.environment_steps[-1] == load_checkpoint(tmp_path).environment_steps
    assert len(history.pre_return) == len(history.post_return) == 4
    assert read_history(tmp_path / "elsewhere") is None


def test_checkpoints_that_are_missing_or_damaged_are_refused(tmp_path: Path, tiny: TrainConfig) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        train(tiny, tmp_path, resume=True)
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path)


def test_configuration_from_file_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('tasks = "point-navigation"\nseed = 3\n[adaptation]\ninner_lr = 0.2\n')
    config = load_config(file, {"adaptation.inner_lr": 0.7, "policy.activation": "tanh"})
    assert (config.seed, config.adaptation.inner_lr, config.policy.activation) == (3, 0.7, "tanh")
    with pytest.raises(ValueError, match=r"adaptation\.inner_lr: Input should be .* equal to 0 \(got -1\)"):
        load_config(file, {"adaptation.inner_lr": -1})
    with pytest.raises(ValueError, match="iteration: Extra inputs are not permitted"):
        load_config(file, {"iteration": 5})
    file.write_text("tasks = ")
    with pytest.raises(ValueError, match=r"config\.toml"):
        load_config(file, {})


def test_a_run_ends_at_its_environment_steps(tmp_path: Path, tiny: TrainConfig) -> None:
    whole = train(tiny, tmp_path / "whole")
    each = whole.environment_steps // 4
    seen: list[Progress] = []
    config = tiny.model_copy(update={"iterations": None, "environment_steps": 2 * each + each // 2})
    state = train(config, tmp_path / "steps", on_iteration=seen.append)
    assert state.iteration == len(seen) == 3
    assert [progress.iterations for progress in seen] == [None] * 3
    assert seen[0].spent < seen[1].spent < seen[2].spent == 1.0
    assert seen[0].remaining_seconds > 0.0 == seen[2].remaining_seconds


def test_a_run_ends_near_its_minutes_and_keeps_time_over_a_resume(tmp_path: Path, tiny: TrainConfig) -> None:
    config = tiny.model_copy(update={"iterations": None, "minutes": 0.5 / 60})
    state = train(config, tmp_path)
    assert state.iteration > 1
    assert state.wall_seconds > 0.25
    assert train(config, tmp_path, resume=True).iteration <= state.iteration + 1
    assert train(config.model_copy(update={"minutes": 1.0 / 60}), tmp_path, resume=True).iteration > state.iteration


def test_a_budget_without_a_limit_is_500_iterations(tiny: TrainConfig) -> None:
    none = {"iterations": None}
    assert Budget(tiny.model_copy(update=none), Spent(0, 0, 0.0)).iterations == 500
    assert Budget(tiny.model_copy(update={**none, "minutes": 1.0}), Spent(0, 0, 0.0)).iterations is None
    assert not Budget(tiny.model_copy(update=none), Spent(499, 10**9, 1e9)).exhausted
    assert Budget(tiny.model_copy(update=none), Spent(500, 0, 0.0)).exhausted


def test_the_time_that_is_left_follows_the_pace_of_the_last_iterations(tiny: TrainConfig) -> None:
    budget = Budget(tiny.model_copy(update={"iterations": 100, "environment_steps": 1_000}), Spent(0, 0, 0.0))
    for iteration in range(1, 21):  # the first ten were five times as slow
        budget.add(Spent(iteration, 10 * iteration, 5.0 * min(iteration, 10) + 1.0 * max(iteration - 10, 0)))
    assert budget.remaining_seconds == pytest.approx(80.0)
    assert budget.share == pytest.approx(0.2)


@pytest.mark.parametrize(("seconds", "exhausted"), [(50.0, False), (57.0, True), (61.0, True)])
def test_minutes_end_before_half_of_another_iteration(tiny: TrainConfig, seconds: float, exhausted: bool) -> None:
    config = tiny.model_copy(update={"iterations": None, "minutes": 1.0})
    resumed = Budget(config, Spent(5, 0, seconds))  # its iterations took a fifth of that time each, 10 s or more
    assert resumed.exhausted == exhausted
    begun = Budget(config, Spent(0, 0, 0.0))
    for iteration in range(1, 6):
        begun.add(Spent(iteration, 0, seconds * iteration / 5))
    assert begun.exhausted == exhausted


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [1, 2, 3, 4]), (5.0, [0, 0, 0, 4])])
def test_time_asks_for_a_checkpoint_too(tmp_path: Path, tiny: TrainConfig, minutes: float, saved: list[int]) -> None:
    config = tiny.model_copy(update={"checkpoint_every": 1_000, "checkpoint_minutes": minutes})
    found: list[int] = []
    train(config, tmp_path, on_iteration=lambda progress: found.append(load_checkpoint(tmp_path).iteration))
    assert found == saved


@pytest.mark.parametrize("tracker", ["tensorboard", "none"])
def test_the_learning_curves_are_kept_with_any_tracker(tmp_path: Path, tiny: TrainConfig, tracker: str) -> None:
    config = tiny.model_copy(update={"tracker": tracker})
    train(config.model_copy(update={"iterations": 2}), tmp_path)
    with (tmp_path / HISTORY_NAME).open("a") as file:
        file.write('{"iteration": 3, "retu\n')  # killed in the middle of a line
    seen: list[Progress] = []
    train(config, tmp_path, resume=True, on_iteration=seen.append)
    history = read_history(tmp_path)
    assert history is not None and len(history.post_return) == 4
    assert history.post_return[2:].tolist() == pytest.approx([progress.post_return for progress in seen])
    assert (tmp_path / LOG_FOLDER).exists() == (tracker == "tensorboard")
    if tracker == "tensorboard":  # a run of an earlier version has only these
        (tmp_path / HISTORY_NAME).unlink()
        earlier = read_history(tmp_path)
        assert earlier is not None and earlier.post_return.tolist() == pytest.approx(history.post_return.tolist())


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match=r"wandb is not installed: pip install wandb"):
        train(tiny.model_copy(update={"tracker": "wandb"}), tmp_path)


def test_weights_and_biases_receives_every_iteration(
    tmp_path: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module(types.ModuleType):
        """What the tracker uses of the package."""

        def __init__(self) -> None:
            super().__init__("wandb")
            self.begun: dict[str, Any] = {}
            self.logged: list[tuple[int, float]] = []
            self.finished = False

        def init(self, **settings: Any) -> "Module":
            self.begun = settings
            return self

        def log(self, scalars: dict[str, float], step: int) -> None:
            self.logged.append((step, scalars["return/post_adaptation"]))

        def finish(self) -> None:
            self.finished = True

    module = Module()
    monkeypatch.setitem(sys.modules, "wandb", module)
    seen: list[Progress] = []
    train(tiny.model_copy(update={"tracker": "wandb"}), tmp_path / "run", on_iteration=seen.append)
    assert module.begun["config"]["meta_batch_size"] == tiny.meta_batch_size
    assert (module.begun["name"], module.begun["dir"]) == ("run", tmp_path / "run")
    assert module.logged == [(each.iteration, each.post_return) for each in seen]
    assert module.finished
