"""From evidence to a decision with its reasons. The one place where a number becomes an act, and a sentence."""

import dataclasses
from collections.abc import Iterator
from typing import Final

from thetaprime.models.verdict.evidence import Evidence, Move
from thetaprime.models.verdict.verdict import Caution, Decision, Estimate, Reason, ReasonCode, Verdict

UNFAMILIAR: Final = 0.05
"""Conformal p-value below which a task counts as unfamiliar."""
NOISE: Final = 0.05
"""P-value of a gradient of 0 above which a direction counts as noise."""

_WOULD: Final = {
    Decision.SHORTENED: "the step would be shorter",
    Decision.HELD: "the policy would stay as it is",
    Decision.ROLLED_BACK: "the next policy would start from the best one",
}


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What becomes of a proposed step.

    Attributes:
        decision: under the session's caution.
        length: factor on the proposed step: 1, or 0 for no step.
        reasons: the weightiest first.
    """

    decision: Decision
    length: float
    reasons: tuple[Reason, ...]


def decide(evidence: Evidence, caution: Caution) -> Ruling:
    """Decides about a proposed step.

    `OFF` and `WARN` take every step that has a direction. The reasons are the same in all cases; under `WARN` the first
    one also says what `HOLD` would have done.
    """
    reasons = tuple(_reasons(evidence))
    decision, length = _advice(evidence)
    if caution is Caution.HOLD:
        return Ruling(decision, length, reasons)
    if not evidence.signal:
        return Ruling(Decision.HELD, 0.0, reasons)
    if caution is Caution.WARN and decision is not Decision.TAKEN and reasons:
        first = dataclasses.replace(reasons[0], text=f"{reasons[0].text} With caution hold, {_WOULD[decision]}.")
        reasons = (first, *reasons[1:])
    return Ruling(Decision.TAKEN, 1.0, reasons)


def write_verdict(evidence: Evidence, ruling: Ruling, *, shortened: bool = False) -> Verdict:
    """Puts a verdict together.

    Args:
        evidence: the numbers.
        ruling: the decision on them.
        shortened: whether the limit on the KL divergence made the step shorter than the ruling did.
    """
    decision = ruling.decision
    return Verdict(
        decision=Decision.SHORTENED if shortened and decision is Decision.TAKEN else decision,
        reasons=(*ruling.reasons, *((_kl_limit(evidence),) if shortened else ())),
        best_round=evidence.best_round,
        task_p_value=evidence.task_p_value,
        predicted_gain=evidence.predicted_gain,
        effective_sample_size=evidence.effective_sample_size,
        episodes_needed=evidence.episodes_needed,
        realized_gain=evidence.realized_gain,
        influences=evidence.influences,
        weighty_steps=evidence.weighty_steps,
    )


def _advice(evidence: Evidence) -> tuple[Decision, float]:
    """What `HOLD` does, and the factor on the step."""
    if evidence.move is Move.BACK:
        return Decision.ROLLED_BACK, 1.0
    if not evidence.signal or evidence.move is Move.STAY:
        return Decision.HELD, 0.0
    predicted = evidence.predicted_gain
    if predicted is not None and predicted.high < 0.0:
        return Decision.HELD, 0.0
    return Decision.SHORTENED if evidence.move is Move.SHORTER else Decision.TAKEN, 1.0


def _reasons(evidence: Evidence) -> Iterator[Reason]:
    """The reasons and warnings, the weightiest first."""
    if not evidence.signal:
        yield Reason(
            ReasonCode.NO_SIGNAL,
            0.0,
            0.0,
            "The rewards do not depend on the actions, as far as these episodes show, so there is no direction to step "
            "in. Check that the environment pays a reward that varies within an episode, or collect more episodes.",
        )
    if evidence.contradicted is not None:
        yield _contradicted(evidence.contradicted)
    realized = evidence.realized_gain
    if evidence.move is Move.BACK and realized is not None and realized.high < 0.0:
        yield Reason(
            ReasonCode.REALIZED_HARM,
            realized.value,
            0.0,
            f"The step before lowered the return by {-realized.value:.4g} ({_interval(realized)}). The next policy "
            f"starts from that of round {evidence.best_round}, the best so far.",
        )
    predicted = evidence.predicted_gain
    if predicted is not None and predicted.high < 0.0 and evidence.move in (Move.FORWARD, Move.SHORTER):
        yield Reason(
            ReasonCode.PREDICTED_HARM,
            predicted.value,
            0.0,
            f"The step is expected to change the return by {predicted.value:.4g} ({_interval(predicted)}). Collect "
            "more episodes before the next step.",
        )
    if evidence.move is Move.SHORTER and realized is not None:
        yield Reason(
            ReasonCode.TOO_FEW_EPISODES,
            realized.value,
            0.0,
            f"The step before changed the return by {realized.value:.4g} ({_interval(realized)}): these episodes do "
            "not tell whether it helped. The next step is shorter; more episodes a round would tell.",
        )
    if evidence.signal and (evidence.exhausted or evidence.move is Move.STAY):
        yield _nothing_left(evidence)
    if evidence.task_p_value is not None and evidence.task_p_value < UNFAMILIAR:
        yield Reason(
            ReasonCode.UNFAMILIAR_TASK,
            evidence.task_p_value,
            UNFAMILIAR,
            f"The task is unlike those of meta-training (p = {evidence.task_p_value:.3g})"
            f"{evidence.unusual and f': {evidence.unusual}'}. Expect several rounds, and judge each policy by its "
            "measured return.",
        )
    if evidence.disagreement is not None:
        yield Reason(
            ReasonCode.CONTRADICTORY_EPISODES,
            evidence.disagreement,
            0.0,
            "The episodes seem to come from two tasks, which ask for different steps. Check that all episodes of a "
            "session come from one task.",
        )
    if evidence.signal:
        yield from _units(evidence)
    if evidence.signal and not evidence.exhausted and evidence.move is not Move.STAY:
        yield from _noise(evidence)


def _noise(evidence: Evidence) -> Iterator[Reason]:
    p_value, needed = evidence.signal_p_value, evidence.episodes_needed
    if p_value is not None and p_value > NOISE:
        yield Reason(
            ReasonCode.TOO_FEW_EPISODES,
            p_value,
            NOISE,
            f"The direction cannot be told from noise (p = {p_value:.3g}). Collect more episodes in each round.",
        )
    elif needed is not None and needed > evidence.trajectories:
        yield Reason(
            ReasonCode.TOO_FEW_EPISODES,
            float(evidence.trajectories),
            float(needed),
            f"{evidence.trajectories} episodes give a direction that is mostly noise. Collect about {needed} a round.",
        )


def _units(evidence: Evidence) -> Iterator[Reason]:
    if not evidence.scale_known and evidence.scale != 1.0:
        yield Reason(
            ReasonCode.REWARD_UNITS,
            evidence.scale,
            1.0,
            f"The rewards are about {evidence.scale:.3g} times as large as in meta-training. The step allows for that; "
            "the session option reward_scale makes it exact.",
        )
    elif not evidence.level_known:
        yield Reason(
            ReasonCode.REWARD_UNITS,
            evidence.mean_return,
            0.0,
            f"The mean return {evidence.mean_return:.4g} is not that of a training task whose rewards have this shape, "
            "and tells no distance: the step is as long as the shape allows. If the reward has an offset, set the "
            "session option reward_offset.",
        )


def _nothing_left(evidence: Evidence) -> Reason:
    if evidence.remaining is not None:
        text = (
            "The best policy is as good as policies after adaptation in meta-training, so there is nothing to gain "
            "that is worth the risk of a step."
        )
        return Reason(ReasonCode.NO_SIGNAL, evidence.remaining, 0.0, text)
    return Reason(
        ReasonCode.NO_SIGNAL,
        0.0,
        0.0,
        f"The last rounds gained nothing beyond noise. The policy of round {evidence.best_round} is the best that was "
        "found; more episodes a round may show what these do not.",
    )


def _contradicted(change: Estimate) -> Reason:
    return Reason(
        ReasonCode.CONTRADICTORY_EPISODES,
        change.value,
        0.0,
        f"The same policy now returns {change.value:+.4g} ({_interval(change)}) compared with its earlier episodes: "
        "the task has changed. The session starts again from its first policy. Use one session for each task.",
    )


def _kl_limit(evidence: Evidence) -> Reason:
    limit = evidence.max_kl or 0.0
    return Reason(
        ReasonCode.KL_LIMIT,
        evidence.kl_divergence,
        limit,
        f"The step would have moved the policy by {evidence.kl_divergence:.4g} nats; the session allows {limit:.4g}.",
    )


def _interval(estimate: Estimate) -> str:
    return f"90 % interval {estimate.low:.4g} to {estimate.high:.4g}"
