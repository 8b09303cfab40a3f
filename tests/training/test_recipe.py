"""Recipe "auto": what it measures, what follows, and that a run learns from it."""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.training import signs
from thetaprime.models import Decision, MemorySpec
from thetaprime.training.budget import Spent
from thetaprime.training.checkpoint import load_checkpoint
from thetaprime.training.config import changed_config, load_config
from thetaprime.training.recipe import attempts
from thetaprime.training.recipe.attempts import train_recipe
from thetaprime.training.recipe.decide import PROBE_NETWORK, BudgetError, decide, decide_memory, decide_sizes
from thetaprime.training.recipe.probe import DISCOUNTS, DiscountScores, Measurements, ProbeError, probe
from thetaprime.training.recipe.settings import Recipe, settle_recipe, write_config
from thetaprime.training.recipe.watch import judge
from thetaprime.training.run import Progress

FLAT = DiscountScores((1.0,) * len(DISCOUNTS), (0.1,) * len(DISCOUNTS))
PLAIN = signs.Signs()
MEASURED = Measurements(
    seconds=10.0,
    environment_steps=10_000,
    tasks=16,
    episodes=100,
    steps_per_second=2_000.0,
    episode_length=100.0,
    observation_mean=(0.5, -1.0),
    observation_std=(2.0, 0.1),
    task_size=3,
    reward_deviation=1.0,
    rewarded_share=1.0,
    highest_reward=2.0,
    median_return=-43.21,
    log_std=-1.0,
    lengths_by_log_std={-0.5: 40.0, -1.0: 100.0},
    inner=FLAT,
    outer=FLAT,
    context_noise=0.02,
    trajectories=20,
)


@functools.cache
def _probed(family: signs.Signs) -> Measurements:
    return probe(family, PROBE_NETWORK, seconds=30.0, seed=0)  # long: the number of episodes is then fixed


def _decided(measured: Measurements, **given: object) -> dict[str, object]:
    named = {name.replace("__", "."): value for name, value in given.items()}
    return {name: each.value for name, each in decide(measured, named, horizon=100, cores=2).items()}


def _best(scores: DiscountScores) -> float:
    return DISCOUNTS[int(np.argmax(scores.scores))]


@pytest.mark.usefixtures("one_thread")
def test_discounts_follow_the_delay_between_actions_and_rewards() -> None:
    at_once, late = _probed(PLAIN), _probed(signs.Late())
    assert _best(at_once.inner) <= 0.5 and _best(at_once.outer) <= 0.5
    assert _best(late.inner) >= 0.95 and _best(late.outer) >= 0.95
    now, later = _decided(at_once), _decided(late)
    assert now["adaptation.discount"] == 0.8 and later["adaptation.discount"] >= 0.95  # type: ignore[operator]
    # The signal of a low discount is none: no reward of the next steps is the action's.
    assert late.inner.scores[0] < 0.5 * max(late.inner.scores)


@pytest.mark.usefixtures("one_thread")
def test_observations_and_actions_in_any_unit_come_to_unit_size() -> None:
    measured = _probed(signs.OddUnits())
    assert measured.observation_mean[:2] == pytest.approx((7.0, 3e6), rel=0.03)
    assert measured.observation_std == pytest.approx((1.0, 1e6, 1e-4), rel=0.05)
    # Neither the bounds of the actions nor the scale of the rewards changes what was measured of them.
    same = _probed(PLAIN)
    assert measured.inner.scores == pytest.approx(same.inner.scores, rel=0.25)
    assert _decided(measured)["policy.init_log_std"] == _decided(same)["policy.init_log_std"] == -0.5


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("family", "problem"),
    [
        (signs.Unrewarded(), r"reward: always 0 in \d+ episodes of 16 tasks .* near it"),
        (signs.Broken(), "observation: component 0 is NaN or infinite"),
    ],
)
def test_tasks_that_teach_nothing_are_refused_before_training(family: signs.Signs, problem: str) -> None:
    with pytest.raises(ProbeError, match=problem):
        _probed(family)


