"""Verdicts as messages, and as fields of the audit log."""

from collections.abc import Sequence

import numpy as np

from thetaprime.models.verdict import Estimate, Verdict, WeightyStep
from thetaprime.v1 import adaptation_service_pb2 as service_pb


def verdict_message(verdict: Verdict, payloads: Sequence[str], counts: Sequence[int]) -> service_pb.Verdict:
    """Returns a verdict as a message.

    Args:
        verdict: the verdict.
        payloads: digest of each upload of the round, in the order of the trajectories.
        counts: number of trajectories of each upload.
    """
    return service_pb.Verdict(
        decision=f"DECISION_{verdict.decision.value}",
        reasons=[
            service_pb.Reason(code=f"REASON_CODE_{each.code.value}", value=each.value, limit=each.limit, text=each.text)
            for each in verdict.reasons
        ],
        task_p_value=verdict.task_p_value,
        predicted_gain=_estimate(verdict.predicted_gain),
        effective_sample_size=verdict.effective_sample_size,
        episodes_needed=verdict.episodes_needed,
        realized_gain=_estimate(verdict.realized_gain),
        best_round=verdict.best_round,
        weighty_steps=[_weighty_step(each, payloads, counts) for each in verdict.weighty_steps],
    )


def audited_verdict(verdict: service_pb.Verdict) -> dict[str, object]:
    """Returns the fields of the audit log: the decision, and the codes of its reasons."""
    return {
        "decision": service_pb.Decision.Name(verdict.decision).removeprefix("DECISION_"),
        "reasons": [service_pb.ReasonCode.Name(each.code).removeprefix("REASON_CODE_") for each in verdict.reasons],
    }


def _estimate(estimate: Estimate | None) -> service_pb.Estimate | None:
    if estimate is None:
        return None
    return service_pb.Estimate(value=estimate.value, low=estimate.low, high=estimate.high)


def _weighty_step(step: WeightyStep, payloads: Sequence[str], counts: Sequence[int]) -> service_pb.WeightyStep:
    ends = np.cumsum(counts)
    upload = int(np.searchsorted(ends, step.trajectory, side="right"))
    first = int(ends[upload]) - counts[upload]
    return service_pb.WeightyStep(
        sha256=payloads[upload], trajectory=step.trajectory - first, step=step.step, share=step.share
    )
