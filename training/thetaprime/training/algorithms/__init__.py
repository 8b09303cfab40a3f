"""The outer loop: what is minimized at the adapted policies, and by which optimizer.

A method is an objective, in the file of its name, and one of two optimizers: the natural gradient in a trust region, or
Adam for as long as the KL allows.
"""

from collections.abc import Callable, Mapping
from typing import Final

from thetaprime.models import Policy
from thetaprime.training.algorithms.adam import AdamLoop
from thetaprime.training.algorithms.dice import DiceObjective
from thetaprime.training.algorithms.e_maml import EMAMLObjective
from thetaprime.training.algorithms.maml_trpo import SurrogateObjective
from thetaprime.training.algorithms.natural import TrustRegionLoop
from thetaprime.training.algorithms.objective import MetaObjective
from thetaprime.training.algorithms.outer_loop import OuterLoop, OuterStep
from thetaprime.training.algorithms.promp import ProMPObjective
from thetaprime.training.config import OuterLoopName, TrainConfig
from thetaprime.training.sampling.meta_batch import Collected, TaskData, sample_iteration

OUTER_LOOPS: Final[
    Mapping[OuterLoopName, tuple[type[MetaObjective], Callable[[type[MetaObjective], Policy, TrainConfig], OuterLoop]]]
] = {
    "maml_trpo": (SurrogateObjective, TrustRegionLoop),
    "promp": (ProMPObjective, AdamLoop),
    "e_maml": (EMAMLObjective, TrustRegionLoop),
    "dice": (DiceObjective, AdamLoop),
}
"""The objective and the optimizer of each method."""


def make_outer_loop(policy: Policy, config: TrainConfig) -> OuterLoop:
    """The outer loop that a configuration names."""
    objective, optimizer = OUTER_LOOPS[config.outer_loop]
    return optimizer(objective, policy, config)


__all__ = [
    "OUTER_LOOPS",
    "Collected",
    "MetaObjective",
    "OuterLoop",
    "OuterStep",
    "TaskData",
    "make_outer_loop",
    "sample_iteration",
]
