"""Writes an imported policy as a meta-policy: θ is the policy, and adaptation fine-tunes all of it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    Parameters,
    Policy,
    Provenance,
    TrajectoryBatch,
    adapt_step,
    write_meta_policy,
)
from thetaprime.models.parameters import digest_bytes
from thetaprime.models.verdict.kl_limit import within_kl
from thetaprime.training.importing.convert import Normalization, convert, read_normalization
from thetaprime.training.importing.fixed_environment import FixedEnvironment
from thetaprime.training.importing.stable_baselines3 import read_stable_baselines3
from thetaprime.training.resources import made_here, task_threads
from thetaprime.training.sampling.sampler import collect

CARD_NAME: Final = "README.md"
STEP_KL: Final = 0.05
"""KL divergence of a first step in the policy's own environment, in nats."""
_BATCHES: Final = 3
# A changed environment can give a step of the same length a larger divergence: this many times `step_kl` at most.
_MOST_KL: Final = 2.0
_GOLDEN: Final = 8
_LONGEST_STEP: Final = 1e6
_PACKAGES: Final = ("thetaprime", "torch", "numpy", "gymnasium")

OnTrajectories = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """A policy to import.

    Attributes:
        model: the file of Stable-Baselines3.
        environment_id: Gymnasium id of the environment that it was trained in.
        arguments: of that environment.
        horizon: longest episode; None for the environment's own limit.
        normalization: file of the statistics of its observations, see `read_normalization`; None for raw observations.
        output: folder of the artifact.
        name: of the meta-policy.
        version: counted from 1.
        description: one line.
        trajectories: N of one round of adaptation.
        discount: γ of the advantages.
        step_kl: length of a step: its KL divergence in the policy's own environment, in nats.
        seed: of the episodes that measure the policy.
    """

    model: Path
    environment_id: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    horizon: int | None = None
    normalization: Path | None = None
    output: Path
    name: str
    version: int = 1
    description: str
    trajectories: int = 20
    discount: float = 0.9
    step_kl: float = STEP_KL
    seed: int = 0


def import_work(request: ImportRequest) -> int:
    """The number of trajectories that `import_policy` samples."""
    return _BATCHES * request.trajectories


def import_policy(
    request: ImportRequest, *, on_trajectories: OnTrajectories = lambda count: None
) -> tuple[MetaPolicy, torch.Tensor]:
    """Reads a policy, measures it in its environment, and writes it as an artifact.

    Args:
        request: the policy.
        on_trajectories: called with the number of trajectories that were just sampled.

    Returns:
        The artifact, and the return of each trajectory of the policy.

    Raises:
        ImportedFileError: a file cannot be imported.
        ValueError: the environment is not the policy's.
    """
    network = read_stable_baselines3(request.model)
    normalization = Normalization() if request.normalization is None else read_normalization(request.normalization)
    tasks = FixedEnvironment(request.environment_id, request.arguments, request.horizon)
    spec, theta = convert(network, tasks.environment, normalization)
    policy = Policy(tasks.environment, spec)
    rng = np.random.default_rng(request.seed)
    batches = []
    with task_threads(1):
        for _ in range(_BATCHES):
            batches += collect(tasks, [{}], policy, [theta], request.trajectories, rng=rng)
            on_trajectories(request.trajectories)
        adaptation = _fine_tuning(policy, theta, batches, request)
    observations = torch.cat([batch.observations for batch in batches])
    chosen = rng.choice(len(observations), _GOLDEN, replace=len(observations) < _GOLDEN)
    returns = torch.cat([batch.returns for batch in batches])
    provenance = _provenance(request, network.steps)
    meta_policy = write_meta_policy(
        request.output,
        name=request.name,
        version=request.version,
        description=request.description,
        environment=tasks.environment,
        policy_spec=spec,
        adaptation=adaptation,
        parameters=theta,
        provenance=provenance,
        golden_observations=observations[chosen].reshape(_GOLDEN, *tasks.environment.observation_shape).numpy(),
        reference={
            "observation_mean": observations.double().mean(0).float(),
            "observation_std": observations.double().std(0).float(),
        },
        extra_files={CARD_NAME: _card(request, policy, adaptation, provenance, returns).encode()},
    )
    return meta_policy, returns


