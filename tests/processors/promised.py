"""Everything that is promised to the bit, and θ′, computed on this processor.

``python -m tests.processors.promised`` prints both as JSON; ``--write`` writes promised.json, which the tests expect.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from tests.examples.vectors import VECTORS, written
from tests.support.models.policy_cases import robot_of
from thetaprime import wire
from thetaprime.models import (
    PROFILES,
    AdaptationSpec,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MemorySpec,
    MetaPolicy,
    OnnxTemplate,
    Parameters,
    Policy,
    PolicySpec,
    RecurrentPolicy,
    TrajectoryBatch,
    adapt_step,
    derive_form,
    find_meta_policies,
    load_meta_policy,
    parameters_digest,
    zoo_directory,
)
from thetaprime.models.exported import export_policy
from thetaprime.models.golden import golden_actions

PROMISED: Final = Path(__file__).with_name("promised.json")
STEPS: Final = 200
TRAJECTORIES: Final = 4


def promised() -> dict[str, Any]:
    """SHA-256 of all bytes that are a function of their inputs alone, and the step to θ′ of one meta-policy."""
    shipped = [load_meta_policy(path) for path in find_meta_policies(zoo_directory())]
    walker = next(each for each in shipped if each.manifest.name == "half-cheetah-direction")
    return {
        "digests": dict([*_forms(shipped), *_discrete_forms(), *_memory_forms()]),
        "test_vectors": wire.sha256_hex(written()[VECTORS].encode()),
        "step": step_to_adapted(walker.policy, walker.parameters),
    }


def step_to_adapted(policy: Policy, parameters: Parameters) -> dict[str, list[float]]:
    """θ′ − θ after one step of equal step sizes, every 97th number of each parameter."""
    observations, actions = _spread((TRAJECTORIES, STEPS, 17)), _spread((TRAJECTORIES, STEPS, 6))
    batch = TrajectoryBatch.concatenate(
        list(observations),
        list(actions),
        list(observations[:, :, 0] - np.square(actions[:, :, 1])),
        [False] * TRAJECTORIES,
        list(observations[:, 0]),
    )
    step = adapt_step(policy, parameters, batch, AdaptationSpec(inner_lr=0.1, context_lr=0.5), step=0)
    return {name: (step.parameters[name] - parameters[name]).flatten()[::97].tolist() for name in sorted(parameters)}


def _forms(shipped: list[MetaPolicy]) -> Iterator[tuple[str, str]]:
    for meta_policy in shipped:
        yield f"{meta_policy.label} parameters", meta_policy.policy_id
        onnx = meta_policy.export(meta_policy.parameters).onnx
        robot = robot_of(meta_policy.manifest.environment.action.size)
        for profile in PROFILES:
            # The plugin of Godot carries no state.
            if not (meta_policy.recurrent and profile == "godot-rl"):
                form = derive_form(onnx, profile, robot if profile == "robot" else None)
                yield f"{meta_policy.label} {profile}", form.onnx_sha256


def _discrete_forms() -> Iterator[tuple[str, str]]:
    """No shipped policy has discrete actions."""
    environment = EnvironmentContract(
        environment_id="any", observation_shape=(5,), action=DiscreteAction(count=4, start=5), horizon=1
    )
    policy = Policy(environment, PolicySpec(hidden_sizes=(16, 16), activation="tanh", context_size=2))
    parameters = {name: torch.from_numpy(_spread(tuple(value.shape))) for name, value in policy.init(0).items()}
    observations = _spread((8, 5))
    golden = {
        "observations": observations.tolist(),
        "actions": golden_actions(policy, parameters, observations).tolist(),
    }
    onnx, _ = OnnxTemplate(policy, "any@1").write(
        parameters, policy_id=parameters_digest(parameters), parent_id="", golden=golden
    )
    for profile in PROFILES:
        if profile not in ("rsl-rl", "leapp", "robot"):
            yield f"discrete {profile}", derive_form(onnx, profile).onnx_sha256


def _memory_forms() -> Iterator[tuple[str, str]]:
    cases: dict[Literal["gru", "lstm"], BoxAction | DiscreteAction] = {
        "gru": BoxAction(low=(-0.5, -2.0), high=(0.5, 1.0)),
        "lstm": DiscreteAction(count=4, start=5),
    }
    for cell, action in cases.items():
        environment = EnvironmentContract(environment_id="any", observation_shape=(5,), action=action, horizon=1)
        memory = MemorySpec(cell=cell, size=64, encoder_sizes=(32,), reward_scale=0.1)
        policy = RecurrentPolicy(environment, PolicySpec(hidden_sizes=(16,), activation="tanh", memory=memory))
        parameters = {name: torch.from_numpy(_spread(tuple(value.shape))) for name, value in policy.init(0).items()}
        parameters = {name: value / 8 if value.ndim == 2 else value for name, value in parameters.items()}
        template, golden = OnnxTemplate(policy, "any@1"), torch.from_numpy(_spread((8, 5)))
        onnx = export_policy(policy, template, golden, parameters, "").onnx
        for profile in ("default", "epsilon", "unity-mlagents", *(["rsl-rl"] if cell == "gru" else [])):
            yield f"{cell} {profile}", derive_form(onnx, profile).onnx_sha256


def _spread(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers between -1 and 1 without a random generator: multiples of 1/512."""
    index = np.arange(int(np.prod(shape)))
    return ((index * 7919 % 1009 - 504) / 512).astype(np.float32).reshape(shape)


def main(arguments: list[str]) -> None:
    """Prints or writes the results."""
    torch.set_num_threads(1)
    found = promised()
    if arguments == ["--write"]:
        del found["test_vectors"]  # docs/test-vectors.json holds these
        PROMISED.write_text(json.dumps(found, indent=1) + "\n")
    else:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
