"""Compares acting with a memory with a bare onnxruntime session whose state is fed back."""

import json
from collections.abc import Callable
from typing import Final

import numpy as np
import onnxruntime
import torch

from benchmarks.act import BATCH, bare_session
from benchmarks.measure import Row, compare
from benchmarks.policies import ACTION, OBSERVATION, STEPS
from thetaprime.client import AdaptedPolicy
from thetaprime.models import (
    BoxAction,
    EnvironmentContract,
    MemorySpec,
    OnnxTemplate,
    PolicySpec,
    RecurrentPolicy,
)
from thetaprime.models.exported import export_policy

_SIZE: Final = 128


def rows() -> list[Row]:
    """Measures one robot and a thousand, each with its memory: `act` and `observe`."""
    onnx = _remembering()
    policy, found = AdaptedPolicy(onnx), []
    for count, budget, rounds, repeats in ((1, 1.3, 50, 300), (BATCH, 1.1, 50, 5)):
        observations = np.random.default_rng(0).normal(size=(count, OBSERVATION)).astype(np.float32)
        robots = "one robot" if count == 1 else f"{count} robots, each with its state,"
        found.append(
            compare(
                f"act and observe of {robots} / InferenceSession.run with the state fed back",
                _loop(policy, observations),
                _bare_loop(bare_session(onnx), observations),
                budget=budget,
                rounds=rounds,
                repeats=repeats,
                unit="µs",
            )
        )
        policy.reset()
    return found


def _remembering() -> bytes:
    """Returns the file of an untrained policy of half-cheetah's size, with a GRU."""
    environment = EnvironmentContract(
        environment_id="benchmark",
        observation_shape=(OBSERVATION,),
        action=BoxAction(low=(-1.0,) * ACTION, high=(1.0,) * ACTION),
        horizon=STEPS,
    )
    spec = PolicySpec(hidden_sizes=(_SIZE,), memory=MemorySpec(size=_SIZE, reward_scale=0.1))
    policy = RecurrentPolicy(environment, spec)
    golden = torch.randn((4, OBSERVATION), generator=torch.Generator().manual_seed(0))
    return export_policy(policy, OnnxTemplate(policy, "benchmark@1"), golden, policy.init(0), "").onnx


def _loop(policy: AdaptedPolicy, observations: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Callable[[], None]:
    """Returns a function that takes one step of a control loop, with an end of the episode after each horizon."""
    count, step = len(observations), 0
    observed = observations[0] if count == 1 else observations
    rewards = 0.5 if count == 1 else np.full(count, 0.5)
    running, ended = (False, True) if count == 1 else (np.zeros(count, np.bool_), np.ones(count, np.bool_))

    def act() -> None:
        nonlocal step
        step += 1
        policy.act(observed)
        policy.observe(rewards, ended if step % STEPS == 0 else running)

    return act


def _bare_loop(
    session: onnxruntime.InferenceSession, observations: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> Callable[[], None]:
    """Returns a function that runs the graph once, on the state of the last run."""
    memory = json.loads(session.get_modelmeta().custom_metadata_map["thetaprime.memory"])
    count = len(observations)
    feeds = {name: np.stack([np.array(value, np.float32)] * count) for name, value in memory["start"].items()}
    feeds["obs"] = observations
    for state in memory["states"]:
        feeds[state["input"]] = np.stack([np.array(state["initial"], np.float32)] * count, state["axis"])
    names = ["actions", *(state["output"] for state in memory["states"])]
    inputs = [state["input"] for state in memory["states"]]

    def run() -> None:
        feeds["prev_action"], *following = session.run(names, feeds)
        feeds.update(zip(inputs, following, strict=True))

    return run