@pytest.mark.usefixtures("one_thread")
def test_a_return_that_no_action_changes_is_refused() -> None:
    class Constant(signs.Noise):
        reward_noise = 0.0

        def make_vector(self, tasks):  # type: ignore[no-untyped-def]
            vector = super().make_vector(tasks)
            step = vector.step
            vector.step = lambda actions: (lambda out: (out[0], out[1] + 1.0, *out[2:]))(step(actions))  # type: ignore[method-assign]
            return vector

    with pytest.raises(ProbeError, match="the return is 40 in every episode"):
        _probed(Constant())


def test_episodes_that_end_early_cannot_speak_against_a_usual_discount() -> None:
    scores = DiscountScores((0.7, 0.9, 1.0, 0.98, 0.96, 0.93, 0.92, 0.9), (0.01,) * 8)
    ending = dataclasses.replace(MEASURED, outer=scores, episode_length=10.0)
    assert _decided(ending)["outer_discount"] == 0.97
    assert _decided(dataclasses.replace(ending, episode_length=100.0))["outer_discount"] == 0.9


def test_a_discount_stays_usual_unless_the_measurement_is_clear() -> None:
    scores = (0.2, 0.4, 0.7, 0.8, 0.9, 0.97, 1.0, 0.98)
    clear = dataclasses.replace(MEASURED, inner=DiscountScores(scores, (0.01,) * 8))
    vague = dataclasses.replace(MEASURED, inner=DiscountScores(scores, (0.5,) * 8))
    none = dataclasses.replace(MEASURED, inner=DiscountScores((-1.0,) * 8, (0.0,) * 8))
    assert [_decided(each)["adaptation.discount"] for each in (clear, vague, none)] == [0.95, 0.8, 0.8]


def test_noise_and_context_follow_the_measurements() -> None:
    decided = _decided(MEASURED)
    assert decided["policy.init_log_std"] == -1.0
    assert "policy.init_log_std" not in _decided(dataclasses.replace(MEASURED, log_std=None))
    assert decided["policy.context_size"] == 6 and decided["adaptation.inner_lr"] == 0.0
    assert [_decided(dataclasses.replace(MEASURED, task_size=size))["policy.context_size"] for size in (1, 4, 40)] == [
        4,
        8,
        8,
    ]


def test_where_no_reward_exceeds_0_the_gap_to_it_sets_the_length_of_a_step() -> None:
    above, below = _decided(MEASURED), _decided(dataclasses.replace(MEASURED, highest_reward=0.0))
    assert "adaptation.target_return" not in above and above["adaptation.normalize_gradient"]
    assert (below["adaptation.target_return"], below["adaptation.return_gap"]) == (0.0, 43.0)
    # Without a gap nothing shortens a step at the task.
    schedules = [each["adaptation.inner_lr_schedule"] for each in (above, below)]
    assert schedules == [[1.0, 0.1], [1.0, 0.5]]
    given = _decided(MEASURED, adaptation__target_return=50.0)
    assert "adaptation.target_return" not in given and given["adaptation.return_gap"] == 93.0
    # A distribution whose every task returns its target needs no gap, which may not be 0.
    assert (
        _decided(dataclasses.replace(MEASURED, highest_reward=0.0, median_return=0.0))["adaptation.return_gap"] == 1.0
    )
    assert (
        not {"adaptation.target_return", "adaptation.normalize_gradient"}
        & _decided(dataclasses.replace(MEASURED, highest_reward=0.0), policy__context_size=0).keys()
    )


def test_a_step_of_the_context_is_as_long_as_its_noise_allows() -> None:
    def step(noise: float, **given: int) -> object:
        named: dict[str, object] = {"adaptation.normalize_gradient": False}
        named.update({name.replace("__", "."): value for name, value in given.items()})
        measured = dataclasses.replace(MEASURED, context_noise=noise)
        return decide_sizes(measured, named, horizon=100, pace=1e6, seconds=None)["adaptation.context_lr"].value

    assert step(0.02) == 10.0
    assert step(0.02, adaptation__trajectories_per_round=5) == 5.0
    assert (step(1e-9), step(10.0), step(0.0)) == (30.0, 3.0, 10.0)
    assert decide_sizes(MEASURED, {}, horizon=100, pace=1e6, seconds=None)["adaptation.context_lr"].value == 1.0
    assert "adaptation.context_lr" not in decide_sizes(
        MEASURED, {"policy.context_size": 0}, horizon=100, pace=1e6, seconds=None
    )


