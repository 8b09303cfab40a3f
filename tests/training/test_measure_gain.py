"""The gains of held-out tasks: measured without bias, and covered by the intervals of the shipped navigation."""

import numpy as np
import pytest
import torch

from thetaprime.models import load_meta_policy, zoo_directory
from thetaprime.models.verdict.predicted import FEATURES_NAME, GAINS_NAME, predict_gain
from thetaprime.training.export.measure_gain import GainMeasurer
from thetaprime.training.export.simulated_rounds import TaskRounds, simulate_rounds
from thetaprime.training.tasks.distributions import resolve_tasks

pytestmark = pytest.mark.usefixtures("one_thread")
META_POLICY = load_meta_policy(zoo_directory() / "point-navigation" / "1")


@pytest.fixture(scope="module")
def rounds() -> list[TaskRounds]:
    seed = np.random.SeedSequence(8888)
    return list(simulate_rounds(META_POLICY, resolve_tasks("point-navigation"), 36, seed))


def test_the_gain_comes_from_episodes_that_the_step_does_not_depend_on(rounds: list[TaskRounds]) -> None:
    measurer = GainMeasurer(META_POLICY, [])
    found = measurer.observe(rounds[0])
    gain = rounds[0].second.returns.mean() - rounds[0].fresh.returns.mean()
    assert float(found[GAINS_NAME]) == pytest.approx(float(gain), rel=1e-6)
    assert found[FEATURES_NAME].shape == (3,)
    assert float(found[FEATURES_NAME][0]) == pytest.approx(float(rounds[0].first.returns.mean()), rel=1e-6)
    stored = measurer.finish({name: torch.stack([value, value]) for name, value in found.items()})
    assert {name: value.shape for name, value in stored.items()} == {FEATURES_NAME: (2, 3), GAINS_NAME: (2,)}


def test_the_shipped_intervals_cover_the_gains_of_fresh_training_tasks(rounds: list[TaskRounds]) -> None:
    covered = []
    for each in rounds:
        found = predict_gain(META_POLICY, each.first, each.step.parameters, 1.0)
        assert found is not None
        gain = float(each.second.returns.mean() - each.fresh.returns.mean())
        covered.append(found.low <= gain <= found.high)
        # No step of a training task is predicted to hurt for sure.
        assert found.high > 0.0
    # With the probability .9 each, fewer than 27 of 36 in one run of a thousand.
    assert sum(covered) >= 27


def test_every_shipped_meta_policy_predicts_its_first_step() -> None:
    for folder in sorted(zoo_directory().glob("*/1")):
        reference = load_meta_policy(folder).reference
        assert len(reference[GAINS_NAME]) >= 200, folder
        assert len(reference[FEATURES_NAME]) == len(reference[GAINS_NAME])
