import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.artifacts import write_untrained
from tests.support.training.evaluations import evaluation_by_hand
from thetaprime.models import (
    AdaptationSpec,
    ArtifactError,
    MetaPolicy,
    Policy,
    PolicySpec,
    load_meta_policy,
    zoo_directory,
)
from thetaprime.models.verdict import RoundMemory, StepOptions, next_step
from thetaprime.training.evaluation import fine_tuning
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME, Comparison, comparison_files
from thetaprime.training.evaluation.curves import adaptation_curve, session_curve, stream
from thetaprime.training.evaluation.evaluation import METHODS, TASKS_AT_ONCE, EvaluationPlan, evaluate, evaluation_work
from thetaprime.training.evaluation.figures import curves_png
from thetaprime.training.evaluation.fine_tuning import stored_fine_tuning
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import OracleTasks, PointNavigationTasks

_ADAPTATION = AdaptationSpec(trajectories_per_round=2, adapted_std_factor=0.5)
_STORED = {"pretrained": AdaptationSpec(inner_lr=0.2), "random": AdaptationSpec(inner_lr=0.4, discount=0.3)}


def _artifact(folder: Path, evaluation: object = None) -> MetaPolicy:
    """An untrained meta-policy with its comparisons; with an evaluation, as an export writes it, if one is given."""
    tasks = PointNavigationTasks()
    spec = PolicySpec(hidden_sizes=(4,), init_log_std=-1.0)
    policy, oracle = Policy(tasks.environment, spec), Policy(OracleTasks(tasks).environment, spec)
    files = comparison_files(
        {
            "pretrained": Comparison(policy, policy.init(1)),
            "random": Comparison(policy, policy.init(2)),
            "oracle": Comparison(oracle, oracle.init(3)),
        }
    )
    if evaluation is not None:
        files[EVALUATION_NAME] = json.dumps(evaluation).encode()
    return write_untrained(
        folder, "point-navigation", tasks.environment, spec=spec, adaptation=_ADAPTATION, extra_files=files
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> MetaPolicy:
    """An artifact that stores how its comparisons are fine-tuned."""
    stored = {method: spec.model_dump(mode="json") for method, spec in _STORED.items()}
    return _artifact(tmp_path_factory.mktemp("exported"), {"fine_tuning": stored})


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
        AdaptationSpec(inner_lr=1e-12),
        gradient_steps=2,
        trajectories=2,
        seed=0,
    )
    # With almost no noise and no step, each task must keep the return of θ.
    np.testing.assert_allclose(curve, np.broadcast_to(curve[0], curve.shape), atol=1e-2)
    assert all((before[name] == parameters[name]).all() for name in parameters)


def test_the_evaluation_takes_the_guarded_steps_of_the_service() -> None:
    meta_policy = load_meta_policy(zoo_directory() / "point-navigation" / "1")
    distribution, task = PointNavigationTasks(), {"goal": [0.4, -0.3]}
    curve = session_curve(meta_policy, distribution, [task], gradient_steps=3, trajectories=20, seed=0)
    policies, history, returns = [meta_policy.parameters], list[RoundMemory](), []
    for step in range(4):
        rng = stream(0, 1, step, 0)
        (batch,) = collect(distribution, [task], meta_policy.policy, policies[-1:], 20, rng=rng)
        returns.append(float(batch.returns.mean()))
        taken = next_step(meta_policy, history, batch, policies[-1], policies.__getitem__, StepOptions())
        policies.append(taken.parameters)
        history.append(taken.memory)
    assert curve[:, 0].tolist() == returns
    # Without a guard, the second step is another one.
    plain = adaptation_curve(
        distribution,
        [task],
        meta_policy.policy,
        meta_policy.parameters,
        meta_policy.step_sizes,
        meta_policy.manifest.adaptation,
        gradient_steps=3,
        trajectories=20,
        seed=0,
    )
    assert plain[1, 0] == returns[1]
    assert plain[2, 0] != returns[2]


