"""Collects trajectories with a policy, from any Gymnasium `Env` or `VectorEnv`."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client._collect.acting import Acting
from thetaprime.client._collect.spaces import check_environment, is_vector
from thetaprime.client._errors import CollectionError, InvalidInputError, ThetaPrimeError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._rpc.deadline import Check, Interrupted

# Mixed into the policy's seed: with equal seeds, environment and policy would draw the same numbers.
_POLICY_STREAM: Final = 0x7E7A
# The values of gymnasium.vector.AutoresetMode.
_NEXT_STEP: Final = "NextStep"
_SAME_STEP: Final = "SameStep"
_DISABLED: Final = "Disabled"

CountEpisodes = Callable[[int], None]
"""Called after each episode with the number of episodes so far."""


def collect(
    policy: AdaptedPolicy,
    env: Any,
    trajectories: int,
    *,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[wire.Trajectory]:
    """Collects whole episodes with stochastic actions, as the inner loop's estimator assumes.

    All sub-environments of a `VectorEnv` start an episode together, and start the next one when all have ended. (To
    keep the first episodes to finish would favor short episodes.) The policy's horizon truncates an episode.

    A policy with a memory begins one lifetime in each environment, and keeps it from episode to episode. What the
    policy itself remembers does not change.

    Args:
        policy: the behavior policy.
        env: a Gymnasium `Env` or `VectorEnv` with any autoreset mode. It is reset, and stays open.
        trajectories: number of episodes.
        seed: seed of the environment's first reset and of the actions; None draws seeds from the system.
        progress: called after each episode with the number of episodes so far.

    Returns:
        The trajectories: float32 observations, unclipped float32 actions in the policy's units (or int64
        indices counted from 0), float32 rewards.

    Raises:
        InvalidInputError: the environment does not match the policy, or returns an observation that is not finite.
        CollectionError: the environment raised an error. Its `trajectories` are the complete episodes.
    """
    check_environment(env, policy.contract)
    collected: list[wire.Trajectory] = []
    collect_into(
        collected,
        policy,
        env,
        trajectories,
        seed=seed,
        progress=progress or (lambda collected: None),
        check=lambda: None,
    )
    return collected


def collect_into(
    collected: list[wire.Trajectory],
    policy: AdaptedPolicy,
    env: Any,
    trajectories: int,
    *,
    seed: int | None,
    progress: CountEpisodes,
    check: Check,
) -> None:
    """Appends trajectories to a list, which keeps the complete episodes if the work ends early.

    Args:
        collected: the list.
        policy: the behavior policy.
        env: an environment that matches the policy.
        trajectories: the length that the list is to reach.
        seed: as `collect`'s.
        progress: called after each episode.
        check: called before each step; an exception that it raises ends the work.
    """
    if trajectories < 1:
        raise InvalidInputError.at("trajectories", f"{trajectories}; expected at least 1")
    rng = np.random.default_rng(None if seed is None else [seed, _POLICY_STREAM])
    acting = Acting(policy, env.num_envs if is_vector(env) else 1, rng)
    if is_vector(env):
        run = functools.partial(_run_vector, policy, env, _autoreset_mode(env), acting, check)
    else:
        run = functools.partial(_run_single, policy, env, acting, check)
    while len(collected) < trajectories:
        reset_seed = None if collected else seed
        with collection_errors("the environment", collected, trajectories):
            collected += run(trajectories - len(collected), reset_seed)
        progress(len(collected))


def take_into(
    collected: list[wire.Trajectory],
    found: Iterable[wire.Trajectory],
    trajectories: int,
    *,
    progress: CountEpisodes,
    check: Check,
) -> None:
    """Appends a collector's trajectories one by one to a list, which keeps them if the work ends early.

    Raises:
        InvalidInputError: the collector returned no trajectory, or an object of another type.
        CollectionError: the collector raised an error.
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
            raise InvalidInputError.at("env", f"the collector returned {type(episode).__name__}; expected a Trajectory")
        collected.append(episode)
        progress(len(collected))
    if len(collected) == before:
        raise InvalidInputError.at("env", f"the collector returned no trajectory; expected {trajectories - before}")


@contextlib.contextmanager
def collection_errors(what: str, collected: list[wire.Trajectory], trajectories: int) -> Iterator[None]:
    """Turns exceptions of an environment or a collector into `CollectionError`."""
    try:
        yield
    except (ThetaPrimeError, Interrupted):
        raise
    except Exception as error:
        raise CollectionError(
            f"{what} failed after {len(collected)} of {trajectories} trajectories: {type(error).__name__}: {error}",
            trajectories=collected,
        ) from error


