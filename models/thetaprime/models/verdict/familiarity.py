"""Is a task like those of meta-training? A conformal test on the first episodes of a session.

`batch_features` sums a batch up in about twenty numbers. In each of several groups of them, the distance to the nearest
held-out tasks of meta-training says how unusual the batch is. A tail index brings the groups to one scale: log
distances beyond their 90 % quantile are about exponential (Hill 1975). The largest of a batch's groups is its
nonconformity score. The score's rank among those of the held-out tasks is the p-value (Vovk, Gammerman & Shafer 2005):
a new task of meta-training has a p-value of at most α with probability at most α, for any choice of features.

What holds: held-out tasks were measured with several numbers of trajectories. A batch is compared at the largest of
these numbers that it reaches, with its first trajectories, so the p-value holds for those numbers. The gradient of a
batch between them is less noisy than that of the calibration, which errs to the safe side. Episodes of an adapted
policy are compared with those of θ_1 after the shipped inner step on N trajectories. That holds for the second round of
a session without options, and is an approximation after other steps.
"""

import dataclasses
import weakref

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.artifact import REFERENCE_NAME, MetaPolicy
from thetaprime.models.errors import ArtifactError
from thetaprime.models.inner_loop import moving_parameters
from thetaprime.models.parameters import Parameters
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.calibration import (
    ADAPTED,
    PREFIX,
    THETA,
    StageCalibration,
    load_calibration,
)
from thetaprime.models.verdict.neighbors import GROUPS, Neighbors, nonconformity
from thetaprime.models.verdict.task_features import batch_features, describe_features


@dataclasses.dataclass(frozen=True)
class Familiarity:
    """How a batch compares with those of held-out meta-training tasks.

    Attributes:
        p_value: of the hypothesis that the task is one of meta-training's, from the first round and this one.
        alone: the same from this batch alone.
        feature: name of the most unusual feature.
        text: the most unusual feature, in words; a clause without a period.
    """

    p_value: float
    alone: float
    feature: str
    text: str


def task_p_value(
    meta_policy: MetaPolicy,
    batch: TrajectoryBatch,
    gradient: Parameters,
    *,
    adapted: bool,
    first: float | None = None,
) -> Familiarity | None:
    """Tests the hypothesis that a task is one of meta-training's.

    Args:
        meta_policy: the meta-policy of the session.
        batch: the trajectories of a round.
        gradient: ∇L(θ_k) of the inner loss on the batch, as in `InnerStep`.
        adapted: whether an adapted policy collected the batch, and not θ.
        first: `Familiarity.p_value` of the first round, for later rounds. The result then combines the two: it is the
            rank of the smaller p-value among those of the held-out tasks in two rounds.

    Returns:
        The p-value and the most unusual feature; None if the artifact holds no calibration.

    Raises:
        ArtifactError: the artifact's calibration is damaged.
    """
    calibration = load_calibration(meta_policy)
    if calibration is None:
        return None
    stage = calibration.adapted if adapted else calibration.theta
    level = stage_level(stage, batch)
    used = batch.first(int(stage.tasks.trajectories[level]))
    found = batch_features(meta_policy.policy, stage.lens, used, gradient)
    held_out = _neighbors(stage, gradient)
    score = nonconformity(held_out.distances(found[None])[0], stage.tasks.levels[level])
    scores = stage.tasks.scores[level]
    alone = (1 + int((scores >= float(score.max().float())).sum())) / (len(scores) + 1)
    index, above = held_out.most_unusual(found, int(score.argmax()))
    p_value = alone
    if first is not None:
        pairs = calibration.pairs
        p_value = (1 + int((pairs <= min(first, alone) * (1.0 + 1e-6)).sum())) / (len(pairs) + 1)
    feature = held_out.described[index]
    return Familiarity(p_value, alone, feature.name, feature.high if above else feature.low)


def conformal_p_values(
    stage: StageCalibration, features: npt.NDArray[np.float64], gradient: Parameters, level: int
) -> npt.NDArray[np.float64]:
    """The conformal p-values of several batches, each from its own episodes alone.

    Args:
        stage: the calibration of the kind of policy that collected them.
        features: [P, F], from `batch_features`.
        gradient: any gradient of the meta-policy's inner loss.
        level: from `stage_level`.

    Returns:
        [P].
    """
    distances = _neighbors(stage, gradient).distances(torch.from_numpy(features))
    found = nonconformity(distances, stage.tasks.levels[level]).amax(1).float()
    scores = stage.tasks.scores[level]
    return (1 + (scores >= found[:, None]).sum(1)).numpy() / (len(scores) + 1)


def stage_level(stage: StageCalibration, batch: TrajectoryBatch) -> int:
    """Index of the largest calibrated number of trajectories that a batch reaches; 0 if it reaches none."""
    return max(int((stage.tasks.trajectories <= len(batch.lengths)).sum()) - 1, 0)


def check_calibration(meta_policy: MetaPolicy) -> None:
    """Checks the calibration in an artifact, so that no session meets a damaged one.

    Raises:
        ArtifactError: a tensor is missing, is not finite, or does not fit the network or the features of a batch.
    """
    calibration = load_calibration(meta_policy)
    if calibration is None:
        return
    parameters = meta_policy.parameters
    moving = moving_parameters(parameters, meta_policy.manifest.adaptation, meta_policy.step_sizes)
    gradient = {name: parameters[name] for name in moving}
    for stage, part in ((THETA, calibration.theta), (ADAPTED, calibration.adapted)):
        expected = {
            "features": (1, len(describe_features(gradient, part.lens))),
            "levels": (1, len(GROUPS)),
        }
        for name, (axis, size) in expected.items():
            shape = list(getattr(part.tasks, name).shape)
            if shape[axis] != size:
                found = f"{PREFIX}{stage}.{name} is {shape}; expected {size} along axis {axis}"
                raise ArtifactError(REFERENCE_NAME, f"{found}; calibrate the artifact again")


def _neighbors(stage: StageCalibration, gradient: Parameters) -> Neighbors:
    """The held-out tasks of a calibration, prepared once."""
    if stage not in _PREPARED:
        _PREPARED[stage] = Neighbors(stage.tasks.features, describe_features(gradient, stage.lens))
    return _PREPARED[stage]


_PREPARED: "weakref.WeakKeyDictionary[StageCalibration, Neighbors]" = weakref.WeakKeyDictionary()
