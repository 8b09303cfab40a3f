"""The stages of a build, and their shares of its time."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

CONTRACT: Final = "contract test"
META_TRAINING: Final = "meta-training"
PRETRAINED: Final = "pretrained policy"
ORACLE: Final = "oracle"
ARTIFACT: Final = "evaluation and export"

METHODS: Final = {META_TRAINING: "maml", PRETRAINED: "pretrained", ORACLE: "oracle"}
"""The stages that train, with the method of each."""

SHARES: Final = {CONTRACT: 0, META_TRAINING: 7, PRETRAINED: 5, ORACLE: 5, ARTIFACT: 3}
"""The parts of the time that the stages share. A comparison has no inner loop: it samples as many environment steps as
meta-training in less time. Without comparisons, meta-training gets their parts."""


class EvaluationSize(NamedTuple):
    """Numbers of tasks.

    Attributes:
        tasks: to evaluate on.
        calibration: to calibrate verdicts with.
        tuning: to choose each comparison's fine-tuning settings on.
    """

    tasks: int
    calibration: int
    tuning: int


_EVALUATIONS: Final = tuple(
    EvaluationSize(*sizes)
    for sizes in (
        (40, 216, 6),
        (40, 100, 6),
        (20, 100, 4),
        (20, 50, 2),
        (10, 20, 1),
        (5, 20, 1),
        (5, 20, 0),
        (2, 20, 0),
    )
)
"""The first is that of `ExportRequest`. With all settings tried on six tasks, the choice samples twice as many episodes
as the evaluation of 20 tasks."""


def stages(comparisons: bool) -> tuple[str, ...]:
    """The stages in their order.

    Args:
        comparisons: whether a pretrained policy and an oracle are trained.
    """
    return tuple(stage for stage in SHARES if comparisons or stage not in (PRETRAINED, ORACLE))


def allotted_seconds(stage: str, planned: Sequence[str], seconds: float, taken: Mapping[str, float]) -> float:
    """The time of a stage: its share of what the stages before it left, so that unused time goes to later stages.

    Args:
        stage: one of `planned`.
        planned: all stages, in their order.
        seconds: of the whole build.
        taken: seconds that finished stages took.
    """
    parts = {each: SHARES[each] for each in planned}
    parts[META_TRAINING] += sum(SHARES.values()) - sum(parts.values())
    before, later = planned[: planned.index(stage)], planned[planned.index(stage) :]
    left = seconds - sum(taken.get(each, 0.0) for each in before)
    return max(0.0, left) * parts[stage] / sum(parts[each] for each in later)


def evaluation_sizes(seconds: float, seconds_by_size: Mapping[EvaluationSize, float]) -> EvaluationSize:
    """The largest evaluation that fits into the time, or the smallest one.

    Args:
        seconds: for evaluation and export.
        seconds_by_size: estimated seconds of each of `evaluations`.
    """
    fitting = (size for size in _EVALUATIONS if seconds_by_size[size] <= seconds)
    return next(fitting, _EVALUATIONS[-1])


def evaluations() -> tuple[EvaluationSize, ...]:
    """The sizes of an evaluation that a build chooses from, the largest first."""
    return _EVALUATIONS
