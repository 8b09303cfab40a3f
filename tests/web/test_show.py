"""``thetaprime demo --web`` as a process: its end stops the server and deletes the temporary folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_signal_stops_the_server_and_deletes_its_folder(number: signal.Signals, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thetaprime.cli", "demo", "--web", "--no-browser"]
    environment = {**os.environ, "COLUMNS": "200", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert "the page is at http://127.0.0.1:" in process.stdout.readline()
        servers = children(process.pid)
        assert servers
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        assert process.wait(60) == status
    assert not any(Path(f"/proc/{server}").exists() for server in servers)
    assert not list(tmp_path.iterdir())
