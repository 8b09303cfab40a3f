"""Collecting trajectories with a policy, from any Gymnasium `Env` or `VectorEnv`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client._collect.spaces import check_environment, is_vector
from thetaprime.client._errors import CollectionError, InvalidInputError, ThetaPrimeError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._rpc.deadline import Check, Interrupted

# Beside the environment's seed in the policy's, so that one seed does not give both the same numbers.
_POLICY_STREAM: Final = 0x7E7A
# The values of gymnasium.vector.AutoresetMode.
_NEXT_STEP: Final = "NextStep"
_SAME_STEP: Final = "SameStep"
_DISABLED: Final = "Disabled"

Counted = Callable[[int], None]
"""Called after each episode, with the number of episodes so far."""


def collect(
    policy: AdaptedPolicy,
    env: Any,
    trajectories: int,
    *,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[wire.Trajectory]:
    """Runs whole episodes with stochastic actions, as the inner loop's estimator assumes.

    Of a `VectorEnv` every sub-environment starts an episode, and the next ones start once all have ended:
    which episodes are kept never depends on how long they are. (Keeping the first to finish would favor
    short ones.) An episode still running at the policy's horizon is truncated there.

    Args:
        policy: the behavior policy.
        env: a Gymnasium `Env` or `VectorEnv` (any autoreset mode). It is reset, and not closed.
        trajectories: how many episodes to collect.
        seed: seed of the environment's first reset and of the actions; None leaves both to chance.
        progress: called after each episode, with the number of episodes so far.

    Returns:
        The trajectories: float32 observations, unclipped float32 actions in the policy's units (or int64
        indices counted from 0), float32 rewards.

    Raises:
        InvalidInputError: the environment does not fit the policy, or gives an observation that is not finite.
        CollectionError: the environment raised an error. Its `trajectories` are the episodes that were whole.
    """
    check_environment(env, policy.contract)
    collected: list[wire.Trajectory] = []
    collect_into(collected, policy, env, trajectories, seed=seed, progress=progress or _unheard, check=_unhindered)
    return collected


def collect_into(
    collected: list[wire.Trajectory],
    policy: AdaptedPolicy,
    env: Any,
    trajectories: int,
    *,
    seed: int | None,
    progress: Counted,
    check: Check,
) -> None:
    """As `collect`, into a list that holds what was collected whatever happens.

    Args:
        collected: where the trajectories go.
        policy: the behavior policy.
        env: an environment that fits it.
        trajectories: how many there are to be.
        seed: as `collect`'s.
        progress: called after each episode.
        check: called before each step; what it raises ends the work.
    """
    if trajectories < 1:
        raise InvalidInputError.at("trajectories", f"{trajectories}; expected at least 1")
    rng = np.random.default_rng(None if seed is None else [seed, _POLICY_STREAM])
    wave = _VectorWave(policy, env, rng, check) if is_vector(env) else _SingleWave(policy, env, rng, check)
    while len(collected) < trajectories:
        reset_seed = None if collected else seed
        with collection_errors("the environment", collected, trajectories):
            collected += wave.run(trajectories - len(collected), reset_seed)
        progress(len(collected))


def take_into(
    collected: list[wire.Trajectory],
    found: Iterable[wire.Trajectory],
    trajectories: int,
    *,
    progress: Counted,
    check: Check,
) -> None:
    """Takes what a collector gives, one by one, into a list that holds it whatever happens.

    Raises:
        InvalidInputError: it gave nothing, or something else than trajectories.
        CollectionError: it failed in the middle.
    """
    before = len(collected)
    if not isinstance(found, Iterable):
        raise InvalidInputError.at("env", f"the collector returned {type(found).__name__}; expected trajectories")
    episodes = iter(found)
    while True:
        check()
        with collection_errors("the collector", collected, trajectories):
            episode = next(episodes, None)
        if episode is None:
            break
        if not isinstance(episode, wire.Trajectory):
            raise InvalidInputError.at("env", f"the collector gave {type(episode).__name__}; expected a Trajectory")
        collected.append(episode)
        progress(len(collected))
    if len(collected) == before:
        raise InvalidInputError.at("env", f"the collector gave no trajectory; expected {trajectories - before}")


@contextlib.contextmanager
def collection_errors(what: str, collected: list[wire.Trajectory], trajectories: int) -> Iterator[None]:
    """Turns what somebody else's code raises into `CollectionError`."""
    try:
        yield
    except (ThetaPrimeError, Interrupted):
        raise
    except Exception as error:
        raise CollectionError(
            f"{what} failed after {len(collected)} of {trajectories} trajectories: {type(error).__name__}: {error}",
            trajectories=collected,
        ) from error


def _unheard(collected: int) -> None:
    pass


def _unhindered() -> None:
    pass


