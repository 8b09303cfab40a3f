"""The trials behind docs/trust-in-adaptation.md: what they do to rewards and bodies, and what they conclude."""

import itertools
from typing import Any

import numpy as np
import pytest

from benchmarks.verdicts.cases import CASES
from benchmarks.verdicts.environments import make_environment
from benchmarks.verdicts.in_process import InProcess
from benchmarks.verdicts.measures import MEASURES, below, measure
from benchmarks.verdicts.page import SECTIONS, measured_part, merged, table
from benchmarks.verdicts.rewards import judged, transform
from benchmarks.verdicts.trials import Server, Trial
from thetaprime import wire
from thetaprime.cli._server_process import server_process


def _episode(rewards: list[float]) -> wire.Trajectory:
    steps = len(rewards)
    return wire.Trajectory(
        observations=np.zeros((steps, 2), np.float32),
        actions=np.zeros((steps, 2), np.float32),
        rewards=np.array(rewards, np.float32),
        terminated=False,
        truncated=True,
        final_observation=np.zeros(2, np.float32),
        policy_id="",
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", [[1, 2, 3], [4, 5, 6]]),
        ("scale 10 offset 1", [[11, 21, 31], [41, 51, 61]]),
        ("constant -3", [[-3, -3, -3], [-3, -3, -3]]),
        ("sign", [[-1, -2, -3], [-4, -5, -6]]),
        ("flip 2", [[1, 2, 3], [4, 5, 6]]),
        ("flip 1", [[-1, -2, -3], [-4, -5, -6]]),
        ("late", [[0, 0, 6], [0, 0, 15]]),
        ("delay 1", [[0, 1, 5], [0, 4, 11]]),
        ("square", [[-1, -4, -9], [-16, -25, -36]]),
        ("clip 4", [[1, 2, 3], [4, 4, 4]]),
        ("spoil 1", [[1, 2, 3], [-4, -5, -6]]),
    ],
)
def test_a_change_of_the_rewards(change: str, expected: list[list[float]]) -> None:
    episodes = [_episode([1, 2, 3]), _episode([4, 5, 6])]
    changed = transform(episodes, change, 1, np.random.default_rng(0))
    assert [each.rewards.tolist() for each in changed] == expected
    assert episodes[0].rewards.tolist() == [1, 2, 3]


def test_noise_has_its_deviation_and_an_unknown_change_is_refused() -> None:
    noisy = transform([_episode([0.0] * 4000)], "noise 2", 0, np.random.default_rng(0))[0]
    assert abs(noisy.rewards.std() - 2.0) < 0.1
    with pytest.raises(ValueError, match="nois"):
        transform([_episode([0.0])], "nois 2", 0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [("", 6), ("scale 10", 6), ("noise 5 late", 6), ("constant 3", 9), ("offset 1", 9), ("flip 2", -6), ("flip 9", 6)],
)
def test_a_session_is_judged_by_what_its_user_pays_in_the_units_of_the_environment(change: str, expected: int) -> None:
    assert judged([_episode([1, 2, 3])], change, 5) == [expected]


def _moved(body: tuple[tuple[str, float], ...]) -> np.ndarray[Any, Any]:
    env = make_environment("half-cheetah-velocity", [1.0], body)
    env.reset(seed=3)
    for _ in range(19):
        env.step(np.ones((1, 6), np.float32))
    return np.asarray(env.step(np.ones((1, 6), np.float32))[0])


def test_each_alteration_of_the_body_changes_its_motion_and_no_other_environment() -> None:
    plain = _moved(())
    for body in ((("mass", 1.5),), (("friction", 0.4),), (("dead", 1),)):
        assert np.abs(_moved(body) - plain).max() > 1e-3
        assert np.array_equal(_moved(()), plain)
    with pytest.raises(ValueError, match="expected mass, friction or dead"):
        _moved((("weight", 2.0),))


def test_every_case_has_trials_a_measure_and_a_section_and_no_trial_twice() -> None:
    assert CASES.keys() == MEASURES.keys() == SECTIONS.keys()
    trials = [trial for case in CASES.values() for trial in itertools.islice(case(), 60)]
    assert len({trial.key for trial in trials}) == len(trials)
    assert {trial.case for trial in trials} == CASES.keys()


_NUMBERS = itertools.count()


def _record(case: str, name: str, returns: list[float], fresh: dict[str, list[float]], **more: Any) -> dict[str, Any]:
    trial = {"case": case, "name": name, "meta_policy": "point-navigation", "goal": [0.1, 0.2], "seed": 1}
    trial |= {"caution": "hold", "change": "", "episodes": 20} | more.pop("trial", {})
    rounds = [{"return": [value, value + 0.01]} | more for value in returns]
    return {
        "key": str(next(_NUMBERS)),
        "trial": trial,
        "rounds": rounds,
        "fresh": fresh,
        "best_round": 0,
        "kept": 0,
        "failure": "",
    }


def test_a_session_that_keeps_a_policy_below_theta_counts_as_harm() -> None:
    verdict = {"decision": "DECISION_TAKEN"}
    harmed = _record("harm", "noise", [-1.0], {"0": [-1.0, 0.1, 40], "1": [-9.0, 0.1, 40]}, verdict=verdict)
    harmed["kept"] = 1
    kept = _record("harm", "noise", [-1.0], {"0": [-1.0, 0.1, 40], "1": [-9.0, 0.1, 40]}, verdict=verdict)
    (row, _) = measure([harmed, kept])["harm"]
    assert (row["kept policy below θ"], row["last policy below θ"], row["sessions"]) == (0.5, 1.0, 2)
    assert below((-2.0, 0.1), (-1.0, 0.1))
    assert not below((-1.2, 0.1), (-1.0, 0.1))


