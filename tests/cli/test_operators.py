"""`health` and `sessions`: what an operator asks a server."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.command import Command, last_json
from tests.support.point_navigation import OnnxPolicy, play
from tests.support.server.process import reserve_port
from thetaprime import wire
from thetaprime.server import ServerConfig, running_server

POINT = "point-navigation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operated") / "store"


@pytest.fixture(scope="module")
def address(zoo: Path, folder: Path) -> Iterator[str]:
    config = ServerConfig(address="127.0.0.1:0", store=folder, zoo=(zoo,), probe_seconds=0.02)
    with running_server(config) as host_and_port:
        yield host_and_port


def collector(policy: OnnxPolicy, count: int) -> list[wire.Trajectory]:
    return play(policy, np.random.default_rng(0), count)


def test_health_follows_the_server(address: str, folder: Path, thetaprime: Command) -> None:
    healthy = last_json(thetaprime("health", "--address", address, "--json"))
    assert (healthy["address"], healthy["status"]) == (address, "SERVING")
    away = folder.with_name("away")
    folder.rename(away)
    deadline = time.monotonic() + 60
    while (result := thetaprime("health", "--address", address)).exit_code == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (result.exit_code, result.stdout) == (1, f"{address}: NOT_SERVING\n")
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(thetaprime, "health", "--address", address, "--wait", 60)
        away.rename(folder)
        assert (waiting.result().exit_code, waiting.result().stdout) == (0, f"{address}: SERVING\n")


def test_a_server_that_does_not_answer_is_told_from_one_that_is_not_serving(thetaprime: Command) -> None:
    nowhere = f"127.0.0.1:{reserve_port()}"
    result = thetaprime("health", "--address", nowhere, "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"thetaprime health: {nowhere}: ") and len(result.stderr.splitlines()) == 1
    assert json.loads(result.stdout.splitlines()[-1])["error"]["code"] == "UNAVAILABLE"


def test_an_unknown_service_is_named(address: str, thetaprime: Command) -> None:
    result = thetaprime("health", "--address", address, "--service", "other.Service")
    assert result.exit_code == 2
    assert "the server has no service 'other.Service'" in result.stderr


def test_sessions_are_listed_in_pages_and_by_filters(address: str, thetaprime: Command) -> None:
    with tp.Client(address) as client:
        ids = [client.create_session(POINT if index % 2 else "cart-pole").id for index in range(5)][::-1]
        client.close_session(ids[2])
    at = ("sessions", "list", "--address", address)
    first = last_json(thetaprime(*at, "--limit", 2, "--json"))
    assert [each["session"] for each in first["sessions"]] == ids[:2]
    second = last_json(thetaprime(*at, "--limit", 3, "--after", first["next"], "--json"))
    assert [each["session"] for each in second["sessions"]] == ids[2:]
    assert second["next"] is None
    for filters, expected in (
        (("--state", "closed"), ids[2:3]),
        (("--meta-policy", "cart-pole"), ids[::2]),
        (("--meta-policy", f"{POINT}@1", "--state", "open"), ids[1::2]),
        (("--meta-policy", f"{POINT}@2"), []),
        (("--older-than", 1), []),
    ):
        assert [each["session"] for each in last_json(thetaprime(*at, *filters, "--json"))["sessions"]] == expected
    shown = thetaprime(*at, "--limit", 3).stdout.splitlines()
    assert [line.split()[0] for line in shown[:3]] == ids[:3]
    assert shown[3:] == [f"more: --after {ids[2]}"]
    assert "closed" in shown[2] and "cart-pole@1" in shown[2]
    assert thetaprime(*at, "--older-than", 1).stdout == "no sessions\n"
    unknown = thetaprime(*at, "--after", "unknown")
    assert unknown.exit_code == 2
    assert "'unknown'; expected a session that is listed" in unknown.stderr


def test_a_session_is_shown_with_its_steps_and_closed(address: str, thetaprime: Command) -> None:
    with tp.Client(address) as client:
        session = client.create_session(POINT)
        session.run(collector, 2, trajectories=4, progress=False)
        reports = session.reports
        thrown_away = client.create_session(POINT)
    shown = thetaprime("sessions", "show", session.id, "--address", address)
    assert shown.exit_code == 0, shown.output
    assert f"session {session.id} of {POINT}@1: open, 2 rounds taken" in shown.stdout
    assert len(re.findall(r"^step [12]: [A-Z_]+, return ", shown.stdout, re.MULTILINE)) == 2
    facts = last_json(thetaprime("sessions", "show", session.id, "--address", address, "--json"))
    assert [each["mean_return"] for each in facts["steps"]] == [each.mean_return for each in reports]
    closed = last_json(thetaprime("sessions", "close", session.id, thrown_away.id, "--address", address, "--json"))
    assert [each["state"] for each in closed["sessions"]] == ["closed", "closed"]
    with tp.Client(address) as client:
        with pytest.raises(tp.PreconditionError, match="is closed"):
            client.resume(thrown_away.id).upload(collector(thrown_away.policy, 1))
        assert client.resume(session.id).policy.policy_id == facts["policy_id"]
    again = thetaprime("sessions", "close", session.id, "unknown", "--address", address)
    assert again.exit_code == 1
    assert "unknown" in again.stderr and session.id in again.stdout
