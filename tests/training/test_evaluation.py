import dataclasses
import json

import numpy as np
import pytest

from tests.support.training.evaluations import evaluation_by_hand
from thetaprime.models import AdaptationSpec, Policy, PolicySpec
from thetaprime.training.evaluation.evaluation import adaptation_curve
from thetaprime.training.evaluation.figures import curves_png
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.tasks import PointNavigationTasks


def test_scores_and_negative_adaptation_follow_their_definitions() -> None:
    evaluation = evaluation_by_hand()
    # S_k = (R_k − R_pretrained,0) / (R_oracle − R_pretrained,0): floor −6, oracle −1
    np.testing.assert_allclose(evaluation.scores(), [0.0, 2 / 5, 4 / 5])
    # the second task fell at step 1 (−5 < −4) and recovered at step 2
    np.testing.assert_allclose(evaluation.negative_adaptation(), [0.5, 0.0])


def test_several_seeds_are_pooled_and_separated() -> None:
    one = evaluation_by_hand()
    both = dataclasses.replace(
        one,
        seeds=(0, 1),
        tasks=[*one.tasks, *one.tasks],
        returns={method: np.concatenate([curve, curve + 1.0], axis=1) for method, curve in one.returns.items()},
        oracle=np.array([-1.0, -1.0, -2.0, -2.0]),
    )
    # of the second seed: floor −5, oracle −2, meta-policy −5, −3, −1
    np.testing.assert_allclose(both.scores_by_seed(), [[0.0, 2 / 5, 4 / 5], [0.0, 2 / 3, 4 / 3]])
    np.testing.assert_allclose(both.scores(), [0.0, 0.5, 1.0])


def test_the_json_object_has_all_documented_fields() -> None:
    result = json.loads(json.dumps(evaluation_by_hand().to_json()))
    assert result["meta_policy"] == "hand@1" and result["tasks"] == 2 and result["seeds"] == [0]
    assert result["returns"]["maml"] == [-6.0, -4.0, -2.0] and result["returns"]["oracle"] == -1.0
    assert len(result["scores"]) == 3 and len(result["negative_adaptation"]) == 2
    low, high = result["returns_interval_95"]["maml"]
    assert all(a <= mean <= b for a, mean, b in zip(low, result["returns"]["maml"], high, strict=True))


def test_intervals_cover_the_mean_at_their_level() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        sample = rng.normal(size=(1, 40))
        evaluation = Evaluation("x@1", (seed,), 1, [{"a": 0.0}] * 40, {"maml": sample}, np.zeros(40))
        low, high = evaluation.interval(lambda indices, s=sample: s[0, indices].mean(), resamples=400)  # type: ignore[misc]
        covered += bool(low <= 0.0 <= high)
    assert 178 <= covered <= 199


def test_figures_are_drawn() -> None:
    assert curves_png(evaluation_by_hand()).startswith(b"\x89PNG")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_nothing_leaks_from_one_task_into_another(order: list[int]) -> None:
    """A task's curve does not depend on the other tasks, except for the noise of its position."""
    distribution = PointNavigationTasks()
    policy = Policy(distribution.environment, PolicySpec(hidden_sizes=(8,), init_log_std=-12.0))
    parameters = policy.init(0)
    before = {name: value.clone() for name, value in parameters.items()}
    tasks = [distribution.sample_tasks(3, np.random.default_rng(0))[i] for i in order]
    curve = adaptation_curve(
        distribution,
        tasks,
        policy,
        parameters,
        None,
        AdaptationSpec(inner_lr=1e-9),
        gradient_steps=2,
        trajectories=2,
        seed=0,
    )
    # With almost no noise and no step, each task must keep the return of θ.
    np.testing.assert_allclose(curve, np.broadcast_to(curve[0], curve.shape), atol=1e-2)
    assert all((before[name] == parameters[name]).all() for name in parameters)