def test_scores_of_p_values_intervals_and_influences() -> None:
    inside = [_record("familiar", "in range", [0.0], {}, verdict={"task_p_value": p}) for p in (0.04, 0.5, 0.9, 1.0)]
    outside = [_record("familiar", "sign", [0.0], {}, verdict={"task_p_value": p}) for p in (0.01, 0.5)]
    (row,) = measure([*inside, *outside])["familiar"]
    assert row["AUROC"] == pytest.approx((4 + 2.5) / 8)
    assert row["false alarms at .05"] == 0.25
    fresh = {"0": [-10.0, 0.1, 200], "1": [-4.0, 0.1, 200]}
    predicted = {"predicted_gain": {"value": 5.0, "low": 3.0, "high": 7.0}}
    (row,) = measure([_record("gain", "in range", [-10.0], fresh, verdict=predicted)])["gain"]
    assert row["median width / gain"] == pytest.approx(4 / 6)
    assert (row["right sign"], row["truth inside"]) == (1.0, 1.0)
    bad = _record("planted", "another task", [0.0], {}, influences=[0.1, 0.2, 0.3, 0.15])
    # Influences that are all 0 tell nothing: a miss.
    still = _record("planted", "another task", [0.0], {}, influences=[0.0] * 4)
    found = _record("planted", "another task", [0.0], {}, influences=[0.1, 0.3, 0.0, 0.2])
    (row,) = measure([bad, still, found])["planted"]
    assert row["first or second"] == pytest.approx(1 / 3)
    assert (row["first"], row["sessions"]) == (0.0, 3)


def test_a_table_leaves_out_empty_columns() -> None:
    rows: list[dict[str, Any]] = [{"a": "x_y", "b": None, "c": 1234.5}, {"a": "z", "b": "", "c": 0.12345}]
    assert table(rows) == "| a | c |\n|---|---|\n| x\\_y | 1234 |\n| z | 0.123 |\n"


def test_a_table_names_its_date_and_sessions_and_keeps_what_others_measured() -> None:
    found = {"date": "2026-01-02", "commit": "abc1234", "machine": "one", "rows": [{"sessions with": "noise"}]}
    sessions = {"server": 12, "process": 3456}
    text = measured_part({"cases": {"harm": {**found, "sessions": sessions}, "scale": {**found, "sessions": {}}}})
    assert (
        "Measured on 2026-01-02 at commit abc1234: 12 sessions through a server and 3,456 sessions in process." in text
    )
    assert "Measured on 2026-01-02 at commit abc1234.\n" in text


def test_a_partly_measured_table_keeps_its_other_rows_and_what_others_measured() -> None:
    far = {"task": "far", "R_0": 1.0, "best at 10": 4.0, "PPO: R_10": 2.0}
    before = {"commit": "old", "rows": [far, {**far, "task": "near"}]}
    assert merged([{"task": "far", "R_0": 3.0, "best at 10": 5.0}], before, "new") == [
        {"task": "far", "R_0": 3.0, "best at 10": 5.0, "PPO: R_10": 2.0, "commit": "new"},
        {**far, "task": "near", "commit": "old"},
    ]
    # Again: a row that is still older keeps its commit.
    again = {"commit": "new", "rows": merged([far], before, "new")}
    assert [row["commit"] for row in merged([], again, "newer")] == ["new", "old"]
    assert merged([{"sessions with": "noise"}], {"commit": "old", "rows": [{"sessions with": "x"}]}, "new") == [
        {"sessions with": "noise"}
    ]


def test_a_bad_episode_among_those_of_half_cheetah_direction_is_the_most_influential() -> None:
    planted = Trial("planted", "opposite reward", "half-cheetah-direction", 1.0, 7, 1, change="spoil 4", fresh=0)
    record = InProcess().run(planted)
    (row,) = measure([record])["planted"]
    assert row["first"] == 1.0
    assert (record["through"], len(record["rounds"][0]["influences"])) == ("process", 20)


@pytest.mark.slow
def test_a_trial_runs_through_a_server_and_repeats_itself() -> None:
    trial = Trial("scale", "10", "point-navigation", (0.3, -0.2), 5, 2, change="scale 10", fresh_from="theta")
    with server_process() as process:
        server = Server(process.address())
        try:
            first, again = server.run(trial), server.run(trial)
        finally:
            server.close()
    assert first["fresh"] == again["fresh"]
    assert first["fresh"].keys() == {"0", "2"}
    # In the environment's units, though the uploads were ten times as large.
    assert all(-60.0 < value < 0.0 for each in first["rounds"] for value in each["return"])
    assert first["fresh"]["2"][0] > first["fresh"]["0"][0]


@pytest.mark.parametrize(
    ("case", "meta_policy", "expected"),
    [
        ("gain", "ant-direction", {"in range", "other body", "noise"}),
        ("gain", "half-cheetah-direction", {"in range", "other body", "noise"}),
        ("harm", "ant-velocity", {"noise", "constant", "unfamiliar body", "flipped in the middle"}),
    ],
)
def test_a_meta_policy_with_fewer_tasks_gets_every_kind_of_trial(
    case: str, meta_policy: str, expected: set[str]
) -> None:
    first = itertools.islice(CASES[case](), 200)
    assert expected <= {trial.name for trial in first if trial.meta_policy == meta_policy}
