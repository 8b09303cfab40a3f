"""A server process adapts the shipped meta-policies to tasks of the test set."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import thetaprime.client as tp
import thetaprime.training
from tests.support.server.process import ServerProcess
from thetaprime.cli import cli
from thetaprime.models import TrajectoryBatch, adapt_step, load_meta_policy, resolve_meta_policy
from thetaprime.models.verdict import RoundMemory, StepOptions, next_step

gymnasium.register_envs(thetaprime.training)

GOALS = [(0.4, 0.35), (-0.45, 0.1), (0.1, -0.3)]


def _environment(goal: tuple[float, float]) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("thetaprime/PointNavigation-v0", goal=goal)


def _mean_return(policy: tp.AdaptedPolicy, goal: tuple[float, float]) -> float:
    policy.seed(1)
    return float(np.mean([each.total_reward for each in tp.collect(policy, _environment(goal), 20, seed=1)]))


def _batch(trajectories: list[tp.Trajectory]) -> TrajectoryBatch:
    return TrajectoryBatch.concatenate(
        [each.observations for each in trajectories],
        [each.actions for each in trajectories],
        [each.rewards for each in trajectories],
        [each.terminated for each in trajectories],
        [each.final_observation for each in trajectories],
    )


class PaidAtTheEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays an episode's rewards in its last step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._owed = getattr(self, "_owed", 0.0) + float(reward)
        paid = self._owed if terminated or truncated else 0.0
        self._owed -= paid
        return obs, paid, terminated, truncated, info


def test_the_report_of_each_step_names_the_discount_that_the_session_chose(
    address: str,
) -> None:
    with tp.Client(address) as client:
        for late in (False, True):
            env = PaidAtTheEnd(_environment(GOALS[0])) if late else _environment(GOALS[0])
            session = client.create_session("point-navigation")
            session.run(env, 2, 20, verify=0, seed=0, progress=False)
            usual = session.meta_policy.discount
            chosen = {report.discount for report in session.reports}
            assert len(chosen) == 1
            assert (chosen != {usual}) is late
            # The server keeps it, as the rest of the report.
            resumed = client.resume(session.id)
            assert [report.discount for report in resumed.reports] == [*chosen, *chosen]
            explained = CliRunner().invoke(cli, ["explain", session.id, "--address", address]).stdout
            (line,) = [each for each in explained.splitlines() if each.startswith("  discount ")]
            value = f"{session.reports[0].discount:.4g}"
            assert line.split()[1].rstrip(":") == value
            assert ("rewards come late" in line) is late


@pytest.mark.slow
def test_it_adapts_to_new_goals(address: str) -> None:
    with tp.Client(address) as client:
        for goal in GOALS:
            before = _mean_return(client.theta("point-navigation"), goal)
            adapted = client.adapt("point-navigation", _environment(goal), rounds=3, trajectories=20, seed=0)
            after = _mean_return(adapted, goal)
            assert after > 0.4 * before, f"goal {goal}: {before} before, {after} after"


def test_the_server_and_training_take_the_same_step_to_the_bit(address: str) -> None:
    meta_policy = load_meta_policy(resolve_meta_policy("point-navigation"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tp.Client(address) as client:
            session = client.create_session("point-navigation")
            path, parents, current = [meta_policy.parameters], [""], meta_policy.policy_id
            history: list[RoundMemory] = []
            for step in range(3):
                trajectories = tp.collect(session.policy, _environment(GOALS[0]), 20, seed=step)
                session.upload(trajectories)
                served = session.adapt()
                batch = _batch(trajectories)
                ours = next_step(meta_policy, history, batch, path[-1], path.__getitem__, StepOptions())
                history.append(ours.memory)
                path.append(ours.parameters)
                # A policy that is handed out again keeps its parent, and with it its file.
                number = ours.memory.next_policy
                parents.append(current if number > step else parents[number])
                exported = meta_policy.export(ours.parameters, parents[-1])
                assert served.policy_id == exported.policy_id
                assert served.onnx == exported.onnx
                current = exported.policy_id
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", ["create", "upload", "adapt"])
def test_a_killed_server_loses_nothing_and_the_client_continues(server: ServerProcess, killed_after: str) -> None:
    with tp.Client(server.start()) as client:
        undisturbed = client.create_session("point-navigation")
        session = client.create_session("point-navigation")
        trajectories = tp.collect(session.policy, _environment(GOALS[1]), 20, seed=3)
        undisturbed.upload(trajectories)
        expected = undisturbed.adapt()

        if killed_after == "create":
            server.kill()
            server.start()
        session.upload(trajectories)
        if killed_after == "upload":
            server.kill()
            server.start()
        adapted = session.adapt()
        if killed_after == "adapt":
            server.kill()
            server.start()
            adapted = client.resume(session.id).policy
        assert adapted.onnx == expected.onnx
        assert client.resume(session.id).round == 1


def test_the_onnx_file_runs_in_bare_onnxruntime_as_torch_does(address: str) -> None:
    """Over whole episodes, the file's actions equal those of the adapted parameters in torch."""
    meta_policy = load_meta_policy(resolve_meta_policy("point-navigation"))
    with tp.Client(address) as client:
        session = client.create_session("point-navigation")
        trajectories = tp.collect(session.policy, _environment(GOALS[2]), 20, seed=5)
        session.upload(trajectories)
        onnx = session.adapt().onnx
    parameters = adapt_step(
        meta_policy.policy,
        meta_policy.parameters,
        _batch(trajectories),
        meta_policy.manifest.adaptation,
        step=0,
        step_sizes=meta_policy.step_sizes,
    ).parameters
    bare = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    env = _environment(GOALS[2])
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        action = bare.run(["actions"], {"obs": observation[None]})[0][0]
        expected = meta_policy.policy.act(parameters, torch.from_numpy(observation[None]))[0].numpy()
        np.testing.assert_allclose(action, expected, atol=1e-5)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


