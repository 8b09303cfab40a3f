"""Samples lifetimes of a policy that remembers: several episodes of one task, with the memory kept between them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import MemoryInputs, Parameters, RecurrentPolicy
from thetaprime.training.sampling.sampler import flat_observations, judge_losses
from thetaprime.training.tasks.distributions import make_vector
from thetaprime.training.tasks.environment_share import Loss
from thetaprime.training.tasks.protocol import Park, Task, TaskDistribution

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Lifetimes:
    """One lifetime of each of T tasks, time first. L is the longest one's number of steps; shorter ones are padded.

    Attributes:
        observations: [L, T, O] float32.
        previous_actions: [L, T, A] float32 in policy units, clipped; or [L, T] int64 counted from 0, −1 for none.
        previous_rewards: [L, T] float32.
        episode_starts: [L, T] float32; see `MemoryInputs`.
        actions: [L, T, A] float32 in policy units, unclipped; or [L, T] int64 counted from 0.
        rewards: [L, T] float32, zero in the padding.
        episodes: [L, T] int64: the number of each step's episode, from 0; −1 in the padding.
        times: [L, T] int64: the number of each step within its episode, from 0.
        heads: [L, T, A] float32: the head's output, from which the action was drawn.
        states: the memory's state after each step, [L, T, H] each.
    """

    observations: Array
    previous_actions: Array
    previous_rewards: Array
    episode_starts: Array
    actions: Array
    rewards: Array
    episodes: Array
    times: Array
    heads: Array
    states: tuple[Array, ...]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """[L, T]: where there is a step."""
        found: npt.NDArray[np.bool_] = self.episodes >= 0
        return found

    @property
    def inputs(self) -> MemoryInputs:
        """What the memory read at each step."""
        arrays = (self.observations, self.previous_actions, self.previous_rewards, self.episode_starts)
        return MemoryInputs(*(torch.from_numpy(each) for each in arrays))

    @property
    def steps(self) -> int:
        """The number of steps of all lifetimes."""
        return int(self.mask.sum())

    def returns(self, episodes: int) -> npt.NDArray[np.float64]:
        """[n, T]: the undiscounted return of each of the first n episodes of each lifetime."""
        rewards = self.rewards.astype(np.float64)
        return np.stack([(rewards * (self.episodes == number)).sum(0) for number in range(episodes)])


def collect_lifetimes(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: RecurrentPolicy,
    parameters: Parameters,
    episodes: int,
    *,
    rng: np.random.Generator,
) -> Lifetimes:
    """Samples one lifetime of each task, all side by side.

    A lifetime is `episodes` whole episodes. The memory begins in its initial state and is kept from one episode to the
    next. A lifetime whose environment fails is sampled again, as `collect` does.

    Args:
        distribution: makes the environments.
        tasks: T tasks; for several lifetimes of a task, name it several times.
        policy: the network.
        parameters: θ.
        episodes: n.
        rng: seeds the environments and the action noise.

    Raises:
        WorkerError: an environment failed more often in succession than `restarts` allows, or all of them failed.
    """
    constants = {name: value.detach() for name, value in parameters.items()}
    missing, failures = list(range(len(tasks))), dict[int, int]()
    whole: Lifetimes | None = None
    while True:
        found, lost, losses = _sample(distribution, [tasks[row] for row in missing], policy, constants, episodes, rng)
        if whole is None:
            whole = found
        else:
            kept = [row for row, gone in zip(missing, lost, strict=True) if not gone]
            whole = _replaced(whole, kept, found, ~lost)
        for row, gone in zip(missing, lost, strict=True):
            if not gone:
                failures.pop(row, None)
        judge_losses(losses, missing, 1, failures, tasks)
        missing = [row for row, gone in zip(missing, lost, strict=True) if gone]
        if not missing:
            return whole


def _replaced(whole: Lifetimes, rows: list[int], other: Lifetimes, of: npt.NDArray[np.bool_]) -> Lifetimes:
    """The lifetimes with some columns replaced by those of others, padded to the longer of both."""

    def put(here: Array, there: Array, fill: int = 0) -> Array:
        length = max(len(here), len(there))
        result = np.full((length, *here.shape[1:]), fill, here.dtype)
        result[: len(here)] = here
        result[:, rows] = fill
        result[: len(there), rows] = there[:, of]
        return result

    fields = {field.name for field in dataclasses.fields(whole)} - {"states", "episodes"}
    states = zip(whole.states, other.states, strict=True)
    return Lifetimes(
        **{name: put(getattr(whole, name), getattr(other, name)) for name in fields},
        episodes=put(whole.episodes, other.episodes, -1),
        states=tuple(put(here, there) for here, there in states),
    )


@torch.no_grad()
def _sample(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: RecurrentPolicy,
    parameters: Parameters,
    episodes: int,
    rng: np.random.Generator,
) -> tuple[Lifetimes, npt.NDArray[np.bool_], Sequence[Loss]]:
    """A lifetime of each task, which of them are lost, and the losses."""
    T = len(tasks)
    longest = episodes * policy.environment.horizon
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    env = make_vector(distribution, tasks)
    park: Park | None = getattr(env, "park", None)
    tolerate: Callable[[], Sequence[Loss]] | None = getattr(env, "tolerate", None)
    losses = () if tolerate is None else tolerate()
    try:
        raw, _ = env.reset(seed=int(rng.integers(2**31)))
        observation = flat_observations(raw, T)
        state = policy.initial_state(parameters, T)
        record = _Record(policy, longest, observation, state)
        first = policy.first_inputs(torch.from_numpy(observation))
        action, reward, flag = (
            each.numpy() for each in (first.previous_actions, first.previous_rewards, first.episode_starts)
        )
        counts, begun, times = np.zeros(T, np.int64), np.zeros(T, np.int64), np.zeros(T, np.int64)
        running, resetting, lost = np.ones(T, np.bool_), np.zeros(T, np.bool_), np.zeros(T, np.bool_)
        taken: Array | None = None
        while True:
            if losses:
                lost[[loss.row for loss in losses]] = True
                running &= ~lost
            if not running.any():
                break
            acting = running & ~resetting
            if acting.any():
                inputs = MemoryInputs(*(torch.from_numpy(each) for each in (observation, action, reward, flag)))
                outputs, after = policy.step(parameters, inputs, state)
                drawn = policy.sample_of(outputs, generator)
                sent = policy.to_environment(drawn)
                rows = np.flatnonzero(acting)
                at = (counts[rows], rows)
                record.put(at, inputs, drawn, outputs[0], after)
                if acting.all():
                    state = after
                else:
                    where = torch.from_numpy(acting).unsqueeze(-1)
                    state = tuple(torch.where(where, new, old) for new, old in zip(after, state, strict=True))
                record.episodes[at], record.times[at] = begun[rows], times[rows]
                # The memory reads the action that the environment took.
                read = policy.from_environment(sent).numpy()
                action = _where(acting, read, action)
                taken = sent.numpy()
            raw, rewarded, ends, cut, _ = env.step(taken)
            observation = flat_observations(raw, T)
            if acting.any():
                record.rewards[at] = rewarded[rows]
                reward = np.where(acting, rewarded, reward).astype(np.float32)
            counts += acting
            times = np.where(acting, times + 1, 0)
            flag = resetting.astype(np.float32)
            over = acting & (ends | cut)
            begun += over
            ended = running & (begun == episodes)
            running &= ~ended
            resetting = over & running
            times[resetting] = 0
            if park is not None:
                park(ended)
        lost[[loss.row for loss in losses]] = True
    finally:
        env.close()
    record.episodes[:, lost] = -1
    return record.lifetimes(int(counts.max())), lost, losses


def _where(rows: npt.NDArray[np.bool_], new: Array, old: Array) -> Array:
    if rows.all():
        return new
    return np.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


class _Record:
    """The steps of the lifetimes that are being sampled."""

    def __init__(
        self, policy: RecurrentPolicy, steps: int, observation: Array, state: tuple[torch.Tensor, ...]
    ) -> None:
        A = policy.environment.action.size
        rows = (steps, len(observation))
        self.observations = np.zeros((steps, *observation.shape), np.float32)
        if policy.continuous:
            self.previous_actions = np.zeros((*rows, A), np.float32)
        else:
            self.previous_actions = np.full(rows, -1)
        self.previous_rewards, self.episode_starts = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        self.actions, self.rewards = np.zeros_like(self.previous_actions), np.zeros(rows, np.float32)
        self.episodes, self.times = np.full(rows, -1), np.zeros(rows, np.int64)
        self.heads = np.zeros((*rows, A), np.float32)
        self.states = tuple(np.zeros((steps, *each.shape), np.float32) for each in state)

    def put(
        self,
        at: tuple[Array, Array],
        inputs: MemoryInputs,
        actions: torch.Tensor,
        heads: torch.Tensor,
        state: tuple[torch.Tensor, ...],
    ) -> None:
        """Keeps a step of some rows."""
        rows = at[1]
        for array, values in (
            (self.observations, inputs.observations),
            (self.previous_actions, inputs.previous_actions),
            (self.previous_rewards, inputs.previous_rewards),
            (self.episode_starts, inputs.episode_starts),
            (self.actions, actions),
            (self.heads, heads),
            *zip(self.states, state, strict=True),
        ):
            array[at] = values.numpy()[rows]

    def lifetimes(self, steps: int) -> Lifetimes:
        """The lifetimes, of which the longest has so many steps."""
        names = {field.name for field in dataclasses.fields(Lifetimes)} - {"states"}
        return Lifetimes(
            **{name: getattr(self, name)[:steps] for name in names}, states=tuple(each[:steps] for each in self.states)
        )
