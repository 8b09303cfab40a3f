"""The verdict on an adaptation step: what the episodes say about it, before and after it was taken."""

from thetaprime.models.verdict.decide import Ruling, decide, write_verdict
from thetaprime.models.verdict.evidence import Evidence, Move
from thetaprime.models.verdict.familiarity import Familiarity, check_calibration, task_p_value
from thetaprime.models.verdict.horizon import at_discount, with_horizon
from thetaprime.models.verdict.memory import RoundMemory
from thetaprime.models.verdict.options import StepOptions
from thetaprime.models.verdict.predicted import held_out_gains
from thetaprime.models.verdict.return_model import propose_context
from thetaprime.models.verdict.rounds import Review, Round, RoundsSpec, review
from thetaprime.models.verdict.session_step import SessionStep, next_step
from thetaprime.models.verdict.verdict import Caution, Decision, Estimate, Reason, ReasonCode, Verdict, WeightyStep

__all__ = [
    "Caution",
    "Decision",
    "Estimate",
    "Evidence",
    "Familiarity",
    "Move",
    "Reason",
    "ReasonCode",
    "Review",
    "Round",
    "RoundMemory",
    "RoundsSpec",
    "Ruling",
    "SessionStep",
    "StepOptions",
    "Verdict",
    "WeightyStep",
    "at_discount",
    "check_calibration",
    "decide",
    "held_out_gains",
    "next_step",
    "propose_context",
    "review",
    "task_p_value",
    "with_horizon",
    "write_verdict",
]
