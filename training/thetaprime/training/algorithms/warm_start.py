"""Initializes a run from another: meta-training from an oracle, or an oracle from a meta-policy.

The oracle observes the task. Its network takes [o, task]: the first layer computes W_o · o + W_task · task. A policy
with a context computes W_o · o + context.weight · context. With context.weight = W_task, the policy at context c equals
the oracle on task c, and meta-training has only to learn how to find c from rewards.

The other way round, adaptation finds the context c(task). With W_task = context.weight · dc/dtask, the oracle begins
where adaptation arrives, so it is no weaker than θ′. The training of the run that gave the start counts as a part of
the cost.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from thetaprime.models import ComparisonRun, MetaPolicy, Parameters, Policy, adapt_step
from thetaprime.models.head import LOG_STD
from thetaprime.models.policy import CONTEXT_WEIGHT
from thetaprime.models.spec import CONTEXT, PolicySpec
from thetaprime.training.checkpoint import CheckpointError, RunState
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.oracle import task_vector
from thetaprime.training.tasks.protocol import TaskDistribution

_FIRST, _FIRST_BIAS = "layers.0.weight", "layers.0.bias"
_SHARED: Final = ("hidden_sizes", "activation", "observation_mean", "observation_std")
"""Fields of the network that both runs need alike."""
_TASKS: Final = 40
"""Tasks whose contexts show how the context depends on the task."""
_AT_ONCE: Final = 8
"""Tasks whose trajectories are in memory at once."""


def run_record(run: RunState) -> ComparisonRun:
    """The record of a run for the provenance of a run that depends on it."""
    return ComparisonRun(
        iterations=run.iteration,
        environment_steps=run.environment_steps,
        wall_seconds=round(run.wall_seconds, 1),
        config=run.config.model_dump(mode="json"),
        amendments=run.amendments,
        warm_start=run.warm_start,
    )


def meta_policy_record(meta_policy: MetaPolicy) -> ComparisonRun:
    """The record of a meta-policy's run for the provenance of a run that depends on it."""
    provenance = meta_policy.manifest.provenance
    return ComparisonRun(
        iterations=provenance.iterations,
        environment_steps=provenance.environment_steps,
        wall_seconds=round(provenance.wall_seconds, 1),
        config=provenance.config,
        amendments=provenance.amendments,
        warm_start=provenance.warm_start,
    )


def _check_alike(start: str, tasks: str, policy: PolicySpec, config: TrainConfig, fields: Sequence[str]) -> None:
    """Checks that a run can begin at another one.

    Args:
        start: the other one, in words.
        tasks: its task distribution.
        policy: its network.
        config: of the run that begins.
        fields: of the network, which both need alike.

    Raises:
        CheckpointError: a setting differs, or a network is a module.
    """
    if policy.module or config.policy.module:
        raise CheckpointError(
            "warm start: policy.module is set; expected the built-in network, where the task's weights are known"
        )
    for name, there, here in (
        ("tasks", tasks, config.tasks),
        *((f"policy.{field}", getattr(policy, field), getattr(config.policy, field)) for field in fields),
    ):
        if there != here:
            raise CheckpointError(f"warm start: {name} of {start} is {there!r}; expected {here!r}")


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
    method = oracle.config.method
    if method != "oracle":
        raise CheckpointError(f"warm start: method of that run is {method!r}; expected 'oracle'")
    _check_alike("that run", oracle.config.tasks, oracle.config.policy, config, _SHARED)
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


def warm_started_oracle(
    meta_policy: MetaPolicy, config: TrainConfig, distribution: TaskDistribution, rng: np.random.Generator
) -> tuple[Parameters, int]:
    """Initial parameters of an oracle from a meta-policy and its adaptation.

    The meta-policy takes one inner step on each of some tasks. A linear regression of the adapted contexts on the
    tasks' numbers gives the weights of the oracle's task input. The oracle also takes the noise of θ′.

    Args:
        meta_policy: θ with a context, and its inner loop.
        config: the oracle's configuration.
        distribution: the tasks, without the task in their observations.
        rng: of the tasks, the environments and the action noise.

    Returns:
        The parameters, whose context is zero, with the meta-policy's weights; and the environment steps that it took.

    Raises:
        CheckpointError: a setting of the meta-policy differs, or it has no context; the message says which.
    """
    manifest = meta_policy.manifest
    if not manifest.policy.context_size:
        raise CheckpointError(
            f"warm start: {meta_policy.label} has no context; expected a meta-policy whose adaptation finds one"
        )
    fields = (*_SHARED, "context_size")
    _check_alike(meta_policy.label, manifest.provenance.distribution, manifest.policy, config, fields)
    tasks, contexts, log_stds, steps = [], [], [], 0
    for _ in range(-(-_TASKS // _AT_ONCE)):
        sampled = list(distribution.sample_tasks(_AT_ONCE, rng))
        N = manifest.adaptation.trajectories_per_round
        thetas = [meta_policy.parameters] * len(sampled)
        for batch in collect(distribution, sampled, meta_policy.policy, thetas, N, rng=rng):
            adapted = adapt_step(
                meta_policy.policy,
                meta_policy.parameters,
                batch,
                manifest.adaptation,
                step=0,
                step_sizes=meta_policy.step_sizes,
            ).parameters
            steps += sum(batch.lengths)
            contexts.append(adapted[CONTEXT])
            if LOG_STD in adapted:
                log_stds.append(adapted[LOG_STD])
        tasks += [task_vector(task) for task in sampled]
    features = np.c_[np.stack(tasks), np.ones(len(tasks))].astype(np.float64)
    targets = torch.stack(contexts).double().numpy()
    coefficients = torch.from_numpy(np.linalg.lstsq(features, targets, rcond=None)[0])
    slopes, offset = coefficients[:-1], coefficients[-1]
    weight = meta_policy.parameters[CONTEXT_WEIGHT].double()
    changes = {
        _FIRST: torch.cat([meta_policy.parameters[_FIRST], (weight @ slopes.T).float()], dim=1),
        _FIRST_BIAS: meta_policy.parameters[_FIRST_BIAS] + (weight @ offset).float(),
        CONTEXT: torch.zeros(manifest.policy.context_size),
    }
    if log_stds:
        changes[LOG_STD] = torch.stack(log_stds).mean(dim=0)
    return {name: changes.get(name, value).clone() for name, value in meta_policy.parameters.items()}, steps
