"""PPO (Schulman et al. 2017) for a policy that remembers, with backpropagation through time in chunks.

A chunk is `chunk_steps` successive steps of one lifetime. Its gradient begins at the memory's state before its first
step: the learned initial state at a lifetime's start, elsewhere the state that was sampled.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import MemoryInputs, Parameters, RecurrentPolicy
from thetaprime.training.algorithms.rl2.critic import criticize
from thetaprime.training.config import RL2Spec
from thetaprime.training.resources import MapTasks

TASK_WEIGHT, TASK_BIAS = "task.weight", "task.bias"
"""Names of the parameters that predict the task from the memory: [D, H] and [D]."""
PACE: Final = "pace"
"""Name of the factor on the learning rate, at most 1."""
_SHARDS: Final = 2  # of a minibatch, for threads; a fixed number, since it decides the rounding
_ADAM: Final = ("step", "exp_avg", "exp_avg_sq")
_FAR: Final = 2.0  # times max_kl, beyond which a minibatch takes no step
_SLOWER, _FASTER = 0.7, 1.1
_MEASURED: Final = ("kl_divergence", "improvement", "value_error", "task_error")


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
    """M chunks of K steps, time first; M chunks may end in padding.

    Attributes:
        inputs: what the memory read, leading axes [K, M].
        state: the sampled state before each chunk, [M, H] each.
        first: [M] bool; whether the chunk begins a lifetime.
        actions: [K, M, A] in policy units; or [K, M] counted from 0.
        log_probs: [K, M], of the policy that sampled.
        advantages: [K, M], normalized.
        targets: [K, M], of the critic.
        hints: [K, M, D + 2]: the task and the time, for the critic.
        mask: [K, M] float; 1 where there is a step.
    """

    inputs: MemoryInputs
    state: tuple[torch.Tensor, ...]
    first: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    advantages: torch.Tensor
    targets: torch.Tensor
    hints: torch.Tensor
    mask: torch.Tensor

    def select(self, chunks: torch.Tensor) -> "Chunks":
        """The chunks of some numbers."""
        inputs = {field.name: getattr(self.inputs, field.name) for field in dataclasses.fields(MemoryInputs)}
        return Chunks(
            MemoryInputs(**{name: value[:, chunks] for name, value in inputs.items()}),
            tuple(each[chunks] for each in self.state),
            self.first[chunks],
            *(
                each[:, chunks]
                for each in (
                    self.actions,
                    self.log_probs,
                    self.advantages,
                    self.targets,
                    self.hints,
                    self.mask,
                )
            ),
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """The outcome of PPO's epochs.

    Attributes:
        parameters: of the policy, the critic and the task's prediction.
        optimizer_state: Adam's.
        kl_divergence: mean KL(π_old ‖ π) of the last minibatches, in nats.
        improvement: mean increase of the clipped objective over the last minibatches.
        value_error: mean squared error of the critic there, in its units.
        task_error: mean squared error of the task's prediction there, in deviations squared.
    """

    parameters: Parameters
    optimizer_state: Parameters
    kl_divergence: float
    improvement: float
    value_error: float
    task_error: float


def fit(
    policy: RecurrentPolicy,
    parameters: Parameters,
    optimizer_state: Parameters,
    chunks: Chunks,
    spec: RL2Spec,
    rng: np.random.Generator,
    map_tasks: MapTasks,
) -> Fit:
    """Takes epochs of Adam on the chunks, until one has moved the policy by more than `spec.max_kl`.

    A minibatch that finds the policy at more than twice `max_kl` takes no step, and none follows. The learning rate
    then falls, and later recovers: as a policy's noise shrinks, steps of one length move it farther.

    Args:
        policy: the network that sampled them.
        parameters: of the policy, the critic and the task's prediction.
        optimizer_state: Adam's, from the last call; empty at first.
        chunks: of one iteration.
        spec: the settings.
        rng: shuffles the chunks.
        map_tasks: shares the parts of a minibatch between threads; results do not depend on their number.
    """
    names = sorted(parameters)  # a checkpoint keeps no order, and the gradient's norm depends on it by rounding
    leaves = [parameters[name].detach().clone().requires_grad_() for name in names]
    pace = float(optimizer_state.get(PACE, torch.ones(())))
    optimizer = torch.optim.Adam(leaves, lr=pace * spec.learning_rate, eps=1e-5)
    for name, leaf in zip(names, leaves, strict=True):
        if f"adam.step.{name}" in optimizer_state:
            optimizer.state[leaf] = {key: optimizer_state[f"adam.{key}.{name}"].clone() for key in _ADAM}
    point = dict(zip(names, leaves, strict=True))
    used = np.flatnonzero(chunks.mask.any(0).numpy())
    found: list[npt.NDArray[np.float64]] = []
    farthest = 0.0
    for _ in range(spec.epochs):
        if farthest > spec.max_kl:
            break
        found = []
        for minibatch in np.array_split(rng.permutation(used), min(spec.minibatches, len(used))):
            parts = [chunks.select(torch.from_numpy(part)) for part in np.array_split(minibatch, _SHARDS) if len(part)]
            steps = sum(float(part.mask.sum()) for part in parts)
            results = map_tasks(_gradient_of(policy, point, steps, spec), parts)
            found.append(np.sum([numbers for _, numbers in results], 0))
            farthest = float(np.mean(found, 0)[0])
            if not found[-1][0] <= _FAR * spec.max_kl:  # NaN, too
                farthest = float(found[-1][0])
                break
            for leaf, *each in zip(leaves, *(gradient for gradient, _ in results), strict=True):
                leaf.grad = sum(each[1:], each[0])
            torch.nn.utils.clip_grad_norm_(leaves, spec.max_gradient_norm)
            optimizer.step()
        else:
            continue
        break
    if not farthest <= spec.max_kl:
        pace *= _SLOWER
    elif farthest < spec.max_kl / 3.0:
        pace = min(1.0, pace * _FASTER)
    measured = np.mean(found, 0)
    state = {
        f"adam.{key}.{name}": optimizer.state[leaf][key]
        for name, leaf in zip(names, leaves, strict=True)
        for key in _ADAM
        if leaf in optimizer.state
    }
    state[PACE] = torch.tensor(pace, dtype=torch.float64)
    fitted = {name: leaf.detach() for name, leaf in point.items()}
    return Fit(fitted, state, **dict(zip(_MEASURED, measured.tolist(), strict=True)))


_Result = tuple[tuple[torch.Tensor, ...], np.ndarray[tuple[int], np.dtype[np.float64]]]


def _gradient_of(
    policy: RecurrentPolicy, parameters: Parameters, steps: float, spec: RL2Spec
) -> Callable[[Chunks], _Result]:
    """The function that returns the gradient of some chunks' part of the loss, and what `Fit` reports of them."""

    def gradient(chunks: Chunks) -> _Result:
        loss, numbers = _loss(policy, parameters, chunks, steps, spec)
        found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        return found, torch.stack(numbers).detach().double().numpy()

    return gradient


