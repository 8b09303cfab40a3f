"""The comparisons of a meta-policy: their networks and parameters, in files beside θ.

An artifact holds some comparisons, or none: a policy that was pretrained on all tasks, a random initialization, and an
oracle, which observes the task. The networks of the first and the last are those of their training runs, which may
differ from the meta-policy's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import pydantic

from thetaprime.models import (
    ArtifactError,
    MetaPolicy,
    Parameters,
    Policy,
    PolicySpec,
    check_parameters,
    parameters_to_bytes,
    read_tensors,
)
from thetaprime.models.manifest import MANIFEST_NAME
from thetaprime.training.tasks.networks import make_policy
from thetaprime.training.tasks.oracle import OracleTasks, oracle_policy
from thetaprime.training.tasks.protocol import TaskDistribution

FINE_TUNED: Final = ("pretrained", "random")
"""The comparisons that are fine-tuned."""
COMPARISONS: Final = (*FINE_TUNED, "oracle")
"""All comparisons."""
EVALUATION_NAME: Final = "evaluation.json"
"""The artifact's evaluation, which also keeps the settings that its comparisons are fine-tuned with."""


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A policy to compare with.

    Attributes:
        policy: its network; the oracle's observation ends with the task's parameters.
        parameters: its parameters, before fine-tuning.
    """

    policy: Policy
    parameters: Parameters


def comparison_file(method: str) -> str:
    """The name of a comparison's file beside θ."""
    return f"{method}.safetensors"


def comparison_files(comparisons: Mapping[str, Comparison]) -> dict[str, bytes]:
    """The contents of the files beside θ, by name."""
    return {comparison_file(method): parameters_to_bytes(each.parameters) for method, each in comparisons.items()}


def held_comparisons(meta_policy: MetaPolicy) -> tuple[str, ...]:
    """The comparisons that an artifact holds, in their usual order."""
    return tuple(method for method in COMPARISONS if comparison_file(method) in meta_policy.manifest.files)


def comparison_policy(method: str, distribution: TaskDistribution, spec: PolicySpec) -> Policy:
    """The network of a comparison."""
    if method == "oracle":
        return oracle_policy(OracleTasks(distribution).environment, spec)
    return make_policy(distribution.environment, spec)


def load_comparison(meta_policy: MetaPolicy, method: str, distribution: TaskDistribution) -> Comparison:
    """Reads a comparison of an artifact.

    Args:
        meta_policy: the artifact.
        method: of `COMPARISONS`.
        distribution: the meta-policy's tasks.

    Raises:
        ArtifactError: the artifact does not hold it, or its parameters do not fit its network.
    """
    name = comparison_file(method)
    if name not in meta_policy.manifest.files:
        held = ", ".join(held_comparisons(meta_policy)) or "none"
        raise ArtifactError(
            name,
            f"{meta_policy.label} has no {method} policy to compare with (it has {held}): add one with thetaprime "
            "compare, or measure other --methods",
        )
    policy = comparison_policy(method, distribution, _spec(meta_policy, method))
    parameters = read_tensors(meta_policy.read_extra(name), name)
    check_parameters(policy, parameters, name)
    return Comparison(policy, parameters)


def _spec(meta_policy: MetaPolicy, method: str) -> PolicySpec:
    """The network's specification: that of the comparison's run, or the meta-policy's if it had none."""
    run = meta_policy.manifest.provenance.comparisons.get(method)
    if run is None or "policy" not in run.config:
        return meta_policy.manifest.policy
    try:
        return PolicySpec.model_validate(run.config["policy"])
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, ("provenance.comparisons", method, "config.policy", *problem["loc"])))
        raise ArtifactError(MANIFEST_NAME, f"{field}: {problem['msg']}") from error
