"""The outer loop: what is minimised at the adapted policies, and by which optimiser.

A method is an objective, in the file of its name, and one of two optimisers: the natural gradient in a trust region, or
Adam for as long as the KL allows.
"""

from collections.abc import Callable, Mapping
from typing import Final

from thetaprime.models import Policy
from thetaprime.training.config import OuterLoopName, TrainConfig
from thetaprime.training.outer.adam import AdamLoop
from thetaprime.training.outer.data import Collected, TaskData, sample_iteration
from thetaprime.training.outer.dice import DiceObjective
from thetaprime.training.outer.e_maml import EMAMLObjective
from thetaprime.training.outer.maml_trpo import SurrogateObjective
from thetaprime.training.outer.natural import TrustRegionLoop
from thetaprime.training.outer.objective import MetaObjective
from thetaprime.training.outer.promp import ProMPObjective
from thetaprime.training.outer.protocol import OuterLoop, OuterStep

OUTER_LOOPS: Final[
    Mapping[OuterLoopName, tuple[type[MetaObjective], Callable[[type[MetaObjective], Policy, TrainConfig], OuterLoop]]]
] = {
    "maml_trpo": (SurrogateObjective, TrustRegionLoop),
    "promp": (ProMPObjective, AdamLoop),
    "e_maml": (EMAMLObjective, TrustRegionLoop),
    "dice": (DiceObjective, AdamLoop),
}
"""The objective and the optimiser of each method."""


def make_outer_loop(policy: Policy, config: TrainConfig) -> OuterLoop:
    """The outer loop that a configuration names."""
    objective, optimiser = OUTER_LOOPS[config.outer_loop]
    return optimiser(objective, policy, config)


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
