"""`models`, `adapt` and `inspect`, against a real server and real files."""

import dataclasses
import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.artifacts import write_untrained
from tests.support.command import Command, last_json
from tests.support.contracts import CONTRACTS
from thetaprime import models


def test_models_of_a_server(address: str, thetaprime: Command) -> None:
    result = thetaprime("models", "--address", address)
    assert result.exit_code == 0
    assert "point-navigation@1" in result.stdout
    assert "thetaprime/PointNavigation-v0" in result.stdout


def test_models_state_their_reward(tmp_path: Path, thetaprime: Command) -> None:
    action = models.DiscreteAction(count=2)
    for name, reward in (
        ("measured", models.RewardContract(formula="speed - |u|^2", step_range=(-2, 1), return_range=(-300, 41.5))),
        ("stated", models.RewardContract(formula="1 for each step")),
        ("unknown", None),
    ):
        contract = models.EnvironmentContract(
            environment_id=name, observation_shape=(4,), action=action, horizon=30, reward=reward
        )
        write_untrained(tmp_path, name, contract)
    shown = thetaprime("models", "--zoo", tmp_path).stdout
    assert "reward speed - |u|^2; return of θ in meta-training -300 to 41.5\n" in shown
    assert "reward 1 for each step\n" in shown
    assert shown.count("reward") == 2
    listed = last_json(thetaprime("models", "--zoo", tmp_path, "--json"))["meta_policies"]
    rewards = {each["name"]: each["environment"]["reward"] for each in listed}
    assert rewards["measured"] == {"formula": "speed - |u|^2", "step_range": [-2, 1], "return_range": [-300, 41.5]}
    assert rewards["unknown"] is None


def test_models_say_which_remember(tmp_path: Path, thetaprime: Command) -> None:
    spec = models.PolicySpec(hidden_sizes=(4,), memory=models.MemorySpec(cell="lstm", size=3))
    write_untrained(tmp_path, "pendulum-rl2", CONTRACTS["pendulum"], spec=spec)
    assert "horizon 40, adapts in its memory (lstm)" in thetaprime("models", "--zoo", tmp_path).stdout
    assert last_json(thetaprime("models", "--zoo", tmp_path, "--json"))["meta_policies"][0]["memory"] == "lstm"


@pytest.mark.parametrize("columns", [40, 60, 80, 120, None])
def test_names_and_ids_of_models_are_never_folded(
    columns: int | None, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a-robot-with-a-name-that-is-longer-than-any-terminal-of-forty-columns"
    environment = f"package.of.robots/{name}-v0"
    action = models.DiscreteAction(count=2)
    contract = models.EnvironmentContract(environment_id=environment, observation_shape=(4,), action=action, horizon=30)
    write_untrained(tmp_path, name, contract, description="It walks. " * 20)
    if columns is not None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    result = thetaprime("models", "--zoo", tmp_path)
    assert result.exit_code == 0, result.output
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in result.stdout.splitlines()]
    assert lines[:2] == [f"{name}@1", f"    {environment}"]
    assert (len(lines) == 4) == (columns is None)  # in a pipe, nothing is folded
    assert " ".join(lines[2:]).split()[:2] == ["observation", "4,"]
    assert all(len(line) <= columns for line in lines[2:] if columns)