def test_what_is_given_wins_and_the_rest_follows() -> None:
    decided = _decided(MEASURED, policy__context_size=0, outer_loop="dice", outer_discount=0.5)
    assert not {"policy.context_size", "outer_loop", "outer_discount"} & decided.keys()
    assert decided["adaptation.inner_lr"] == 0.1
    assert "adaptation.curvature" not in decided  # dice implies another one


@pytest.mark.parametrize(
    ("pace", "minutes", "tasks", "trajectories"),
    [(1_000.0, 1.0, 8, 10), (4_000.0, 30.0, 12, 10), (10_000.0, 30.0, 17, 17), (1e6, 60.0, 40, 20)],
)
def test_an_iteration_is_as_large_as_the_time_allows(
    pace: float, minutes: float, tasks: int, trajectories: int
) -> None:
    decided = decide_sizes(MEASURED, {}, horizon=100, pace=pace, seconds=60.0 * minutes)
    values = {name: each.value for name, each in decided.items()}
    assert (values["meta_batch_size"], values["adaptation.trajectories_per_round"]) == (tasks, trajectories)
    fixed = decide_sizes(
        MEASURED, {"adaptation.trajectories_per_round": 10}, horizon=100, pace=pace, seconds=60.0 * minutes
    )
    assert fixed.keys() == {"meta_batch_size", "adaptation.context_lr"}


def test_minutes_that_do_not_suffice_for_an_iteration_are_refused() -> None:
    with pytest.raises(BudgetError, match=r"minutes: 0\.5 are left .* one iteration takes about 27 .*--minutes 2667"):
        decide_sizes(MEASURED, {}, horizon=100, pace=10.0, seconds=30.0)
    assert decide_sizes(MEASURED, {}, horizon=100, pace=10.0, seconds=None)["meta_batch_size"].value == 20


def test_the_written_configuration_is_the_run_s(tmp_path: Path) -> None:
    config = load_config(
        None, {"tasks": "a:B", "minutes": 2.5, "policy.observation_std": (1e-7, 3e6), "policy.min_log_std": -math.inf}
    )
    reason = Decision(setting="policy.observation_std", value=[1e-7, 3e6], reason="measured")
    file = write_config(config, (reason,), tmp_path)
    assert load_config(file, {}) == config
    assert "# measured\nobservation_std = [1e-07, 3000000.0]" in file.read_text()


def test_a_memory_is_settled_without_an_inner_loop(tmp_path: Path) -> None:
    given = {"tasks": "a:B", "method": "rl2", "rl2.episodes": 4, "policy.memory.cell": "lstm"}
    found = decide_memory(MEASURED, given, horizon=100, cores=2)
    config = load_config(None, {**{name: each.value for name, each in found.items()}, **given})
    assert config.meta_batch_size == 50  # 20,000 steps
    assert config.policy.memory == MemorySpec(cell="lstm", size=64)
    assert not any(name.startswith("adaptation") for name in found)
    file = write_config(config, tuple(found.values()), tmp_path)
    assert load_config(file, {}) == config
    assert "\n[policy.memory]\n" in file.read_text()


def test_a_changed_configuration_drops_what_the_old_outer_loop_implied() -> None:
    config = load_config(None, {"tasks": "a:B", "outer_loop": "dice"})
    changed = changed_config(config, {"outer_loop": "promp", "policy.hidden_sizes": [8]})
    assert (changed.adaptation.curvature, changed.policy.hidden_sizes) == ("ratio", (8,))


RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=40)


