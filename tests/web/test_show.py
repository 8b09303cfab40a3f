"""``thetaprime demo --web`` as a process: its extra, its signals and its cleanup."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_signal_stops_the_server_and_deletes_its_folder(number: signal.Signals, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thetaprime.cli", "demo", "--web", "--no-browser"]
    environment = {**os.environ, "COLUMNS": "200", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert "the page is at http://127.0.0.1:" in process.stdout.readline()
        servers = children(process.pid)
        assert servers
        assert list(tmp_path.glob("thetaprime-*"))
        process.send_signal(number)
        assert process.wait(60) == status
    assert not any(Path(f"/proc/{server}").exists() for server in servers)
    assert not list(tmp_path.glob("thetaprime-*"))


def test_without_the_web_extra_the_command_names_it() -> None:
    code = (
        "import sys; sys.modules['thetaprime.cli.web'] = None; sys.argv = ['thetaprime', 'demo', '--web']\n"
        "from thetaprime.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == "thetaprime demo: --web needs the web extra: pip install 'thetaprime[web]'"


def test_the_main_wheel_leaves_the_page_to_the_wheel_of_the_extra() -> None:
    root = Path(__file__).parents[2]
    main, web = (tomllib.loads((root / folder / "pyproject.toml").read_text()) for folder in (".", "cli/web"))
    assert "/cli/thetaprime/cli/web" in main["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    assert web["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "../thetaprime/cli/web": "thetaprime/cli/web"
    }
    assert web["project"]["version"] == main["project"]["version"]
    pins = (main["project"]["optional-dependencies"]["web"], web["project"]["dependencies"])
    assert pins == (
        [f"thetaprime-web=={web['project']['version']}"],
        [f"thetaprime[server]=={web['project']['version']}"],
    )
