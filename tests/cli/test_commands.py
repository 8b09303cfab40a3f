"""`models`, `adapt` and `inspect`, against a real server and real files."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.command import Command, last_json


def test_models_of_a_server(address: str, thetaprime: Command) -> None:
    result = thetaprime("models", "--address", address)
    assert result.exit_code == 0
    assert "point-navigation@1" in result.stdout
    assert "thetaprime/PointNavigation-v0" in result.stdout


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
def test_a_server_that_is_not_there_is_one_line(thetaprime: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = thetaprime("models", "--address", address)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert address in result.stderr


def test_adapt(address: str, tmp_path: Path, thetaprime: Command) -> None:
    output = tmp_path / "policy.onnx"
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--rounds", "2")
    report = last_json(thetaprime(*args, "--seed", "0", "--output", output, "--json"))
    assert report["meta_policy"] == "cart-pole@1"
    assert [(each["round"], each["trajectories"]) for each in report["rounds"]] == [(0, 3), (1, 3)]
    policy = tp.AdaptedPolicy.load(output, sha256=report["sha256"])
    assert policy.policy_id == report["policy_id"]
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)
    with tp.Client(address) as client:
        assert client.resume(report["session"]).policy.policy_id == policy.policy_id


def test_adapt_passes_arguments_to_the_environment(address: str, tmp_path: Path, thetaprime: Command) -> None:
    args = ("adapt", "point-navigation@1", "--address", address, "--env", "thetaprime/PointNavigation-v0")
    more = ("--rounds", "1", "--trajectories", "2", "--seed", "0", "--output", tmp_path / "p.onnx", "--json")
    near = last_json(thetaprime(*args, "--env-args", "goal=[0.1, 0.1]", *more))
    far = last_json(thetaprime(*args, "--env-args", "goal=[9, 9]", *more))
    assert far["rounds"][0]["mean_return"] < near["rounds"][0]["mean_return"] - 500


def test_adapt_to_an_environment_that_does_not_fit_is_one_line(address: str, thetaprime: Command) -> None:
    result = thetaprime("adapt", "cart-pole", "--address", address, "--env", "Pendulum-v1")
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if line.strip()] == [
        "thetaprime adapt: env.observation_space: Box([-1. -1. -8.], [1. 1. 8.], (3,), float32); "
        "the policy takes one array of shape [4]"
    ]


def test_adapt_goes_on_with_a_session(address: str, tmp_path: Path, thetaprime: Command) -> None:
    args = ("adapt", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    with tp.Client(address) as client:
        session = client.create_session("cart-pole")
        with gymnasium.make("CartPole-v1") as env:
            session.run(env, 1, progress=False)
        report = last_json(thetaprime(*args, "--resume", session.id, "--rounds", "2", "--json"))
        assert (report["session"], [each["round"] for each in report["rounds"]]) == (session.id, [0, 1])
        assert client.resume(session.id).info.state == "closed"
    for wrong in ((), ("cart-pole", "--resume", session.id)):
        result = thetaprime(*args, *wrong)
        assert result.exit_code == 2
        assert "expected either a META_POLICY" in result.stderr


def test_adapt_that_takes_too_long_says_how_to_go_on(address: str, tmp_path: Path, thetaprime: Command) -> None:
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx")
    result = thetaprime(*args, "--trajectories", "1000000", "--timeout", "0.5")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert re.search(r"did not end within its timeout of 0\.5 s; .*; session \S+ is in round 0, .* resume it to", line)
    assert not (tmp_path / "p.onnx").exists()


def test_adapt_that_is_interrupted_says_how_to_go_on(address: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "thetaprime.cli", "adapt", "cart-pole", "--address", address, "--env", "CartPole-v1",
         "--trajectories", "1000000", "--output", str(tmp_path / "p.onnx")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    with tp.Client(address) as client:
        known = {each.session_id for each in client.sessions()}
        while not (new := {each.session_id for each in client.sessions()} - known):
            assert process.poll() is None, process.communicate()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        # A fast machine has more episodes by then than a round takes: what is beyond that is said to be lost.
        session_id, last = new.pop(), errors.strip().splitlines()[-1]
        kept = re.search(rf"aborted; .*session {session_id} is in round 0, with (\d+) of 1000000 trajectories", last)
        assert kept, errors
        assert client.resume(session_id).batch.trajectories == int(kept[1])


def test_adapt_a_meta_policy_that_is_not_there_is_one_line(address: str, thetaprime: Command) -> None:
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
