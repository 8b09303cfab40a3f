"""Training runs that take a moment, and the data of one iteration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from thetaprime.models import Parameters, Policy
from thetaprime.training.algorithms import ALGORITHMS, MAML
from thetaprime.training.algorithms.objective import MetaObjective, MetaUpdate
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.resources import MapTasks, in_turn
from thetaprime.training.sampling.sampler import Collected, TaskData
from thetaprime.training.tasks import TaskDistribution

TINY: Final[dict[str, Any]] = {
    "tasks": "point-navigation",
    "iterations": 4,
    "meta_batch_size": 3,
    "checkpoint_every": 2,
    "policy.hidden_sizes": [16],
    # Smooth, so that finite differences hold: ReLU has its kink at the origin.
    "policy.activation": "tanh",
    "adaptation.inner_lr": 0.3,
    "adaptation.trajectories_per_round": 4,
    "fisher_fraction": 1.0,
}


def tiny_config(changes: Mapping[str, Any]) -> TrainConfig:
    """Returns the configuration of a tiny run, with some fields changed by dotted name."""
    return load_config(None, {**TINY, **changes})


def sampled(
    distribution: TaskDistribution, config: TrainConfig, step_sizes: Parameters | None = None
) -> tuple[Policy, Parameters, list[TaskData]]:
    """Returns a fresh policy, its parameters, and one iteration's trajectories."""
    policy = Policy(distribution.environment, config.policy)
    parameters = policy.init(0)
    rng = np.random.default_rng(0)
    tasks = distribution.sample_tasks(config.meta_batch_size, rng)
    data = algorithm_of(config, policy).sample_meta_batch(distribution, tasks, parameters, step_sizes, rng)
    return policy, parameters, data


def algorithm_of(config: TrainConfig, policy: Policy) -> MAML:
    """The algorithm that a configuration names."""
    return ALGORITHMS[config.outer_loop](policy, config)


def meta_objective(
    config: TrainConfig,
    policy: Policy,
    parameters: Parameters,
    data: list[TaskData],
    step_sizes: Parameters | None = None,
) -> MetaObjective:
    """The meta-objective of the algorithm that a configuration names, on sampled trajectories."""
    return MetaObjective(algorithm_of(config, policy), parameters, step_sizes, data, in_turn)


def meta_update(
    algorithm: MAML, parameters: Parameters, data: list[TaskData], map_tasks: MapTasks = in_turn
) -> MetaUpdate:
    """The algorithm's meta-update on sampled trajectories, without learned step sizes."""
    return algorithm.meta_update(MetaObjective(algorithm, parameters, None, data, map_tasks))


def in_double(parameters: Parameters, data: list[TaskData]) -> tuple[Parameters, list[TaskData]]:
    """Converts parameters and data to float64, which finite differences need."""

    def double(each: Collected) -> Collected:
        taken = each.batch.actions
        batch = dataclasses.replace(
            each.batch,
            observations=each.batch.observations.double(),
            actions=taken if taken.dtype == torch.int64 else taken.double(),
        )
        return dataclasses.replace(each, batch=batch, advantages=each.advantages.double())

    converted = [
        TaskData([double(each) for each in task.support], [double(each) for each in task.judged]) for task in data
    ]
    return {name: value.double() for name, value in parameters.items()}, converted
