"""The verdict on an adaptation step: what the episodes say about it, before and after it was taken."""

from thetaprime.models.verdict.decide import Ruling, decide, write_verdict
from thetaprime.models.verdict.evidence import Evidence, Move
from thetaprime.models.verdict.verdict import Caution, Decision, Estimate, Reason, ReasonCode, Verdict, WeightyStep

__all__ = [
    "Caution",
    "Decision",
    "Estimate",
    "Evidence",
    "Move",
    "Reason",
    "ReasonCode",
    "Ruling",
    "Verdict",
    "WeightyStep",
    "decide",
    "write_verdict",
]