@pytest.mark.parametrize("methods", [METHODS, ("maml",), ("maml", "oracle"), ("oracle",), ("pretrained", "random")])
def test_an_evaluation_measures_the_methods_that_it_is_asked_for(
    exported: MetaPolicy, methods: tuple[str, ...]
) -> None:
    plan = EvaluationPlan(tasks=2, methods=methods, gradient_steps=1, budgets=(1, 2))
    counts: list[int] = []
    found = evaluate(exported, plan, on_trajectories=counts.append)
    curves = [method for method in methods if method != "oracle"]
    assert list(found.returns) == curves
    assert (found.oracle is not None) == ("oracle" in methods)
    assert found.budgets == ((1, 2) if "maml" in methods else ())
    # two trajectories for each of two returns of a curve, and for each of two noises of the oracle; two budgets
    expected = 2 * (4 * len(curves) + 4 * ("oracle" in methods) + (2 + 4) * ("maml" in methods))
    assert sum(counts) == expected == evaluation_work(exported, plan)
    result = json.loads(json.dumps(found.to_json()))
    assert set(result["returns"]) == set(methods)
    assert (result["scores"] is None) == (methods != METHODS)
    assert (result["negative_adaptation"] is None) == ("maml" not in methods)
    assert curves_png(found).startswith(b"\x89PNG")


def test_a_method_has_the_same_returns_beside_other_methods(exported: MetaPolicy) -> None:
    plan = EvaluationPlan(tasks=3, gradient_steps=1)
    whole = evaluate(exported, plan)
    alone = evaluate(exported, dataclasses.replace(plan, methods=("random",)))
    np.testing.assert_array_equal(alone.returns["random"], whole.returns["random"])


def test_finished_tasks_are_reported_while_others_are_measured(exported: MetaPolicy) -> None:
    parts: list[Evaluation] = []
    plan = EvaluationPlan(tasks=TASKS_AT_ONCE + 2, seeds=(4, 5), gradient_steps=1, budgets=(2,))
    whole = evaluate(exported, plan, on_tasks=parts.append)
    assert [len(each.tasks) for each in parts] == [8, 10, 18, 20]
    assert [each.seeds for each in parts] == [(4,), (4,), (4, 5), (4, 5)]
    for part in parts:
        for method, curve in whole.returns.items():
            np.testing.assert_array_equal(part.returns[method], curve[:, : len(part.tasks)])
        json.dumps(part.to_json())
    # the scores of an unfinished seed are those of its finished tasks
    np.testing.assert_allclose(parts[2].scores_by_seed()[0], whole.scores(slice(0, 10)))
    np.testing.assert_allclose(parts[2].scores_by_seed()[1], parts[2].scores(slice(10, 18)))


def test_comparisons_are_fine_tuned_with_the_settings_of_the_artifact(
    exported: MetaPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = EvaluationPlan(tasks=2, methods=("pretrained", "random"), gradient_steps=1)
    found = evaluate(exported, plan)
    assert found.fine_tuning == _STORED
    spec = _STORED["random"]
    tasks = PointNavigationTasks()
    expected = adaptation_curve(
        tasks,
        found.tasks,
        exported.policy,
        Policy(tasks.environment, exported.manifest.policy).init(2),
        None,
        spec,
        gradient_steps=1,
        trajectories=2,
        seed=0,
    )
    np.testing.assert_array_equal(found.returns["random"], expected)

    # An artifact from before chooses them first, and counts the trajectories of the choice.
    monkeypatch.setattr(fine_tuning, "FINE_TUNING_RATES", (0.1,))
    monkeypatch.setattr(fine_tuning, "_FINE_TUNING_STEPS", 1)
    old, counts = _artifact(tmp_path), list[int]()
    assert stored_fine_tuning(old, ["pretrained", "random"]) == {}
    chosen = evaluate(old, plan, on_trajectories=counts.append)
    assert set(chosen.fine_tuning) == {"pretrained", "random"} and chosen.fine_tuning != _STORED
    assert sum(counts) == evaluation_work(old, plan) > evaluation_work(exported, plan)


@pytest.mark.parametrize("evaluation", [[], {"fine_tuning": {"random": {"inner_lr": -1}}}, {"fine_tuning": [1]}])
def test_settings_that_cannot_be_read_are_refused(evaluation: object, tmp_path: Path) -> None:
    artifact = _artifact(tmp_path, evaluation)
    with pytest.raises(ArtifactError, match=r"evaluation\.json: fine_tuning cannot be read"):
        evaluate(artifact, EvaluationPlan(tasks=2, methods=("random",)))


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="methods: maml, ppo; expected some of maml, pretrained, random, oracle"):
        EvaluationPlan(methods=("maml", "ppo"))
    with pytest.raises(ValueError, match="methods: none"):
        EvaluationPlan(methods=())
    with pytest.raises(ValueError, match="a score needs the methods maml, pretrained and oracle"):
        dataclasses.replace(evaluation_by_hand(), oracle=None).scores()
