"""The contract of a policy's environment, as both ends of the wire see it."""

import dataclasses
import enum
import math

from thetaprime.v1 import policy_pb2 as pb


class ActionKind(enum.Enum):
    """Kind of an action space."""

    BOX = "box"
    DISCRETE = "discrete"


@dataclasses.dataclass(frozen=True)
class RewardContract:
    """The reward that a meta-policy was trained with.

    Attributes:
        formula: the reward of one step, in words.
        step_range: lowest and highest reward of one step under θ, over meta-training tasks; None if not measured.
        return_range: lowest and highest mean return of θ on a meta-training task; None if not measured.
    """

    formula: str
    step_range: tuple[float, float] | None = None
    return_range: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class EnvironmentContract:
    """The observations that a policy's environment sends, the actions that it takes and the reward that it gives.

    Attributes:
        environment_id: Gymnasium id of the environment the meta-policy was trained on.
        observation_shape: shape of one observation.
        action_kind: box (continuous) or discrete.
        action_size: A, the number of action dimensions, or the number of discrete actions.
        action_low: box: [A] lower bounds in the environment's units, -inf for no bound. Otherwise empty.
        action_high: box: [A] upper bounds likewise.
        action_start: discrete: the environment's number of the first action. Otherwise 0.
        horizon: longest episode, in steps.
        control_timestep: seconds between two actions; 0 if the environment has no clock.
        reward: the reward in meta-training; None if it was not recorded, and in policy files, which do not hold it.
    """

    environment_id: str
    observation_shape: tuple[int, ...]
    action_kind: ActionKind
    action_size: int
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    action_start: int = 0
    horizon: int = 0
    control_timestep: float = 0.0
    reward: RewardContract | None = None

    @property
    def observation_size(self) -> int:
        """O: the length of one flattened observation."""
        return math.prod(self.observation_shape)


def contract_to_message(contract: EnvironmentContract) -> pb.EnvironmentContract:
    """The contract as a message."""
    message = pb.EnvironmentContract(
        environment_id=contract.environment_id,
        observation_shape=contract.observation_shape,
        horizon=contract.horizon,
        control_timestep=contract.control_timestep,
    )
    if contract.action_kind is ActionKind.BOX:
        message.box.CopyFrom(pb.BoxAction(low=contract.action_low, high=contract.action_high))
    else:
        message.discrete.CopyFrom(pb.DiscreteAction(count=contract.action_size, start=contract.action_start))
    if contract.reward is not None:
        message.reward.formula = contract.reward.formula
        _set_range(message.reward.step_range, contract.reward.step_range)
        _set_range(message.reward.return_range, contract.reward.return_range)
    return message


def _set_range(message: pb.Range, bounds: tuple[float, float] | None) -> None:
    if bounds is not None:
        # A range from 0 to 0 is set, too.
        message.SetInParent()
        message.low, message.high = bounds


def contract_from_message(message: pb.EnvironmentContract) -> EnvironmentContract:
    """The message as a contract."""
    discrete = message.WhichOneof("action") == "discrete"
    return EnvironmentContract(
        environment_id=message.environment_id,
        observation_shape=tuple(message.observation_shape),
        action_kind=ActionKind.DISCRETE if discrete else ActionKind.BOX,
        action_size=message.discrete.count if discrete else len(message.box.low),
        action_low=tuple(message.box.low),
        action_high=tuple(message.box.high),
        action_start=message.discrete.start if discrete else 0,
        horizon=message.horizon,
        control_timestep=message.control_timestep,
        reward=_reward_from_message(message.reward) if message.HasField("reward") else None,
    )


def _reward_from_message(message: pb.RewardContract) -> RewardContract:
    step, total = message.step_range, message.return_range
    return RewardContract(
        formula=message.formula,
        step_range=(step.low, step.high) if message.HasField("step_range") else None,
        return_range=(total.low, total.high) if message.HasField("return_range") else None,
    )
