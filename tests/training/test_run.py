import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.training.tiny import tiny_config
from thetaprime.training.checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.history import LOG_FOLDER, read_history
from thetaprime.training.run import Progress, train


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