def test_inspect_never_folds_a_digest(zoo: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    digest = last_json(thetaprime("inspect", zoo / "cart-pole" / "1", "--json"))["files"]["policy.onnx"]
    assert f"  {digest}\n" in thetaprime("inspect", zoo / "cart-pole" / "1").stdout


def test_models_of_a_server_and_of_its_folder_are_the_same(address: str, zoo: Path, thetaprime: Command) -> None:
    served = last_json(thetaprime("models", "--address", address, "--json"))
    local = last_json(thetaprime("models", "--zoo", zoo, "--json"))
    assert [each["name"] for each in served["meta_policies"]] == ["cart-pole", "point-navigation"]
    assert served["meta_policies"] == local["meta_policies"]
    assert (served["source"], local["source"]) == (address, str(zoo))


def test_an_empty_folder_has_no_models(tmp_path: Path, thetaprime: Command) -> None:
    result = thetaprime("models", "--zoo", tmp_path)
    assert result.exit_code == 0
    assert "no meta-policies" in result.stdout


@pytest.mark.usefixtures("quick_retries")
def test_an_unreachable_server_is_one_line(thetaprime: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = thetaprime("models", "--address", address, "--json")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert address in result.stderr
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert (error["code"], error["message"]) == ("UNAVAILABLE", result.stderr.strip())


def test_adapt(address: str, tmp_path: Path, thetaprime: Command) -> None:
    output = tmp_path / "policy.onnx"
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--rounds", "2", "--caution", "off")
    report = last_json(thetaprime(*args, "--seed", "0", "--output", output, "--json"))
    assert report["meta_policy"] == "cart-pole@1"
    assert [(each["round"], each["trajectories"]) for each in report["rounds"]] == [(0, 3), (1, 3)]
    assert {each["discount"] for each in report["rounds"]} == {models.AdaptationSpec().discount}
    policy = tp.AdaptedPolicy.load(output, sha256=report["sha256"])
    assert policy.policy_id == report["policy_id"]
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)
    with tp.Client(address) as client:
        assert client.resume(report["session"]).policy.policy_id == policy.policy_id


def test_adapt_passes_arguments_to_the_environment(address: str, tmp_path: Path, thetaprime: Command) -> None:
    args = ("adapt", "point-navigation@1", "--address", address, "--env", "thetaprime/PointNavigation-v0")
    few = ("--rounds", "1", "--trajectories", "2", "--seed", "0", "--caution", "off")
    more = (*few, "--output", tmp_path / "p.onnx", "--force", "--json")
    near = last_json(thetaprime(*args, "--env-args", "goal=[0.1, 0.1]", *more))
    far = last_json(thetaprime(*args, "--env-args", "goal=[9, 9]", *more))
    assert far["rounds"][0]["mean_return"] < near["rounds"][0]["mean_return"] - 500


def test_adapt_refuses_another_environment_in_one_line(address: str, thetaprime: Command) -> None:
    result = thetaprime("adapt", "cart-pole", "--address", address, "--env", "Pendulum-v1")
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if line.strip()] == [
        "thetaprime adapt: env.observation_space: Box([-1. -1. -8.], [1. 1. 8.], (3,), float32); "
        "the policy takes one array of shape [4]"
    ]