def _loss(
    policy: RecurrentPolicy, parameters: Parameters, chunks: Chunks, steps: float, spec: RL2Spec
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of some chunks, as their part of a mean over `steps` steps; and KL, improvement and both errors."""
    weights = chunks.mask / steps
    initial = policy.initial_state(parameters, len(chunks.first))
    begins = chunks.first.unsqueeze(-1)
    state = tuple(torch.where(begins, at, sampled) for at, sampled in zip(initial, chunks.state, strict=True))
    outputs, remembered, _ = policy.unroll(parameters, chunks.inputs, state)

    log_ratio = (policy.log_prob(outputs, chunks.actions) - chunks.log_probs) * chunks.mask
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - spec.clip_range, 1.0 + spec.clip_range)
    gain = torch.minimum(ratio * chunks.advantages, clipped * chunks.advantages)
    improvement = ((gain - chunks.advantages) * weights).sum()
    kl = ((ratio - 1.0 - log_ratio) * weights).sum()

    observations, factor = policy.normalization
    read = (chunks.inputs.observations - observations) * factor
    values = criticize(parameters, torch.cat([read, remembered, chunks.hints], -1))
    value_error = ((values - chunks.targets).square() * weights).sum()
    loss = -improvement + spec.value_weight * value_error
    task_error = torch.zeros(())
    if spec.task_weight:
        predicted = torch.nn.functional.linear(remembered, parameters[TASK_WEIGHT], parameters[TASK_BIAS])
        task = chunks.hints[..., :-2]
        task_error = ((predicted - task).square().mean(-1) * weights).sum()
        loss = loss + spec.task_weight * task_error
    if spec.entropy_weight:
        entropy = policy.distribution_of(outputs).entropy()
        loss = loss - spec.entropy_weight * (entropy * weights).sum()
    return loss, [kl, improvement, value_error, task_error]
