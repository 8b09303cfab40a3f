"""The calibration of verdicts: added to an artifact, and what it tells about in-range and other tasks."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from thetaprime.models import ArtifactError, MetaPolicy, Parameters, TrajectoryBatch, load_meta_policy, zoo_directory
from thetaprime.models.verdict.calibration import PREFIX, load_calibration
from thetaprime.models.verdict.familiarity import Familiarity, check_calibration, task_p_value
from thetaprime.training.export.add_calibration import add_calibration
from thetaprime.training.export.simulated_rounds import concatenate, inner_step, simulate_rounds
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.protocol import Task

TASKS = resolve_tasks("point-navigation")


def _copy(folder: Path) -> Path:
    artifact = folder / "point-navigation" / "1"
    shutil.copytree(zoo_directory() / "point-navigation" / "1", artifact)
    return artifact


@pytest.fixture(scope="module")
def shipped() -> MetaPolicy:
    return load_meta_policy(zoo_directory() / "point-navigation" / "1")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> MetaPolicy:
    """The shipped navigation, calibrated again on a few tasks."""
    return add_calibration(_copy(tmp_path_factory.mktemp("zoo")), held_out=12)


def _first_rounds(meta_policy: MetaPolicy, tasks: Sequence[Task], seed: int) -> list[TrajectoryBatch]:
    theta = [meta_policy.parameters] * len(tasks)
    return collect(TASKS, tasks, meta_policy.policy, theta, 20, rng=np.random.default_rng(seed))


def _judge(meta_policy: MetaPolicy, batch: TrajectoryBatch) -> Familiarity:
    gradient = inner_step(meta_policy, batch, meta_policy.parameters, 0).gradient
    found = task_p_value(meta_policy, batch, gradient, adapted=False)
    assert found is not None
    return found


def _rewarded(batch: TrajectoryBatch, rewards: torch.Tensor) -> TrajectoryBatch:
    return dataclasses.replace(batch, rewards=rewards)


@pytest.mark.usefixtures("one_thread")
def test_fresh_training_tasks_are_familiar(shipped: MetaPolicy) -> None:
    tasks = TASKS.sample_tasks(40, np.random.default_rng(900))
    found = [_judge(shipped, batch).p_value for batch in _first_rounds(shipped, tasks, 901)]
    # Over 40 tasks the share of p <= .1 has a standard deviation of 5 %.
    assert np.mean([p <= 0.1 for p in found]) < 0.25
    assert 0.3 < np.mean(found) < 0.7


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("goal", ""),
        ("scale", ""),
        ("sign", ""),
        ("noise", ""),
        ("late", ""),
        ("constant", "the gradient is smaller"),
    ],
)
def test_other_tasks_are_unfamiliar(shipped: MetaPolicy, case: str, words: str) -> None:
    goal = [0.9, -0.9] if case == "goal" else [0.3, -0.2]
    batch = _first_rounds(shipped, [{"goal": goal}], 902)[0]
    assert (_judge(shipped, batch).p_value < 0.05) == (case == "goal")
    rewards = batch.rewards
    late = torch.cat([torch.zeros(len(batch.lengths), 3), batch.pad(rewards)[:, :-3]], dim=1)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(len(rewards)).astype(np.float32))
    changed = {
        "goal": rewards,
        "scale": 10.0 * rewards,
        "sign": -rewards,
        "noise": rewards + 0.5 * rewards.std() * noise,
        "late": batch.unpad(late),
        "constant": torch.ones_like(rewards),
    }
    found = _judge(shipped, _rewarded(batch, changed[case]))
    assert found.p_value < 0.05
    assert words in found.text


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rewards", [0.0, 1e-30, 1e30, -1e30, 3e38])
def test_extreme_rewards_have_a_p_value(shipped: MetaPolicy, rewards: float) -> None:
    batch = _first_rounds(shipped, [{"goal": [0.3, -0.2]}], 903)[0]
    for trajectories in (1, 2, 20):
        used = batch.first(trajectories)
        extreme = _rewarded(used, used.rewards * rewards)
        assert 0.0 < _judge(shipped, extreme).p_value < 0.05


@pytest.mark.usefixtures("one_thread")
def test_later_rounds_combine_with_the_first(shipped: MetaPolicy) -> None:
    rounds = next(iter(simulate_rounds(shipped, TASKS, 1, np.random.SeedSequence(904))))
    gradient = inner_step(shipped, rounds.second, rounds.step.parameters, 1).gradient
    alone, unlikely, likely = (
        task_p_value(shipped, rounds.second, gradient, adapted=True, first=first) for first in (None, 1 / 217, 1.0)
    )
    assert alone is not None and unlikely is not None and likely is not None
    assert alone.p_value == alone.alone == unlikely.alone
    # The smallest of 217 ranks in one round: a few of 216 held-out tasks have it in one of two rounds.
    assert 1 / 217 <= unlikely.p_value < 0.03
    # The smaller of two p-values is smaller than either.
    assert likely.p_value >= alone.alone


def test_a_calibration_keeps_everything_else(calibrated: MetaPolicy) -> None:
    before = load_meta_policy(zoo_directory() / "point-navigation" / "1")
    kept = {name: value for name, value in calibrated.reference.items() if not name.startswith(PREFIX)}
    assert {name for name in before.reference if not name.startswith(PREFIX)} == kept.keys()
    assert all(torch.equal(value, before.reference[name]) for name, value in kept.items())
    changed = {name for name, digest in calibrated.manifest.files.items() if digest != before.manifest.files[name]}
    assert changed <= {"reference.safetensors"}
    assert calibrated.policy_id == before.policy_id


def test_the_calibration_added_again_is_the_same(calibrated: MetaPolicy, tmp_path: Path) -> None:
    artifact, done = _copy(tmp_path), []
    add_calibration(artifact, held_out=12, on_task=lambda: done.append(1))
    assert len(done) == 2 + 12
    for name in ("manifest.json", "reference.safetensors"):
        assert (artifact / name).read_bytes() == (calibrated.directory / name).read_bytes()


def test_an_artifact_without_a_calibration_says_nothing(shipped: MetaPolicy) -> None:
    reference = {name: value for name, value in shipped.reference.items() if not name.startswith(PREFIX)}
    earlier = dataclasses.replace(shipped, reference=reference)
    batch = _first_rounds(earlier, [{"goal": [0.3, -0.2]}], 905)[0]
    assert load_calibration(earlier) is None
    assert task_p_value(earlier, batch, {}, adapted=False) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"calibration.theta.features": None}, "calibration.theta.features is missing"),
        (
            {"calibration.theta.dynamics": torch.zeros(3, 2)},
            r"calibration.theta.dynamics is \[3, 2\]; expected \[9, 2\]",
        ),
        ({"calibration.adapted.scores": torch.zeros(5)}, r"calibration.adapted.scores is \[5\]; expected \[5, 12\]"),
        ({"calibration.adapted.change": torch.tensor([1.0, torch.nan])}, "calibration.adapted.change is not finite"),
    ],
)
def test_a_damaged_calibration_is_refused_by_name(
    calibrated: MetaPolicy, change: dict[str, torch.Tensor | None], problem: str
) -> None:
    reference: Parameters = {
        name: value for name, value in {**calibrated.reference, **change}.items() if value is not None
    }
    with pytest.raises(ArtifactError, match=problem):
        load_calibration(dataclasses.replace(calibrated, reference=reference))


def test_features_of_another_version_are_refused_by_name(calibrated: MetaPolicy) -> None:
    check_calibration(calibrated)
    features = calibrated.reference["calibration.adapted.features"]
    other = {**calibrated.reference, "calibration.adapted.features": features[:, 1:]}
    with pytest.raises(ArtifactError, match=r"calibration.adapted.features is \[12, .*; expected 16 along axis 1"):
        check_calibration(dataclasses.replace(calibrated, reference=other))


def test_one_held_out_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held_out: 1; expected at least 2"):
        add_calibration(tmp_path, held_out=1)


def test_concatenated_batches_hold_all_trajectories(shipped: MetaPolicy) -> None:
    first, second = _first_rounds(shipped, [{"goal": [0.02, 0.0]}, {"goal": [0.3, 0.1]}], 906)
    both = concatenate(first, second)
    assert torch.equal(both.returns, torch.cat([first.returns, second.returns]))
    assert torch.equal(both.first(20).observations, first.observations)
