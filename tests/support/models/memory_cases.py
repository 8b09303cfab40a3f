"""Policies with a memory, and whole lifetimes of each, for tests of their ONNX files."""

import dataclasses
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tests.support.models.policy_cases import BOUNDED, UNBOUNDED, robot_of
from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MemoryInputs,
    MemorySpec,
    OnnxTemplate,
    Parameters,
    PolicySpec,
    RecurrentPolicy,
    RobotDescription,
)
from thetaprime.models.exported import ExportedPolicy, export_policy

STEPS: Final = 60
ROBOTS: Final = 3
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryCase:
    """A policy with a memory, and its file in the default form."""

    name: str
    policy: RecurrentPolicy
    parameters: Parameters
    exported: ExportedPolicy

    @property
    def onnx(self) -> bytes:
        return self.exported.onnx

    @property
    def robot(self) -> RobotDescription:
        return robot_of(self.policy.environment.action.size)


def make_policy(
    action: BoxAction | DiscreteAction, shape: tuple[int, ...] = (5,), seed: int = 3, **memory: Any
) -> tuple[RecurrentPolicy, Parameters]:
    """A policy none of whose parameters is zero."""
    environment = EnvironmentContract(
        environment_id="remembering", observation_shape=shape, action=action, horizon=40, control_timestep=0.02
    )
    size = environment.observation_size
    policy = RecurrentPolicy(
        environment,
        PolicySpec(
            hidden_sizes=(12,),
            activation="tanh" if memory.get("cell") == "lstm" else "relu",
            context_size=2,
            observation_mean=tuple(np.linspace(-0.5, 0.5, size)),
            observation_std=tuple(np.linspace(0.5, 2.0, size)),
            memory=MemorySpec(**{"size": 16, "reward_scale": 0.3, **memory}),
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in policy.init(seed).items()
    }
    return policy, parameters


def make_case(name: str, *args: Any, **memory: Any) -> MemoryCase:
    policy, parameters = make_policy(*args, **memory)
    golden = np.random.default_rng(7).normal(size=(6, *policy.environment.observation_shape)).astype(np.float32)
    template = OnnxTemplate(policy, f"{name}@1")
    return MemoryCase(
        name, policy, parameters, export_policy(policy, template, torch.from_numpy(golden), parameters, "")
    )


CASES: Final = {
    case.name: case
    for case in (
        make_case("gru", BOUNDED),
        make_case("gru-encoder-unbounded", UNBOUNDED, encoder_sizes=(7, 9)),
        make_case("gru-discrete", DiscreteAction(count=4, start=5), (2, 3)),
        make_case("lstm", BOUNDED, (2, 3), cell="lstm", encoder_sizes=(6,)),
        make_case("lstm-discrete", DiscreteAction(count=3), cell="lstm"),
    )
}


@dataclasses.dataclass(frozen=True, eq=False)
class Lifetimes:
    """Lifetimes of some robots side by side: [STEPS, ROBOTS, ...] each.

    Attributes:
        inputs: of the default form, without the state.
        resets: whether a lifetime begins at a step.
        actions: torch's deterministic actions.
        head: torch's means or logits.
    """

    inputs: dict[str, Array]
    resets: npt.NDArray[np.bool_]
    actions: Array
    head: Array


def live(case: MemoryCase) -> Lifetimes:
    """Runs torch through whole lifetimes, in which each observation and reward follow from the action before."""
    policy, rng = case.policy, np.random.default_rng(11)
    size, environment = policy.environment.observation_size, policy.environment
    push = rng.normal(size=(environment.action.size, size))
    resets = rng.random((STEPS, ROBOTS)) < 0.02
    resets[0] = True
    resets[STEPS // 3, 0] = resets[STEPS // 2, 1] = True
    middle = policy.scaling[2].numpy() if policy.continuous else np.int64(policy.action_start - 1)
    action: Array = np.broadcast_to(middle, (ROBOTS, *np.shape(middle))).copy()
    reward, done = np.zeros(ROBOTS, np.float32), np.zeros(ROBOTS, np.float32)
    observation = rng.normal(size=(ROBOTS, size)).astype(np.float32)
    initial = policy.initial_state(case.parameters, ROBOTS)
    state = initial
    taken: dict[str, list[Array]] = {name: [] for name in ("obs", "prev_action", "prev_reward", "prev_done", "a", "h")}
    for step in range(STEPS):
        begins = resets[step]
        action, reward, done = action.copy(), reward * ~begins, done * ~begins
        action[begins] = middle
        state = tuple(
            torch.where(torch.from_numpy(begins)[:, None], at, now) for at, now in zip(initial, state, strict=True)
        )
        inputs = MemoryInputs(
            torch.from_numpy(observation),
            policy.from_environment(torch.from_numpy(action)),
            torch.from_numpy(reward),
            torch.from_numpy(done),
        )
        with torch.no_grad():
            (head, *_), state = policy.step(case.parameters, inputs, state)
            chosen = policy.action_of(head).numpy()
        for name, rows in zip(taken, (observation, action, reward, done, chosen, head.numpy()), strict=True):
            taken[name].append(rows)
        effect = np.tanh(head.numpy()) if policy.continuous else np.eye(environment.action.size)[head.argmax(-1)]
        observation = (0.8 * observation + 0.3 * effect @ push + rng.normal(size=observation.shape)).astype(np.float32)
        reward, action = observation.sum(-1).astype(np.float32), chosen
        done = (rng.random(ROBOTS) < 0.1).astype(np.float32)
    stacked = {name: np.stack(rows) for name, rows in taken.items()}
    actions, head_rows = stacked.pop("a"), stacked.pop("h")
    return Lifetimes(stacked, resets, actions, head_rows)
