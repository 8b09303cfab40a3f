"""`serve` and `demo` as real processes."""

import json
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import thetaprime.client as tp
from tests.support.server.process import ServerProcess

Command = Callable[..., Result]
SERVE = [sys.executable, "-m", "thetaprime.cli", "serve"]


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_serve_announces_its_address_and_stops_on_a_signal(
    stop: signal.Signals, workers: int, zoo: Path, tmp_path: Path
) -> None:
    args = [*SERVE, "--address", "127.0.0.1:0", "--store", str(tmp_path / "store"), "--zoo", str(zoo)]
    args += ["--workers", str(workers)]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("serving on 127.0.0.1:"), process.communicate()
    with tp.Client(ready.removeprefix("serving on ").strip()) as client:
        assert [each.label for each in client.meta_policies()] == ["cart-pole@1", "point-navigation@1"]
    process.send_signal(stop)
    rest, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert rest == ""  # stdout had exactly one line
    assert "Traceback" not in log


def test_show_config_prints_the_settings_and_starts_no_server(tmp_path: Path, thetaprime: Command) -> None:
    file = tmp_path / "server.toml"
    file.write_text("workers = 3\nadaptation_threads = 5\nqueue = 7\n")
    result = thetaprime("serve", "--config", file, "--queue", 9, "--store", tmp_path / "store", "--show-config")
    assert result.exit_code == 0, result.output
    printed = tomllib.loads(result.stdout)
    assert (printed["workers"], printed["adaptation_threads"], printed["queue"]) == (3, 5, 9)
    assert printed["store"] == str(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    missing = thetaprime("serve", "--config", tmp_path / "nowhere.toml", "--show-config")
    assert missing.exit_code == 1
    assert missing.stderr == f"thetaprime serve: config {tmp_path / 'nowhere.toml'}: no such file\n"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_of_errors_has_audits_alone(workers: int, zoo: Path, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, zoo, "--log-level", "error", "--workers", str(workers)) as server:
        with tp.Client(server.start()) as client:
            client.create_session("cart-pole")
            with pytest.raises(tp.NotFoundError):
                client.create_session("unknown")
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [each["action"] for each in lines] == ["created"]


def test_an_address_in_use_is_one_line(zoo: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        args = [*SERVE, "--address", address, "--store", str(tmp_path / "store"), "--zoo", str(zoo)]
        result = subprocess.run(args, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("thetaprime serve: ")
    assert address in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_damaged_artifact_is_one_line(workers: str, tmp_path: Path) -> None:
    artifact = tmp_path / "zoo" / "cart-pole" / "1"
    artifact.mkdir(parents=True)
    (artifact / "manifest.json").write_text("{}")
    args = [*SERVE, "--store", str(tmp_path / "store"), "--zoo", str(tmp_path / "zoo")]
    args += ["--address", "127.0.0.1:0", "--workers", workers]
    result = subprocess.run(args, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "manifest.json" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_demo(zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    args = ("demo", "--zoo", zoo, "--goal", "0.3", "-0.2", "--rounds", "2", "--trajectories", "4", "--episodes", "3")
    result = thetaprime(*args, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["meta_policy"], report["task"]) == ("point-navigation@1", {"goal": [0.3, -0.2]})
    assert [each["round"] for each in report["rounds"]] == [0, 1, 2]
    assert [each["adapt_ms"] is None for each in report["rounds"]] == [True, False, False]
    for each in report["rounds"]:
        assert np.isfinite([each["mean_return"], each["std_return"]]).all()
    assert np.isfinite(report["oracle_return"])
    assert tp.AdaptedPolicy.load(report["onnx"]).meta_policy == "point-navigation@1"
    assert Path(report["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_seed_determines_the_goal_and_the_result(zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    def run(*goal: object) -> dict[str, object]:
        args = ("demo", "--zoo", zoo, "--seed", 5, "--rounds", "1", "--trajectories", "2", "--episodes", "2", *goal)
        report = json.loads(thetaprime(*args, "--output", tmp_path, "--json").stdout.splitlines()[-1])
        return {
            "goal": report["task"]["goal"],
            "returns": [each["mean_return"] for each in report["rounds"]],
            "oracle": report["oracle_return"],
        }

    drawn = run()
    goal = drawn["goal"]
    assert isinstance(goal, list)
    assert all(-0.5 < float(x) < 0.5 for x in goal)
    assert run("--goal", *goal) == drawn


def test_a_failed_start_of_the_server_is_one_line(tmp_path: Path, thetaprime: Command) -> None:
    (tmp_path / "zoo" / "point-navigation" / "1").mkdir(parents=True)
    (tmp_path / "zoo" / "point-navigation" / "1" / "manifest.json").write_text("{}")
    result = thetaprime("demo", "--zoo", tmp_path / "zoo", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "manifest.json" in result.stderr
