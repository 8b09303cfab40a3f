"""Meta-learning algorithms, each in the file of its name, by the name that a configuration uses."""

from collections.abc import Mapping
from typing import Final

from thetaprime.training.algorithms.dice import DiCE
from thetaprime.training.algorithms.e_maml import EMAML
from thetaprime.training.algorithms.maml_trpo import MAML
from thetaprime.training.algorithms.promp import ProMP
from thetaprime.training.algorithms.rl2 import RL2
from thetaprime.training.config import OuterLoopName

ALGORITHMS: Final[Mapping[OuterLoopName, type[MAML]]] = {
    "maml_trpo": MAML,
    "promp": ProMP,
    "e_maml": EMAML,
    "dice": DiCE,
}

__all__ = ["ALGORITHMS", "EMAML", "MAML", "RL2", "DiCE", "ProMP"]