def test_adapt_resumes_a_session(address: str, tmp_path: Path, thetaprime: Command) -> None:
    args = ("adapt", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    with tp.Client(address) as client:
        session = client.create_session("cart-pole", caution="off")
        with gymnasium.make("CartPole-v1") as env:
            session.run(env, 1, progress=False)
        report = last_json(thetaprime(*args, "--resume", session.id, "--rounds", "2", "--verify", "0", "--json"))
        assert (report["session"], [each["round"] for each in report["rounds"]]) == (session.id, [0, 1])
        assert client.resume(session.id).info.state == "closed"
    for wrong in ((), ("cart-pole", "--resume", session.id)):
        result = thetaprime(*args, *wrong, "--force")
        assert result.exit_code == 2
        assert "expected either a META_POLICY" in result.stderr


def test_adapt_that_takes_too_long_prints_the_command_that_resumes(
    address: str, tmp_path: Path, thetaprime: Command
) -> None:
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    result = thetaprime(*args, "--trajectories", "1000000", "--timeout", "0.5", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    session_id = error["details"]["session_id"]
    line = result.stderr.splitlines()[-1]
    assert re.search(rf"did not end within its timeout of 0\.5 s; .*; session {session_id} is in round 0, .*", line)
    assert "client.resume" not in line
    assert not (tmp_path / "p.onnx").exists()
    resume = error["details"]["resume"]
    more = ("--trajectories", "1000000", "--timeout", "0.5", "--json")
    assert resume == shlex.join(["thetaprime", "adapt", "--resume", session_id, *map(str, args[2:]), *more])
    assert line.endswith(f"resume with: {resume}")
    # The printed command works, here with fewer episodes.
    fewer = ("--trajectories", "1", "--timeout", "60", "--rounds", "1", "--verify", "0")
    report = last_json(thetaprime(*shlex.split(resume)[1:], *fewer))
    assert report["session"] == session_id


def test_adapt_that_is_interrupted_prints_its_session_and_the_command_that_resumes(
    address: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "p.onnx")
    process = subprocess.Popen(
        [sys.executable, "-m", "thetaprime.cli", "adapt", "cart-pole", "--address", address, "--env", "CartPole-v1",
         "--trajectories", "1000000", "--output", output],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    shown = process.stdout.readline()
    session_id = shown.split()[1]
    assert shown == f"session {session_id} of cart-pole@1\n", process.communicate()
    assert process.stdout.readline().startswith("round 1  ")  # it collects
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    # A fast machine collects more episodes than a round accepts: the message says how many are lost.
    (line,) = errors.strip().splitlines()[-1:]
    assert line.startswith("thetaprime adapt: interrupted; ")
    kept = re.search(rf"session {session_id} is in round 0, with (\d+) of 1000000 trajectories", line)
    assert kept, errors
    command = f"thetaprime adapt --resume {session_id} --address {address} --env CartPole-v1"
    assert line.endswith(f"resume with: {command} --trajectories 1000000 --output {output}")
    with tp.Client(address) as client:
        assert client.resume(session_id).batch.trajectories == int(kept[1])


def test_adapt_whose_file_cannot_be_saved_prints_the_command_that_resumes(
    address: str, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: tp.AdaptedPolicy, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(tp.AdaptedPolicy, "save", full)
        result = thetaprime(*args, "--rounds", "1", "--verify", "0")
    assert result.exit_code == 1
    said = re.search(
        r"No space left on device; session (\S+) is in round 1; resume with: thetaprime (.*)", result.stderr
    )
    assert said, result.stderr
    resumed = last_json(thetaprime(*shlex.split(said[2]), "--json"))
    assert resumed["session"] == said[1] and (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize(("option", "name"), [("--output", "p.onnx"), ("--plot", "p.png"), ("--video", "p.gif")])
def test_adapt_overwrites_a_file_only_with_force(
    option: str, name: str, address: str, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"precious")
    args = ("adapt", "point-navigation", "--address", address, "--env", "thetaprime/PointNavigation-v0", option, name)
    with tp.Client(address) as client:
        before = len(list(client.sessions()))
        result = thetaprime(*args, "--rounds", "1")
        assert result.exit_code == 2
        assert f"{name} exists; choose another name, or overwrite it with --force" in result.stderr
        assert len(list(client.sessions())) == before
    assert Path(name).read_bytes() == b"precious"
    if option == "--output":
        last_json(thetaprime(*args, "--rounds", "1", "--verify", "0", "--force", "--json"))
        assert tp.AdaptedPolicy.load(name).meta_policy == "point-navigation@1"


def test_adapt_without_a_terminal_writes_lines(address: str, tmp_path: Path, thetaprime: Command) -> None:
    output = tmp_path / "[bold]p.onnx"  # not markup
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--rounds", "2", "--caution", "off")
    result = thetaprime(*args, "--output", output)
    assert result.exit_code == 0, result.output
    session, first, *rounds, outcome, wrote = result.stdout.splitlines()
    assert session.startswith("session ") and wrote.startswith(f"wrote {output} (cart-pole@1, ")
    assert first.startswith("round 1  ") and first.endswith("/3 episodes")
    returns = [re.sub(r"return .* \(", "return R (", line) for line in rounds if not line.startswith("    ")]
    assert returns == ["θ: return R (3 episodes)", "θ′₁: return R (3 episodes)", "θ′₂: return R (5 episodes)"]
    assert "gained" in outcome


def test_adapt_that_gains_nothing_exits_with_3(address: str, tmp_path: Path, thetaprime: Command) -> None:
    output = ("--output", tmp_path / "p.onnx", "--json")
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", *output)
    short = ("--rounds", "1", "--env-args", "max_episode_steps=2")  # every policy gets 2
    result = thetaprime(*args, *short)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["improved"] is False
    assert report["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert report["verification"] == {"round": 1, "trajectories": 5, "mean_return": 2.0, "std_return": 0.0}
    assert tp.AdaptedPolicy.load(tmp_path / "p.onnx", sha256=report["sha256"]).policy_id == report["policy_id"]
    for more in (("--caution", "off"), ("--verify", "0")):
        assert last_json(thetaprime(*args, *short, *more, "--force"))["improved"] in (False, None)


def test_adapt_to_a_task_that_is_learned_exits_with_0(address: str, tmp_path: Path, thetaprime: Command) -> None:
    # θ is paid a tenth of what the last policy gets, with noise that gives the step a direction.
    rng = np.random.default_rng(0)
    with tp.Client(address) as client:
        session = client.create_session("cart-pole")
        with gymnasium.make("CartPole-v1", max_episode_steps=8) as env:
            collected = tp.collect(session.policy, env, 6, seed=0)
        paid = (0.1 + 0.1 * rng.standard_normal(len(each)) for each in collected)
        session.upload(
            [dataclasses.replace(each, rewards=r.astype(np.float32)) for each, r in zip(collected, paid, strict=True)]
        )
        session.adapt()
    args = ("adapt", "--resume", session.id, "--address", address, "--env", "CartPole-v1", "--json")
    report = last_json(thetaprime(*args, "--rounds", "1", "--output", tmp_path / "p.onnx"))
    assert report["improved"] is True
    assert report["gain"]["low"] > 0
    assert report["round"] == 1


def test_adapt_refuses_options_of_a_new_session_for_a_resumed_one(
    address: str, tmp_path: Path, thetaprime: Command
) -> None:
    args = ("adapt", "--resume", "x", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    result = thetaprime(*args, "--reward-scale", "10")
    assert result.exit_code == 2
    assert "--reward-scale belongs to a new session" in result.stderr


def test_adapt_suggests_a_meta_policy_of_the_server(address: str, thetaprime: Command) -> None:
    result = thetaprime("adapt", "cartpole", "--address", address, "--env", "CartPole-v1", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert error["code"] == "NOT_FOUND"
    assert error["message"].endswith("did you mean 'cart-pole'?")


def test_adapt_to_an_unknown_meta_policy_is_one_line(address: str, thetaprime: Command) -> None:
    result = thetaprime("adapt", "no-such", "--address", address, "--env", "CartPole-v1")
    assert result.exit_code == 1
    assert "no-such" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.strip()]) == 1


def test_inspect_an_artifact(zoo: Path, thetaprime: Command) -> None:
    result = thetaprime("inspect", zoo / "cart-pole" / "1", "--json")
    facts = last_json(result)
    assert (facts["kind"], facts["verified"], facts["meta_policy"]) == ("artifact", True, "cart-pole@1")
    assert facts["environment"]["action_size"] == 2
    assert facts["adaptation"]["trajectories_per_round"] == 3
    assert facts["provenance"]["distribution"] == "cart-pole"
    assert facts["policy_id"] in thetaprime("inspect", zoo / "cart-pole" / "1").stdout


def test_inspect_a_policy(zoo: Path, thetaprime: Command) -> None:
    artifact = last_json(thetaprime("inspect", zoo / "cart-pole" / "1", "--json"))
    facts = last_json(thetaprime("inspect", zoo / "cart-pole" / "1" / "policy.onnx", "--json"))
    assert facts["kind"] == "policy"
    assert facts["policy_id"] == artifact["policy_id"]
    assert facts["sha256"] == artifact["files"]["policy.onnx"]
    assert facts["environment"] == artifact["environment"]


@pytest.mark.parametrize("name", ["manifest.json", "theta.safetensors", "policy.onnx", "reference.safetensors"])
def test_inspect_finds_one_flipped_bit_in_any_file(name: str, zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    artifact = tmp_path / "1"
    shutil.copytree(zoo / "point-navigation" / "1", artifact)
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    result = thetaprime("inspect", artifact)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert name in result.stderr


def test_inspect_refuses_a_cut_policy(zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    policy = tmp_path / "policy.onnx"
    policy.write_bytes((zoo / "cart-pole" / "1" / "policy.onnx").read_bytes()[:-100])
    result = thetaprime("inspect", policy)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