@pytest.mark.parametrize(
    ("pre", "post", "learns", "said"),
    [
        (NOISE, NOISE[::-1], False, "no rise beyond noise"),
        (NOISE, NOISE + 0.2 * np.arange(40), True, ""),
        (NOISE + 0.2 * np.arange(40), NOISE + 0.2 * np.arange(40), True, "adaptation gains nothing yet"),
        (NOISE, NOISE + np.concatenate([np.arange(20.0), np.arange(20.0, 0.0, -1.0)]), False, "learned and lost"),
        (NOISE, NOISE - 0.2 * np.arange(40), False, "learned and lost"),
        (np.zeros(15), np.zeros(15), False, "no rise beyond noise"),
        (-np.arange(40.0) + NOISE, NOISE, True, ""),  # θ gives up its own return for a gain by adaptation
    ],
)
def test_returns_tell_whether_a_run_learns(pre: np.ndarray, post: np.ndarray, learns: bool, said: str) -> None:
    found = judge(pre.tolist(), post.tolist())
    assert found.learns == learns and said in found.text
    assert bool(found.advice) == (not learns or "nothing" in said)


@pytest.mark.slow
def test_a_family_is_learned_from_the_defaults_in_seconds(tmp_path: Path) -> None:
    sizes = {"meta_batch_size": 8, "adaptation.trajectories_per_round": 10}
    recipe = settle_recipe(
        None,
        {"tasks": "tests.support.training.signs:OddUnits", "minutes": 0.2, "max_kl": 0.05, "threads": 1, **sizes},
    )
    assert recipe.config.max_kl == 0.05 and "max_kl" not in {each.setting for each in recipe.decisions}
    seen: list[Progress] = []
    # Iterations instead of minutes: the machine may be busy.
    config = changed_config(recipe.config, {"minutes": None, "iterations": 12})
    state = train_recipe(dataclasses.replace(recipe, config=config), tmp_path, on_iteration=seen.append)
    best = signs.HORIZON * signs.OddUnits.reward_scale
    gains = [(each.post_return - each.pre_return) / best for each in seen]
    assert np.mean(gains[-3:]) > 0.5
    kept = load_checkpoint(tmp_path)
    assert kept.decisions == state.decisions == recipe.decisions
    assert kept.environment_steps > seen[-1].environment_steps - seen[0].environment_steps > 0
    assert load_config(tmp_path / "config.toml", {}) == config


def test_what_is_tried_next_changes_only_what_the_recipe_decided() -> None:
    config = load_config(None, {"tasks": "a:B", "adaptation.target_return": 0.0, "adaptation.discount": 0.8})

    def tried(*decided: str) -> list[dict[str, object]]:
        decisions = tuple(Decision(setting=name, value=None, reason="") for name in decided)
        recipe = Recipe(config, decisions, MEASURED, Spent(0, 0, 0.0))
        return [changes for _, changes in attempts.alternatives(recipe)]

    assert tried() == [{"seed": 1}]
    # A reward above 0 that no measurement met would leave steps that follow the gap to 0 without a length.
    assert tried("adaptation.target_return") == [{"adaptation.target_return": None}, {"seed": 1}]
    for changes in tried("outer_loop", "adaptation.target_return", "adaptation.discount"):
        assert changed_config(config, changes) != config


@pytest.mark.slow
def test_a_run_that_does_not_learn_is_replaced_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_ATTEMPT_SHARE", 0.1)
    monkeypatch.setattr(attempts, "FEWEST_ITERATIONS", 12)
    given = {
        "tasks": "tests.support.training.signs:Noise",
        "meta_batch_size": 3,
        "adaptation.trajectories_per_round": 3,
        "environment_steps": 40 * 3 * 3 * 2 * signs.HORIZON,
        "seed": 4,
        "outer_epochs": 2,
        "policy.hidden_sizes": [8],
    }
    recipe = settle_recipe(None, given)
    said: list[str] = []
    budget = recipe.config.environment_steps
    assert budget is not None
    config = changed_config(recipe.config, {"environment_steps": budget + recipe.spent.environment_steps})
    state = train_recipe(dataclasses.replace(recipe, config=config), tmp_path, on_message=said.append)
    assert any(line.startswith("not learning: return after adaptation") for line in said)
    assert any(line.startswith("trying another outer loop (outer_loop = promp") for line in said)
    assert load_checkpoint(tmp_path).config == load_config(tmp_path / "config.toml", {})
    folders = [tmp_path, *(tmp_path / "attempts").iterdir()]
    assert {load_checkpoint(folder).config.outer_loop for folder in folders} == {"promp", "maml_trpo"}
    assert state.environment_steps >= budget
