"""Meta-training that begins from a policy that was told the task.

An oracle's network takes [o, task]: its first layer adds W_task · task to what it makes of o. A policy with a context
adds context.weight · context there. With context.weight = W_task the policy at context c *is* the oracle told the
task c, and what is left to meta-learn is how to find c from rewards. The oracle's training is part of what θ cost.
"""

import torch

from thetaprime.models import ComparisonRun, Parameters, Policy
from thetaprime.models.policy import CONTEXT_WEIGHT
from thetaprime.models.spec import CONTEXT
from thetaprime.training.checkpoint import CheckpointError, RunState
from thetaprime.training.config import TrainConfig

_FIRST, _FIRST_BIAS = "layers.0.weight", "layers.0.bias"


def run_record(run: RunState) -> ComparisonRun:
    """What is told of a run that another one depends on."""
    return ComparisonRun(
        iterations=run.iteration,
        environment_steps=run.environment_steps,
        wall_seconds=round(run.wall_seconds, 1),
        config=run.config.model_dump(mode="json"),
        amendments=run.amendments,
    )


def warm_started(oracle: RunState, config: TrainConfig, policy: Policy) -> Parameters:
    """θ, as an oracle's run knows it.

    Args:
        oracle: the run; on the same tasks, with the same network.
        config: of the run that is to begin.
        policy: its network, with a context at least as large as the task's parameters.

    Returns:
        The parameters; the context is zero, and so are the weights of what is left of it.

    Raises:
        CheckpointError: the run does not fit: which setting, what it is there and here.
    """
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
    observed, told = oracle.parameters[_FIRST].tensor_split([size], dim=1)
    contexts = config.policy.context_size
    if contexts < told.shape[1]:
        raise CheckpointError(
            f"warm start: policy.context_size is {contexts}; the oracle was told {told.shape[1]} numbers"
        )
    weight = torch.nn.functional.pad(told, (0, contexts - told.shape[1]))
    # The oracle had a context of its own, which never moved: a part of its bias.
    bias = oracle.parameters[_FIRST_BIAS] + oracle.parameters[CONTEXT_WEIGHT] @ oracle.parameters[CONTEXT]
    return {
        **{name: value.clone() for name, value in oracle.parameters.items()},
        _FIRST: observed.contiguous(),
        _FIRST_BIAS: bias,
        CONTEXT: torch.zeros(contexts),
        CONTEXT_WEIGHT: weight,
    }