@pytest.mark.slow
def test_the_example_program_adapts_with_a_running_server(address: str, tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "examples" / "adapt_to_a_goal.py"
    command = [sys.executable, str(program), "--address", address, "--output", str(tmp_path / "policy.onnx")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "round 2: return" in run.stdout
    distance = re.search(r"(\S+) from the goal", run.stdout)
    assert distance is not None and float(distance[1]) < 0.05, run.stdout
    assert tp.AdaptedPolicy.load(tmp_path / "policy.onnx").metadata["thetaprime.meta_policy"] == "point-navigation@1"


def _before_and_after(address: str, name: str, env: gymnasium.Env[Any, Any]) -> tuple[float, float]:
    """Returns the mean return in an environment before and after one round through the client."""
    with tp.Client(address) as client:
        session = client.create_session(name)
        trajectories = tp.collect(session.policy, env, 20, seed=1)
        session.upload(trajectories)
        session.adapt()
        adapted = tp.collect(session.policy, env, 20, seed=2)
    first, last = (float(np.mean([each.total_reward for each in part])) for part in (trajectories, adapted))
    return first, last


def _promised(name: str) -> dict[str, Any]:
    promised: dict[str, Any] = json.loads(load_meta_policy(resolve_meta_policy(name)).read_extra("evaluation.json"))
    return promised


@pytest.mark.slow
@pytest.mark.parametrize("goal", [1.0, -1.0], ids=["forward", "backward"])
def test_a_half_cheetah_learns_its_direction_from_a_plain_environment(address: str, goal: float) -> None:
    promised = _promised("half-cheetah-direction")["returns"]["maml"]
    env = gymnasium.make("thetaprime/HalfCheetahDirection-v0", goal=goal)
    before, after = _before_and_after(address, "half-cheetah-direction", env)
    # One direction pays better than the other; the evaluation's mean is over both.
    assert before < 0.2 * promised[1], f"{before} before adapting; the evaluation found {promised[0]}"
    assert after > 0.75 * promised[1], f"{after} after one round; the evaluation found {promised[1]}"


def test_a_half_cheetah_learns_its_velocity_from_a_plain_environment(address: str) -> None:
    promised = _promised("half-cheetah-velocity")
    env = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.7)
    before, after = _before_and_after(address, "half-cheetah-velocity", env)
    mean, spread = (promised[key]["maml"] for key in ("returns", "std_over_tasks"))
    assert before < mean[1] - 50.0, f"{before} before adapting; the evaluation found {mean[0]}"
    assert after > mean[1] - 2 * spread[1], f"{after} after one round; the evaluation found {mean[1]} ± {spread[1]}"
