"""Policies of every kind, and whole episodes of each, for tests of the profiles of ONNX files."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    OnnxTemplate,
    Parameters,
    Policy,
    PolicySpec,
    RobotDescription,
    parameters_digest,
)

HORIZON: Final = 200
EPISODES: Final = 3
Array = npt.NDArray[Any]


def robot_of(size: int) -> RobotDescription:
    """Returns the description of a robot with so many joints, with numbers that rounding would change."""
    return RobotDescription(
        joint_names=tuple(f"joint_{index}" for index in range(size)),
        joint_stiffness=tuple(20.0 + index / 3 for index in range(size)),
        joint_damping=(0.123456789,) * size,
        default_joint_pos=tuple(-0.1 * index / 7 for index in range(size)),
        action_scale=(0.25 / 3,) * size,
        observation_names=("joint_pos", "joint_vel"),
        command_names=("twist",),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A policy in its default form, and the torch policy of the same parameters."""

    name: str
    policy: Policy
    parameters: Parameters
    onnx: bytes

    @property
    def action_size(self) -> int:
        return self.policy.environment.action.size

    @property
    def bounded(self) -> bool:
        action = self.policy.environment.action
        return not isinstance(action, BoxAction) or all(map(math.isfinite, (*action.low, *action.high)))

    @property
    def robot(self) -> RobotDescription:
        return robot_of(self.action_size)

    def torch(self, function: Callable[[torch.Tensor], torch.Tensor], observations: Array) -> Array:
        """Applies a function of flat observations to [..., O]."""
        flat = torch.from_numpy(observations.reshape(-1, observations.shape[-1]))
        with torch.no_grad():
            values = function(flat).numpy()
        return values.reshape(*observations.shape[:-1], *values.shape[1:])

    def head(self, observations: Array) -> Array:
        """Returns means or logits: [..., A]."""
        return self.torch(lambda flat: self.policy.head(self.parameters, flat), observations)

    def act(self, observations: Array) -> Array:
        """Returns the deterministic action in the units of the environment: [..., A] or [...]."""
        return self.torch(lambda flat: self.policy.act(self.parameters, flat), observations)

    def clipped_mean(self, observations: Array) -> Array:
        """Returns the mean, within [-1, 1] if the action is bounded: [..., A]."""
        clip = self.policy.scaling[0].numpy()
        return np.clip(self.head(observations), -clip, clip)


def make_case(
    name: str, action: BoxAction | DiscreteAction, observation_shape: tuple[int, ...], seed: int = 7, **spec: Any
) -> Case:
    environment = EnvironmentContract(
        environment_id=name, observation_shape=observation_shape, action=action, horizon=HORIZON, control_timestep=0.02
    )
    size = environment.observation_size
    policy = Policy(
        environment,
        PolicySpec.model_validate(
            {
                "hidden_sizes": (16, 16),
                "observation_mean": tuple(np.linspace(-0.5, 0.5, size)),
                "observation_std": tuple(np.linspace(0.5, 2.0, size)),
                **spec,
            }
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    # Not the zeros that training begins with: the file must hold each parameter.
    parameters = {
        key: value + 0.3 * torch.randn(value.shape, generator=generator) for key, value in policy.init(seed).items()
    }
    golden = np.random.default_rng(7).normal(size=(6, size)).astype(np.float32)
    with torch.no_grad():
        actions = policy.act(parameters, torch.from_numpy(golden))
    data, _ = OnnxTemplate(policy, f"{name}@1").write(
        parameters,
        policy_id=parameters_digest(parameters),
        parent_id="",
        golden={"observations": golden.reshape(-1, *observation_shape).tolist(), "actions": actions.tolist()},
    )
    return Case(name, policy, parameters, data)


BOUNDED: Final = BoxAction(low=(-0.5, -2.0, 0.0), high=(0.5, 1.0, 4.0))
UNBOUNDED: Final = BoxAction(low=(-0.5, -math.inf, 0.0), high=(0.5, math.inf, math.inf))
CASES: Final = {
    case.name: case
    for case in (
        make_case("bounded", BOUNDED, (5,)),
        make_case("bounded-context", BOUNDED, (5,), context_size=3, activation="tanh"),
        make_case("unbounded", UNBOUNDED, (5,)),
        make_case("unbounded-context", UNBOUNDED, (2, 3), context_size=2),
        make_case("discrete", DiscreteAction(count=4, start=5), (5,), seed=17),
    )
}


def play(case: Case) -> npt.NDArray[np.float32]:
    """Returns whole episodes under the policy: [H, EPISODES, O]. Each observation follows from the action before.

    The plant is linear, damped and disturbed; a discrete action pushes along one direction.
    """
    rng = np.random.default_rng(3)
    size = case.policy.environment.observation_size
    push = rng.normal(size=(case.action_size, size))
    observations = np.empty((HORIZON, EPISODES, size), np.float32)
    state = rng.normal(size=(EPISODES, size), scale=2)
    for step in range(HORIZON):
        observations[step] = state
        taken = case.clipped_mean if case.policy.continuous else case.head
        effect = taken(observations[step])
        if not case.policy.continuous:
            effect = np.eye(case.action_size)[effect.argmax(-1)]
        state = 0.9 * state + 0.4 * effect @ push + rng.normal(size=state.shape)
        state = np.clip(state, -20, 20)
    return observations