def _fine_tuning(
    policy: Policy, theta: Parameters, batches: list[TrajectoryBatch], request: ImportRequest
) -> AdaptationSpec:
    """The inner loop that fine-tunes all parameters, with steps as long as `step_kl` in the policy's environment.

    Steps follow the normalized gradient, so that their length depends neither on the rewards nor on how good the policy
    is. A length is the median over batches.
    """
    unit = AdaptationSpec(
        inner_lr=1.0,
        normalize_gradient=True,
        discount=request.discount,
        gae_lambda=0.95,
        trajectories_per_round=request.trajectories,
    )
    lengths = [_length(policy, theta, batch, unit, request.step_kl) for batch in batches]
    found = {"inner_lr": float(np.median(lengths)), "max_kl": _MOST_KL * request.step_kl}
    return AdaptationSpec.model_validate({**unit.model_dump(exclude_unset=True), **found})


def _length(policy: Policy, theta: Parameters, batch: TrajectoryBatch, unit: AdaptationSpec, limit: float) -> float:
    """The step size at which one step has the KL divergence `limit`; at most `_LONGEST_STEP`."""
    size = 1.0
    while True:
        end = adapt_step(policy, theta, batch, unit, step=0, scale=size).parameters
        part, _ = within_kl(policy, theta, end, batch.observations, limit)
        if part < 1.0 or size >= _LONGEST_STEP:
            return size * max(part, 1.0 / _LONGEST_STEP)
        size *= 10.0


def _provenance(request: ImportRequest, steps: int) -> Provenance:
    return Provenance(
        distribution=request.environment_id,
        config={
            "imported": {
                "format": "stable-baselines3",
                "file": request.model.name,
                "sha256": digest_bytes(request.model.read_bytes()),
                "environment_arguments": dict(request.arguments),
                "normalization": request.normalization is not None,
                "step_kl": request.step_kl,
            }
        },
        seed=request.seed,
        iterations=0,
        environment_steps=steps,
        wall_seconds=0.0,
        **made_here(_PACKAGES),
    )


def _card(
    request: ImportRequest, policy: Policy, adaptation: AdaptationSpec, provenance: Provenance, returns: torch.Tensor
) -> str:
    arguments = ", ".join(f"{key} = {value!r}" for key, value in request.arguments.items()) or "its defaults"
    network = " × ".join(map(str, policy.spec.hidden_sizes)) or "linear"
    return f"""# {request.name}, version {request.version}

{request.description}

| | |
|---|---|
| environment | `{request.environment_id}` with {arguments}, at most {policy.environment.horizon} steps |
| network | MLP {network}, {policy.spec.activation} |
| origin | `{request.model.name}` of Stable-Baselines3, {provenance.environment_steps:,} environment steps |
| what adapts | all parameters: fine-tuning |
| one round | {adaptation.trajectories_per_round} trajectories, one REINFORCE step along the normalized gradient |
| step size | {adaptation.inner_lr:.3g}: a KL divergence of {request.step_kl:g} nats in the environment above |
| inner advantages | discount {adaptation.discount:g}, GAE λ {adaptation.gae_lambda:g}, linear feature baseline |
| return of θ there | {float(returns.mean()):.2f} ± {float(returns.std()):.2f} over {len(returns)} trajectories |

## What it is for

The policy was trained for one environment, and not to adapt. Adaptation fine-tunes it to a changed environment, round
after round: give it 10 rounds or more. No meta-training tasks are known, so a verdict says nothing about whether a task
is like them.
"""
