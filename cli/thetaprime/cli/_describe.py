"""The contract between a policy and its environment, as JSON and as the client's type."""

import dataclasses
from typing import TYPE_CHECKING, Any

from thetaprime import wire

if TYPE_CHECKING:
    from thetaprime.models import EnvironmentContract


def describe_contract(contract: wire.EnvironmentContract) -> dict[str, Any]:
    """Returns the contract as a JSON object."""
    facts: dict[str, Any] = {
        "environment_id": contract.environment_id,
        "observation_shape": list(contract.observation_shape),
        "action": contract.action_kind.value,
        "action_size": contract.action_size,
        "horizon": contract.horizon,
        "control_timestep": contract.control_timestep,
        "reward": None if contract.reward is None else dataclasses.asdict(contract.reward),
    }
    if contract.action_kind is wire.ActionKind.BOX:
        return {**facts, "action_low": list(contract.action_low), "action_high": list(contract.action_high)}
    return {**facts, "action_start": contract.action_start}


def contract_of(environment: "EnvironmentContract") -> wire.EnvironmentContract:
    """Returns the contract of an artifact as the client's type."""
    action = environment.action
    return wire.EnvironmentContract(
        environment_id=environment.environment_id,
        observation_shape=environment.observation_shape,
        action_kind=wire.ActionKind(action.kind),
        action_size=action.size,
        action_low=action.low if action.kind == "box" else (),
        action_high=action.high if action.kind == "box" else (),
        action_start=0 if action.kind == "box" else action.start,
        horizon=environment.horizon,
        control_timestep=environment.control_timestep,
        reward=None
        if environment.reward is None
        else wire.RewardContract(
            environment.reward.formula, environment.reward.step_range, environment.reward.return_range
        ),
    )
