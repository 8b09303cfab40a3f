"""The settings by which a comparison is fine-tuned: chosen once, at export, and read from the artifact afterwards."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import pydantic

from thetaprime.models import AdaptationSpec, ArtifactError, MetaPolicy, Parameters, Policy
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME
from thetaprime.training.evaluation.curves import FINE_TUNING, OnTrajectories, adaptation_curve, stream
from thetaprime.training.resources import MapTasks, in_turn
from thetaprime.training.tasks.protocol import TaskDistribution

FINE_TUNING_RATES: Final = (0.03, 0.1, 0.3, 1.0)
"""Step sizes to choose from for the comparisons. The paper uses 0.1, and 0.5 in navigation."""
_FINE_TUNING_STEPS: Final = 3
FINE_TUNING_TASKS: Final = 6
"""Tasks on which each comparison's settings are chosen."""

FineTuning = Mapping[str, AdaptationSpec]
"""The settings of each fine-tuned comparison, by method."""
_Settings: Final = pydantic.TypeAdapter(dict[str, AdaptationSpec])


def fine_tuning_candidates(adaptation: AdaptationSpec) -> list[AdaptationSpec]:
    """The fine-tuning settings to choose from: the meta-policy's, and the paper's with several step sizes.

    The paper's settings move all parameters, halve the step size after the first step, and discount as the meta-policy
    does or by 0.99. Each setting comes with the noise of the meta-policy's θ′ and with that of θ.
    """
    plain = {"inner_lr_schedule": (1.0, 0.5), "target_return": None, "normalize_gradient": False}
    ways = [
        adaptation,
        *(
            adaptation.model_copy(update={**plain, "inner_lr": rate, "context_lr": rate, "discount": discount})
            for discount in sorted({adaptation.discount, 0.99})
            for rate in FINE_TUNING_RATES
        ),
    ]
    noises = sorted({adaptation.adapted_std_factor, 1.0})
    return [way.model_copy(update={"adapted_std_factor": noise}) for noise in noises for way in ways]


def tune_comparison(
    distribution: TaskDistribution,
    policy: Policy,
    parameters: Parameters,
    adaptation: AdaptationSpec,
    *,
    count: int = FINE_TUNING_TASKS,
    trajectories: int,
    seed: int,
    on_trajectories: OnTrajectories = lambda count: None,
    each_task: MapTasks = in_turn,
) -> AdaptationSpec:
    """The fine-tuning candidate with the highest return after a few steps, on `count` separate tasks.

    With no tasks, it is the first candidate: the meta-policy's own settings.
    """
    if not count:
        return fine_tuning_candidates(adaptation)[0]
    tasks = distribution.sample_tasks(count, stream(seed, FINE_TUNING))
    reached = {}
    for spec in fine_tuning_candidates(adaptation):
        returns = adaptation_curve(
            distribution,
            tasks,
            policy,
            parameters,
            None,
            spec,
            gradient_steps=_FINE_TUNING_STEPS,
            trajectories=trajectories,
            seed=seed,
            on_trajectories=on_trajectories,
            each_task=each_task,
        )
        reached[float(returns[-1].mean())] = spec
    return reached[max(reached)]


def tuning_trajectories(adaptation: AdaptationSpec, trajectories: int, count: int = FINE_TUNING_TASKS) -> int:
    """The number of trajectories that `tune_comparison` samples on `count` tasks."""
    return len(fine_tuning_candidates(adaptation)) * count * (_FINE_TUNING_STEPS + 1) * trajectories


def stored_fine_tuning(meta_policy: MetaPolicy, methods: Sequence[str]) -> dict[str, AdaptationSpec]:
    """The settings that were chosen when the artifact was exported.

    Args:
        meta_policy: the artifact.
        methods: the comparisons to look up.

    Returns:
        Settings by method; without the comparisons for which the artifact stores none.

    Raises:
        ArtifactError: the artifact's evaluation is not readable.
    """
    if EVALUATION_NAME not in meta_policy.manifest.files:
        return {}
    try:
        evaluation = json.loads(meta_policy.read_extra(EVALUATION_NAME))
        found = _Settings.validate_python(evaluation.get("fine_tuning", {}))
    except (AttributeError, ValueError) as error:  # not JSON, not an object, or a setting that is invalid
        raise ArtifactError(EVALUATION_NAME, f"fine_tuning cannot be read: {error}") from error
    return {method: found[method] for method in methods if method in found}
