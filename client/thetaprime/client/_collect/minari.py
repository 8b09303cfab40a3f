"""Reads and writes datasets of Minari, the Farama Foundation's format for offline reinforcement learning.

Minari is imported on the first call.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError
from thetaprime.client._policy.inference import Exploration

# Additional fields of the datasets: the action in the policy's units, before scaling and clipping, and the policy's id.
_ACTION: Final = "thetaprime_action"
_POLICY_ID: Final = "thetaprime_policy_id"


def to_minari(
    trajectories: Sequence[wire.Trajectory], dataset_id: str, contract: wire.EnvironmentContract, **metadata: Any
) -> Any:
    """Writes trajectories as a local Minari dataset.

    The dataset's actions are in the environment's units, scaled and clipped. An additional field keeps the actions in
    the policy's units, so that `from_minari` returns equal trajectories.

    Args:
        trajectories: whole episodes, at least one.
        dataset_id: id of a new dataset, such as ``pendulum/adapted-v0``.
        contract: the environment's contract, `AdaptedPolicy.contract`.
        metadata: more arguments of `minari.create_dataset_from_buffers` (``author="..."``).

    Returns:
        The `minari.MinariDataset`.

    Raises:
        InvalidInputError: Minari is not installed, the dataset exists, or a trajectory violates the contract.
    """
    minari, spaces = _minari()
    if not trajectories:
        raise InvalidInputError.at("trajectories", "empty; expected at least one")
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)  # Minari's own refusal leaves a folder behind
    except ValueError as error:
        raise InvalidInputError.at("dataset_id", str(error)) from error
    exploration = _exploration(contract)
    buffers = []
    for index, each in enumerate(trajectories):
        _validate(each, contract, f"trajectories[{index}]")
        # The first entry of the infos belongs to the reset, which has no action.
        chosen = np.concatenate([np.zeros_like(each.actions[:1]), each.actions])
        last = np.arange(len(each)) == len(each) - 1
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=np.concatenate([each.observations, each.final_observation[None]]).astype(np.float32),
                actions=exploration.to_environment(each.actions),
                rewards=each.rewards,
                terminations=last & each.terminated,
                truncations=last & each.truncated,
                infos={_ACTION: chosen},
            )
        )
    metadata.setdefault("algorithm_name", "ThetaPrime")
    with warnings.catch_warnings():
        # Minari warns of metadata that its public collection requires.
        warnings.filterwarnings("ignore", ".*(is set to|env_spec is) None", UserWarning)
        try:
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=spaces.Box(-np.inf, np.inf, contract.observation_shape, np.float32),
                action_space=_action_space(spaces, contract),
                **metadata,
            )
        except ValueError as error:  # the dataset exists
            raise InvalidInputError.at("dataset_id", str(error)) from error
    dataset.storage.update_episode_metadata(
        [{_POLICY_ID: each.policy_id} for each in trajectories], range(len(trajectories))
    )
    return dataset


def from_minari(
    dataset: Any, contract: wire.EnvironmentContract, *, policy_id: str | None = None
) -> list[wire.Trajectory]:
    """Reads the episodes of a Minari dataset as trajectories.

    The server accepts only trajectories that the session's current policy collected with stochastic actions.

    Args:
        dataset: a `minari.MinariDataset`, or an object with its `iterate_episodes` and `storage`.
        contract: the environment's contract, `AdaptedPolicy.contract`.
        policy_id: id of the behavior policy, for datasets without it.

    Returns:
        One trajectory for each episode: float32 observations and rewards, actions in the policy's units.

    Raises:
        InvalidInputError: an episode violates the contract, has no policy id, or has a clipped action without the
            action in the policy's units.
    """
    exploration = _exploration(contract)
    box = contract.action_kind is wire.ActionKind.BOX
    found = []
    for index, episode in enumerate(dataset.iterate_episodes()):
        field = f"episodes[{index}]"
        (extra,) = dataset.storage.get_episode_metadata([episode.id])
        behavior = extra.get(_POLICY_ID, policy_id)
        if not behavior:
            raise InvalidInputError.at(f"{field}.policy_id", "missing in the dataset; expected policy_id=...")
        observations = _array(episode.observations, f"{field}.observations", np.float32)
        chosen = (episode.infos or {}).get(_ACTION)
        if chosen is not None:
            actions = np.asarray(chosen)[1:]
        else:
            taken = _array(episode.actions, f"{field}.actions", np.float64 if box else np.int64)
            _fits(taken, contract, f"{field}.actions")
            clipped = exploration.clipped(taken)
            if clipped.any():
                place = "".join(f"[{i}]" for i in np.argwhere(clipped)[0])
                raise InvalidInputError.at(
                    f"{field}.actions{place}",
                    "on the bound: the action before clipping is not known",
                )
            actions = exploration.from_environment(taken)
        trajectory = wire.Trajectory(
            observations=observations[:-1],
            actions=np.asarray(actions, np.float32 if box else np.int64),
            rewards=_array(episode.rewards, f"{field}.rewards", np.float32),
            terminated=bool(np.asarray(episode.terminations)[-1:].any()),
            truncated=bool(np.asarray(episode.truncations)[-1:].any()),
            final_observation=observations[-1],
            policy_id=str(behavior),
        )
        _validate(trajectory, contract, field)
        found.append(trajectory)
    return found


def _minari() -> tuple[Any, Any]:
    try:
        import minari
        import minari.data_collector
        from gymnasium import spaces
    except ModuleNotFoundError as error:
        raise InvalidInputError.at("minari", "needs an extra: pip install 'thetaprime[minari]'") from error
    return minari, spaces


def _action_space(spaces: Any, contract: wire.EnvironmentContract) -> Any:
    if contract.action_kind is wire.ActionKind.DISCRETE:
        return spaces.Discrete(contract.action_size, start=contract.action_start)
    return spaces.Box(np.asarray(contract.action_low, np.float32), np.asarray(contract.action_high, np.float32))


def _exploration(contract: wire.EnvironmentContract) -> Exploration:
    return Exploration(contract, np.zeros(contract.action_size, np.float32), 0)


def _array(value: Any, field: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    if isinstance(value, (dict, tuple)):
        raise InvalidInputError.at(field, f"{type(value).__name__} of arrays; expected one array")
    return np.asarray(value).astype(dtype)


def _fits(actions: npt.NDArray[Any], contract: wire.EnvironmentContract, field: str) -> None:
    tail = (contract.action_size,) if contract.action_kind is wire.ActionKind.BOX else ()
    if actions.shape[1:] != tail:
        raise InvalidInputError.at(field, f"shape {list(actions.shape)}; expected {['H', *tail]}".replace("'", ""))


def _validate(trajectory: wire.Trajectory, contract: wire.EnvironmentContract, field: str) -> None:
    try:
        wire.validate(trajectory, contract, field)
    except wire.WireError as error:
        raise InvalidInputError.at(error.field, error.problem) from error