class _Episode:
    """One episode, as it grows."""

    def __init__(self, contract: wire.EnvironmentContract) -> None:
        self._horizon = contract.horizon
        self._dtype = _action_dtype(contract)
        self._observations: list[npt.NDArray[Any]] = []
        self._actions: list[Any] = []
        self._rewards: list[float] = []

    def add(self, observation: npt.NDArray[Any], action: Any, reward: float) -> None:
        self._observations.append(observation)
        self._actions.append(action)
        self._rewards.append(reward)

    @property
    def at_horizon(self) -> bool:
        return len(self._rewards) >= self._horizon > 0

    def finish(
        self, final_observation: npt.NDArray[Any], *, terminated: bool, truncated: bool, policy_id: str
    ) -> wire.Trajectory:
        return wire.Trajectory(
            observations=np.asarray(self._observations, np.float32),
            actions=np.asarray(self._actions, self._dtype),
            rewards=np.asarray(self._rewards, np.float32),
            terminated=terminated,
            truncated=truncated or not terminated,  # at the horizon it is we who cut
            final_observation=np.asarray(final_observation, np.float32),
            policy_id=policy_id,
        )


class _SingleWave:
    """One episode of an `Env`."""

    def __init__(self, policy: AdaptedPolicy, env: Any, rng: np.random.Generator, check: Check) -> None:
        self._policy = policy
        self._env = env
        self._rng = rng
        self._check = check

    def run(self, wanted: int, seed: int | None) -> list[wire.Trajectory]:
        policy, env = self._policy, self._env
        dtype = env.action_space.dtype
        episode = _Episode(policy.contract)
        observation, _ = env.reset(seed=seed)
        while True:
            # Copied: an environment may write its next observation into the same array.
            observation = np.array(observation, dtype=np.float32)
            env_action, action = policy.sample(observation, rng=self._rng)
            self._check()
            next_observation, reward, terminated, truncated, _ = env.step(env_action.astype(dtype))
            episode.add(observation, action, float(reward))
            if terminated or truncated or episode.at_horizon:
                return [
                    episode.finish(
                        next_observation,
                        terminated=bool(terminated),
                        truncated=bool(truncated),
                        policy_id=policy.policy_id,
                    )
                ]
            observation = next_observation


class _VectorWave:
    """One episode of each sub-environment of a `VectorEnv`, all started together."""

    def __init__(self, policy: AdaptedPolicy, env: Any, rng: np.random.Generator, check: Check) -> None:
        self._policy = policy
        self._env = env
        self._rng = rng
        self._check = check
        mode = env.metadata.get("autoreset_mode")
        self._mode = getattr(mode, "value", mode)
        if self._mode not in (_NEXT_STEP, _SAME_STEP, _DISABLED):
            raise InvalidInputError.at(
                'env.metadata["autoreset_mode"]',
                f"{mode!r}; expected a gymnasium.vector.AutoresetMode, which tells where the last observation "
                "of an episode is found",
            )

    def run(self, wanted: int, seed: int | None) -> list[wire.Trajectory]:
        policy, env, horizon = self._policy, self._env, self._policy.contract.horizon
        dtype = env.single_action_space.dtype
        running = np.zeros(env.num_envs, np.bool_)
        running[:wanted] = True
        ends: dict[int, _End] = {}
        # Steps are kept whole, and cut into episodes at the end: no loop over sub-environments in each step.
        steps: list[tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float32]]] = []
        observations, _ = env.reset(seed=seed)
        while len(ends) < min(wanted, env.num_envs):
            self._check()
            # Copied: an environment may write its next observations and rewards into the same arrays.
            observations = np.array(observations, dtype=np.float32)
            env_actions, actions = policy.sample(observations, rng=self._rng)
            next_observations, rewards, terminated, truncated, infos = env.step(env_actions.astype(dtype, copy=False))
            steps.append((observations, actions, np.array(rewards, dtype=np.float32)))
            done = np.logical_or(terminated, truncated)
            any_done = b"\1" in done.tobytes()  # ten times as fast as any()
            if not any_done and len(steps) != horizon:
                observations = next_observations
                continue
            # Who has ended waits for the others; what its sub-environment does meanwhile is not ours.
            for i in np.flatnonzero(running & (done | (len(steps) == horizon))):
                moved_on = done[i] and self._mode == _SAME_STEP
                final = infos["final_obs"][i] if moved_on else next_observations[i]
                ends[int(i)] = _End(len(steps), np.array(final, np.float32), bool(terminated[i]), bool(truncated[i]))
                running[i] = False
            if self._mode == _DISABLED and any_done and running.any():
                next_observations, _ = env.reset(options={"reset_mask": done})
            observations = next_observations
        columns = [np.stack(column) for column in zip(*steps, strict=True)]
        return [self._episode(columns, i, ends[i]) for i in sorted(ends)]

    def _episode(self, columns: list[npt.NDArray[Any]], index: int, end: "_End") -> wire.Trajectory:
        # [H, B, ...] -> [H_i, ...], of the sub-environment alone.
        observations, actions, rewards = (np.ascontiguousarray(column[: end.steps, index]) for column in columns)
        return wire.Trajectory(
            observations=observations,
            actions=actions.astype(_action_dtype(self._policy.contract), copy=False),
            rewards=rewards,
            terminated=end.terminated,
            truncated=end.truncated or not end.terminated,  # at the horizon it is we who cut
            final_observation=end.final_observation,
            policy_id=self._policy.policy_id,
        )


class _End(NamedTuple):
    """How an episode of a `VectorEnv` ended, after so many steps."""

    steps: int
    final_observation: npt.NDArray[np.float32]
    terminated: bool
    truncated: bool


def _action_dtype(contract: wire.EnvironmentContract) -> type[np.float32] | type[np.int64]:
    return np.int64 if contract.action_kind is wire.ActionKind.DISCRETE else np.float32
