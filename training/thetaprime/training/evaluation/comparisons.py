"""The comparisons of a meta-policy: their parameters, in files beside θ."""

import dataclasses
from typing import Final

from thetaprime.models import (
    EnvironmentContract,
    MetaPolicy,
    Parameters,
    Policy,
    check_parameters,
    parameters_to_bytes,
    read_tensors,
)
from thetaprime.training.tasks.oracle import oracle_policy

PRETRAINED_NAME: Final = "pretrained.safetensors"
RANDOM_NAME: Final = "random.safetensors"
ORACLE_NAME: Final = "oracle.safetensors"
EVALUATION_NAME: Final = "evaluation.json"
"""The artifact's evaluation, which also keeps the settings that its comparisons are fine-tuned with."""


@dataclasses.dataclass(frozen=True, eq=False)
class Comparisons:
    """The initial parameters of each comparison.

    Attributes:
        pretrained: of one policy trained on all tasks, which is fine-tuned.
        random: of an untrained policy, which is fine-tuned.
        oracle: of the oracle, which observes the task.
        oracle_policy: the oracle's network; its observation ends with the task's parameters.
    """

    pretrained: Parameters
    random: Parameters
    oracle: Parameters
    oracle_policy: Policy

    def files(self) -> dict[str, bytes]:
        """The contents of the files beside θ, by name."""
        return {
            PRETRAINED_NAME: parameters_to_bytes(self.pretrained),
            RANDOM_NAME: parameters_to_bytes(self.random),
            ORACLE_NAME: parameters_to_bytes(self.oracle),
        }


def load_comparisons(meta_policy: MetaPolicy, oracle_environment: EnvironmentContract) -> Comparisons:
    """Reads the comparisons of an artifact.

    Args:
        meta_policy: the artifact.
        oracle_environment: the contract of the oracle's environment.

    Raises:
        ArtifactError: a file is missing, or its parameters do not fit the network.
    """
    network = oracle_policy(oracle_environment, meta_policy.manifest.policy)
    found = {}
    for name in (PRETRAINED_NAME, RANDOM_NAME, ORACLE_NAME):
        found[name] = read_tensors(meta_policy.read_extra(name), name)
        check_parameters(network if name == ORACLE_NAME else meta_policy.policy, found[name], name)
    return Comparisons(found[PRETRAINED_NAME], found[RANDOM_NAME], found[ORACLE_NAME], network)