def _run_single(
    policy: AdaptedPolicy, env: Any, acting: Acting, check: Check, wanted: int, seed: int | None
) -> list[wire.Trajectory]:
    """Collects one episode of an `Env`."""
    dtype, horizon = env.action_space.dtype, policy.contract.horizon
    observations: list[npt.NDArray[np.float32]] = []
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = False
    running = np.ones(1, np.bool_)
    next_observation, _ = env.reset(seed=seed)
    while not (terminated or truncated or len(rewards) == horizon > 0):
        # Copied: an environment may reuse the array for its next observation.
        observation = np.array(next_observation, dtype=np.float32)
        env_action, action = acting.sample(observation, running)
        check()
        next_observation, reward, terminated, truncated, _ = env.step(env_action.astype(dtype))
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        acting.observe([float(reward)], [bool(terminated or truncated) or len(rewards) == horizon], running)
    end = _End(len(rewards), np.array(next_observation, np.float32), bool(terminated), bool(truncated))
    columns = np.asarray(observations, np.float32), np.asarray(actions), np.asarray(rewards, np.float32)
    return [_trajectory(policy, end, *columns)]


def _run_vector(
    policy: AdaptedPolicy,
    env: Any,
    mode: str,
    acting: Acting,
    check: Check,
    wanted: int,
    seed: int | None,
) -> list[wire.Trajectory]:
    """Collects one episode of each sub-environment of a `VectorEnv`, all started together."""
    dtype, horizon = env.single_action_space.dtype, policy.contract.horizon
    running = np.zeros(env.num_envs, np.bool_)
    running[:wanted] = True
    ends: dict[int, _End] = {}
    # Steps are cut into episodes at the end: a step has no loop over sub-environments.
    steps: list[tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float32]]] = []
    observations, _ = env.reset(seed=seed)
    while len(ends) < min(wanted, env.num_envs):
        check()
        # Copied: an environment may reuse the arrays for its next observations and rewards.
        observations = np.array(observations, dtype=np.float32)
        env_actions, actions = acting.sample(observations, running)
        next_observations, rewards, terminated, truncated, infos = env.step(env_actions.astype(dtype, copy=False))
        steps.append((observations, actions, np.array(rewards, dtype=np.float32)))
        done = np.logical_or(terminated, truncated)
        acting.observe(rewards, done | (len(steps) == horizon), running)
        any_done = b"\1" in done.tobytes()  # ten times as fast as any()
        if any_done or len(steps) == horizon:
            # A sub-environment whose episode has ended waits for the others; its further steps are discarded.
            for i in np.flatnonzero(running & (done | (len(steps) == horizon))):
                was_reset = done[i] and mode == _SAME_STEP
                final = infos["final_obs"][i] if was_reset else next_observations[i]
                ends[int(i)] = _End(len(steps), np.array(final, np.float32), bool(terminated[i]), bool(truncated[i]))
                running[i] = False
            if mode == _DISABLED and any_done and running.any():
                next_observations, _ = env.reset(options={"reset_mask": done})
        observations = next_observations
    # [H, B, ...], of which sub-environment i has [: H_i, i].
    columns = [np.stack(column) for column in zip(*steps, strict=True)]
    episodes = []
    for index, end in sorted(ends.items()):
        own = (np.ascontiguousarray(column[: end.steps, index]) for column in columns)
        episodes.append(_trajectory(policy, end, *own))
    return episodes


def _autoreset_mode(env: Any) -> str:
    mode = env.metadata.get("autoreset_mode")
    value = getattr(mode, "value", mode)
    if value not in (_NEXT_STEP, _SAME_STEP, _DISABLED):
        raise InvalidInputError.at(
            'env.metadata["autoreset_mode"]',
            f"{mode!r}; expected a gymnasium.vector.AutoresetMode, which locates the last observation of an episode",
        )
    return str(value)


class _End(NamedTuple):
    """The end of an episode."""

    steps: int
    final_observation: npt.NDArray[np.float32]
    terminated: bool
    truncated: bool


def _trajectory(
    policy: AdaptedPolicy,
    end: _End,
    observations: npt.NDArray[np.float32],
    actions: npt.NDArray[Any],
    rewards: npt.NDArray[np.float32],
) -> wire.Trajectory:
    dtype = np.int64 if policy.contract.action_kind is wire.ActionKind.DISCRETE else np.float32
    return wire.Trajectory(
        observations=observations,
        actions=actions.astype(dtype, copy=False),
        rewards=rewards,
        terminated=end.terminated,
        truncated=end.truncated or not end.terminated,  # the horizon truncates
        final_observation=end.final_observation,
        policy_id=policy.policy_id,
    )
