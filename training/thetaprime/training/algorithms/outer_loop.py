"""What a run asks of an outer loop."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from thetaprime.models import Parameters
from thetaprime.training.sampling.meta_batch import TaskData
from thetaprime.training.sampling.parallel import MapTasks


@dataclasses.dataclass(frozen=True, eq=False)
class OuterStep:
    """What one iteration's outer step did.

    Attributes:
        parameters: the next θ.
        step_size_gradient: ∂loss/∂step sizes at the old θ, where they are learned.
        accepted: whether θ moved.
        improvement: decrease of the outer loss.
        kl_divergence: mean KL(π_old ‖ π_θ′) at the next θ, in nats.
    """

    parameters: Parameters
    step_size_gradient: Parameters | None
    accepted: bool
    improvement: float
    kl_divergence: float


class OuterLoop(Protocol):
    """Improves θ, an iteration at a time."""

    def step(
        self, parameters: Parameters, step_sizes: Parameters | None, data: Sequence[TaskData], each_task: MapTasks
    ) -> OuterStep:
        """θ -> the next θ, and the gradient for the step sizes where they are learned.

        Args:
            parameters: θ.
            step_sizes: learned step sizes, as leaves that a gradient can be taken in; or None.
            data: of each task, collected with θ and these step sizes.
            each_task: applies a function to each task, in parallel.
        """

    def state(self) -> Parameters:
        """Everything that a resumed run needs beside θ; empty where that is nothing."""

    def load(self, state: Parameters) -> None:
        """Takes up where `state` left off."""
