"""Initializes a policy that remembers from an oracle, a policy that observes the task.

The oracle's first layer computes W_o · o + W_task · task. Here the memory's output h stands for the task: a few units
of h hold each of its numbers, task = mean + deviation ⊙ (P h), and the first layer takes W_task · task from h. The
policy equals the oracle wherever h says the task. A memory learns to say it from the first iteration on, since training
also predicts the task by P h (`rl2.task_weight`). The oracle's training counts as a part of the run's cost.
"""

from typing import Final

import numpy as np
import torch

from thetaprime.models import Parameters, PolicySpec, RecurrentPolicy
from thetaprime.models.head import LOG_STD
from thetaprime.models.policy import CONTEXT_WEIGHT
from thetaprime.models.spec import CONTEXT
from thetaprime.training.algorithms.rl2.critic import TaskScale
from thetaprime.training.algorithms.rl2.normalization import RunningMoments, needs_moments
from thetaprime.training.algorithms.rl2.ppo import TASK_BIAS, TASK_WEIGHT
from thetaprime.training.checkpoint import CheckpointError, RunState
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.lifetimes import collect_lifetimes
from thetaprime.training.tasks.protocol import TaskDistribution

_FIRST, _FIRST_BIAS = "layers.0.weight", "layers.0.bias"
_UNITS: Final = 4  # of the memory, for each number of a task
_REACH: Final = 3.0  # deviations of the task that they can say


def warm_started_memory(
    oracle: RunState, config: TrainConfig, distribution: TaskDistribution, rng: np.random.Generator
) -> tuple[Parameters, Parameters, int]:
    """Initial parameters θ from an oracle's run.

    Args:
        oracle: a run on the same tasks with the same hidden layers.
        config: the new run's configuration.
        distribution: its tasks.
        rng: of the lifetimes that measure the normalization, where it is not given.

    Returns:
        The parameters; the optimizer's state with the prediction of the task; and the environment steps that it took.

    Raises:
        CheckpointError: a setting of the oracle's run differs, or the memory cannot say the task; the message says
            which.
    """
    there = oracle.config
    for name, found, expected in (
        ("method", there.method, "oracle"),
        ("tasks", there.tasks, config.tasks),
        ("policy.module", there.policy.module, ""),
        ("policy.hidden_sizes", there.policy.hidden_sizes, config.policy.hidden_sizes),
        ("policy.activation", there.policy.activation, config.policy.activation),
    ):
        if found != expected:
            raise CheckpointError(f"warm start: {name} of that run is {found!r}; expected {expected!r}")
    if not config.rl2.task_weight:
        raise CheckpointError(
            "warm start: rl2.task_weight is 0; expected more, such as 0.5: the memory has to say the task to the "
            "network of an oracle"
        )
    size = distribution.environment.observation_size
    observed, told = oracle.parameters[_FIRST].tensor_split([size], dim=1)
    scale = TaskScale.measure(distribution, config.seed)
    bias = oracle.parameters[_FIRST_BIAS] + told @ torch.from_numpy(scale.mean)
    if CONTEXT in oracle.parameters:  # it never moved, and acts as a bias
        bias = bias + oracle.parameters[CONTEXT_WEIGHT] @ oracle.parameters[CONTEXT]
    # The oracle's normalization, until lifetimes of its network have measured the run's.
    normalization = {name: getattr(there.policy, name) for name in ("observation_mean", "observation_std")}
    first = _network(config.policy.model_copy(update=normalization), distribution)
    projection = _projection(len(scale.mean), first.memory.size)
    weight = (told * torch.from_numpy(scale.deviation)) @ projection
    theta = first.init(config.seed)
    theta |= {name: value.clone() for name, value in oracle.parameters.items() if name in theta}
    theta |= {_FIRST: torch.cat([observed, weight], 1), _FIRST_BIAS: bias}
    if LOG_STD in theta:  # an oracle hardly explores, and the memory has to
        theta[LOG_STD] = theta[LOG_STD].clamp_min(config.policy.init_log_std)

    moments, steps = RunningMoments({}), 0
    if needs_moments(config.policy):
        tasks = distribution.sample_tasks(config.meta_batch_size, rng)
        lifetimes = collect_lifetimes(distribution, tasks, first, theta, config.rl2.episodes, rng=rng)
        moments.add(lifetimes)
        steps = lifetimes.steps
    policy = _network(moments.normalized(config.policy), distribution)
    (old_mean, old_factor), (mean, factor) = first.normalization, policy.normalization
    theta[_FIRST] = torch.cat([observed * (old_factor / factor), weight], 1)
    theta[_FIRST_BIAS] = bias + observed @ ((mean - old_mean) * old_factor)
    state = {**moments.state, TASK_WEIGHT: projection, TASK_BIAS: torch.zeros(len(projection))}
    return theta, state, steps


def _network(spec: PolicySpec, distribution: TaskDistribution) -> RecurrentPolicy:
    return RecurrentPolicy(distribution.environment, spec)


def _projection(numbers: int, size: int) -> torch.Tensor:
    """P [D, H]: each number of the task is the sum of a few units, which lie between −1 and 1."""
    units = min(_UNITS, size // numbers)
    if not units:
        raise CheckpointError(
            f"warm start: policy.memory.size is {size}; expected {numbers} or more, as a task has, and better "
            f"{_UNITS * numbers} or more"
        )
    projection = torch.zeros(numbers, size)
    for number in range(numbers):
        projection[number, number * units : (number + 1) * units] = _REACH / units
    return projection
