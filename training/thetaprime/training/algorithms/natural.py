"""An outer step along the natural gradient, in a trust region around the adapted policies (Schulman et al. 2015)."""

from collections.abc import Sequence

from thetaprime.models import Parameters, Policy
from thetaprime.training.algorithms.flat import flatten, unflatten
from thetaprime.training.algorithms.objective import MetaObjective
from thetaprime.training.algorithms.outer_loop import OuterStep
from thetaprime.training.algorithms.trpo import trust_region_step
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.meta_batch import TaskData
from thetaprime.training.sampling.parallel import MapTasks


class TrustRegionLoop:
    """Minimizes an objective subject to mean KL(π_old ‖ π_θ′) ≤ δ, one step an iteration. It has no state.

    Args:
        objective: what to minimize.
        policy: the network.
        config: of the run.
    """

    def __init__(self, objective: type[MetaObjective], policy: Policy, config: TrainConfig) -> None:
        self._objective, self._policy, self._config = objective, policy, config

    def step(
        self, parameters: Parameters, step_sizes: Parameters | None, data: Sequence[TaskData], each_task: MapTasks
    ) -> OuterStep:
        """As `OuterLoop.step`."""
        objective = self._objective(self._policy, parameters, step_sizes, self._config, data, each_task)
        theta = flatten(parameters)
        slope = objective.gradient(theta)
        outcome = trust_region_step(
            theta,
            slope.loss,
            slope.theta,
            objective.fisher_product(theta),
            objective.evaluate,
            max_kl=self._config.max_kl,
        )
        return OuterStep(
            parameters=unflatten(outcome.position, parameters),
            step_size_gradient=slope.step_sizes,
            accepted=outcome.accepted,
            improvement=outcome.improvement,
            kl_divergence=outcome.kl_divergence,
        )

    def state(self) -> Parameters:
        """Nothing."""
        return {}

    def load(self, state: Parameters) -> None:
        """Nothing to take up."""
