"""From evidence to a decision: each rule, and what a person reads."""

import dataclasses
import itertools
import math

import pytest

from thetaprime.models.verdict import (
    Caution,
    Decision,
    Estimate,
    Evidence,
    Move,
    ReasonCode,
    decide,
    write_verdict,
)

HARM = Estimate(-9.0, -12.0, -6.0)
DOUBTFUL = Estimate(-1.0, -5.0, 3.0)
GOOD = Evidence(trajectories=20, mean_return=-50.0, predicted_gain=Estimate(30.0, 20.0, 40.0), task_p_value=0.6)


def _codes(evidence: Evidence, caution: Caution = Caution.HOLD) -> list[ReasonCode]:
    return [reason.code for reason in decide(evidence, caution).reasons]


@pytest.mark.parametrize(
    ("change", "decision", "length", "codes"),
    [
        ({}, Decision.TAKEN, 1.0, []),
        ({"signal": False}, Decision.HELD, 0.0, [ReasonCode.NO_SIGNAL]),
        ({"move": Move.STAY}, Decision.HELD, 0.0, [ReasonCode.NO_SIGNAL]),
        (
            {"move": Move.SHORTER, "realized_gain": DOUBTFUL},
            Decision.SHORTENED,
            1.0,
            [ReasonCode.TOO_FEW_EPISODES],
        ),
        ({"move": Move.BACK, "realized_gain": HARM}, Decision.ROLLED_BACK, 1.0, [ReasonCode.REALIZED_HARM]),
        ({"predicted_gain": HARM}, Decision.HELD, 0.0, [ReasonCode.PREDICTED_HARM]),
        ({"predicted_gain": DOUBTFUL}, Decision.TAKEN, 1.0, []),
        ({"task_p_value": 0.01}, Decision.TAKEN, 1.0, [ReasonCode.UNFAMILIAR_TASK]),
        ({"episodes_needed": 21}, Decision.TAKEN, 1.0, [ReasonCode.TOO_FEW_EPISODES]),
        ({"episodes_needed": 20}, Decision.TAKEN, 1.0, []),
        (
            {"episodes_needed": 90, "signal_p_value": 0.4},
            Decision.TAKEN,
            1.0,
            [ReasonCode.TOO_FEW_EPISODES],
        ),
        ({"episodes_needed": 3, "signal_p_value": 0.01}, Decision.TAKEN, 1.0, []),
        ({"disagreement": -0.4}, Decision.TAKEN, 1.0, [ReasonCode.CONTRADICTORY_EPISODES]),
        ({"scale": 10.0}, Decision.TAKEN, 1.0, [ReasonCode.REWARD_UNITS]),
        ({"scale": 10.0, "scale_known": True}, Decision.TAKEN, 1.0, []),
        ({"level_known": False}, Decision.TAKEN, 1.0, [ReasonCode.REWARD_UNITS]),
        (
            {"move": Move.BACK, "contradicted": HARM, "realized_gain": HARM},
            Decision.ROLLED_BACK,
            1.0,
            [ReasonCode.CONTRADICTORY_EPISODES, ReasonCode.REALIZED_HARM],
        ),
    ],
)
def test_a_number_becomes_a_decision_with_its_reason(
    change: dict[str, object], decision: Decision, length: float, codes: list[ReasonCode]
) -> None:
    ruling = decide(dataclasses.replace(GOOD, **change), Caution.HOLD)  # type: ignore[arg-type]
    assert (ruling.decision, ruling.length) == (decision, length)
    assert [reason.code for reason in ruling.reasons] == codes
    for reason in ruling.reasons:
        assert math.isfinite(reason.value)
        assert math.isfinite(reason.limit)
        assert reason.text.endswith(".")


@pytest.mark.parametrize("caution", [Caution.OFF, Caution.WARN])
def test_less_caution_takes_every_step_that_has_a_direction_and_gives_the_same_reasons(caution: Caution) -> None:
    changes = [{"move": Move.BACK, "realized_gain": HARM}, {"move": Move.STAY}, {"predicted_gain": HARM}]
    for change in changes:
        evidence = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
        ruling = decide(evidence, caution)
        assert (ruling.decision, ruling.length) == (Decision.TAKEN, 1.0)
        assert _codes(evidence, caution) == _codes(evidence)
        assert ("With caution hold" in ruling.reasons[0].text) is (caution is Caution.WARN)
    assert decide(dataclasses.replace(GOOD, signal=False), caution).decision is Decision.HELD


def test_an_unfamiliar_task_names_what_is_unusual() -> None:
    evidence = dataclasses.replace(GOOD, task_p_value=0.004, unusual="the returns are low")
    (reason,) = decide(evidence, Caution.HOLD).reasons
    assert reason.text.startswith("The task is unlike those of meta-training (p = 0.004): the returns are low. Expect")


def test_a_step_that_was_not_simply_taken_always_has_a_reason() -> None:
    for move, signal, predicted in itertools.product(Move, (True, False), (None, HARM, DOUBTFUL)):
        evidence = Evidence(move=move, signal=signal, predicted_gain=predicted, realized_gain=HARM)
        ruling = decide(evidence, Caution.HOLD)
        assert ruling.reasons or ruling.decision is Decision.TAKEN


def test_a_verdict_keeps_the_numbers_and_says_where_a_limit_shortened_the_step() -> None:
    evidence = dataclasses.replace(GOOD, best_round=3, kl_divergence=2.5, max_kl=0.1, episodes_needed=7)
    plain = write_verdict(evidence, decide(evidence, Caution.HOLD))
    assert (plain.decision, plain.reasons, plain.best_round) == (Decision.TAKEN, (), 3)
    assert (plain.task_p_value, plain.predicted_gain, plain.episodes_needed) == (0.6, GOOD.predicted_gain, 7)
    limited = write_verdict(evidence, decide(evidence, Caution.HOLD), shortened=True)
    assert limited.decision is Decision.SHORTENED
    assert (limited.reasons[-1].code, limited.reasons[-1].value, limited.reasons[-1].limit) == (
        ReasonCode.KL_LIMIT,
        2.5,
        0.1,
    )
    back = dataclasses.replace(evidence, move=Move.BACK, realized_gain=HARM)
    assert write_verdict(back, decide(back, Caution.HOLD), shortened=True).decision is Decision.ROLLED_BACK
