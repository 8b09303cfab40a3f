"""Initializes meta-training from an oracle, a policy that observes the task.

The oracle's network takes [o, task]: its first layer computes W_o · o + W_task · task. A policy with a context computes
W_o · o + context.weight · context. With context.weight = W_task, the policy at context c equals the oracle on task c,
and meta-training has only to learn how to find c from rewards. The oracle's training counts as a part of θ's cost.
"""

import torch

from thetaprime.models import ComparisonRun, Parameters, Policy
from thetaprime.models.policy import CONTEXT_WEIGHT
from thetaprime.models.spec import CONTEXT
from thetaprime.training.checkpoint import CheckpointError, RunState
from thetaprime.training.config import TrainConfig

_FIRST, _FIRST_BIAS = "layers.0.weight", "layers.0.bias"


def run_record(run: RunState) -> ComparisonRun:
    """The record of a run for the provenance of a run that depends on it."""
    return ComparisonRun(
        iterations=run.iteration,
        environment_steps=run.environment_steps,
        wall_seconds=round(run.wall_seconds, 1),
        config=run.config.model_dump(mode="json"),
        amendments=run.amendments,
    )


def warm_started(oracle: RunState, config: TrainConfig, policy: Policy) -> Parameters:
    """Initial parameters θ from an oracle's run.

    Args:
        oracle: a run on the same tasks with the same network.
        config: the new run's configuration.
        policy: the new run's network; its context has at least as many numbers as the task.

    Returns:
        The parameters. The context is zero, and so are the weights of context numbers beyond the task's.

    Raises:
        CheckpointError: a setting of the oracle's run differs; the message names it and both values.
    """
    if config.policy.module or oracle.config.policy.module:
        raise CheckpointError(
            "warm start: policy.module is set; expected the built-in network, where the task's weights are known"
        )
    for name, there, here in (
        ("method", oracle.config.method, "oracle"),
        ("tasks", oracle.config.tasks, config.tasks),
        *(
            (f"policy.{field}", getattr(oracle.config.policy, field), getattr(config.policy, field))
            for field in ("hidden_sizes", "activation", "observation_mean", "observation_std")
        ),
    ):
        if there != here:
            raise CheckpointError(f"warm start: {name} of that run is {there!r}; expected {here!r}")
    size = policy.environment.observation_size
    observation_weight, task_weight = oracle.parameters[_FIRST].tensor_split([size], dim=1)
    contexts = config.policy.context_size
    if contexts < task_weight.shape[1]:
        raise CheckpointError(
            f"warm start: policy.context_size is {contexts}; expected {task_weight.shape[1]} or more, as a task has"
        )
    weight = torch.nn.functional.pad(task_weight, (0, contexts - task_weight.shape[1]))
    # The oracle has a context, too, which never moved: it acts as a bias.
    bias = oracle.parameters[_FIRST_BIAS] + oracle.parameters[CONTEXT_WEIGHT] @ oracle.parameters[CONTEXT]
    return {
        **{name: value.clone() for name, value in oracle.parameters.items()},
        _FIRST: observation_weight.contiguous(),
        _FIRST_BIAS: bias,
        CONTEXT: torch.zeros(contexts),
        CONTEXT_WEIGHT: weight,
    }
