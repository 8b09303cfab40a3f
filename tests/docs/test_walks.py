"""Runs the two walks of ARCHITECTURE.md, and compares the files that they visit with the page's lists."""

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import gymnasium
import pytest

import thetaprime.client as tp
import thetaprime.training  # noqa: F401  # registers the environments
from thetaprime.cli import cli
from thetaprime.server import ServerConfig, running_server

ROOT = Path(__file__).parents[2]
_FUNCTION = 1  # CO_OPTIMIZED: set for functions, not for the bodies of modules and classes


class Recorder:
    """Collects the project's files in which a function runs, on every thread that starts inside `recording`."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.enabled = False
        self._known: set[CodeType] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not self.enabled or event != "call" or code in self._known or not code.co_flags & _FUNCTION:
            return
        if _is_importing(frame):
            return
        self._known.add(code)
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and path.parts[len(ROOT.parts) + 1 : len(ROOT.parts) + 2] == ("thetaprime",):
            self.files.add(path.relative_to(ROOT).as_posix())


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def take_a_trajectory(recorder: Recorder, folder: Path) -> None:
    """Collects one round of trajectories, uploads it and adapts, through a real server."""
    config = ServerConfig(store=folder, address="127.0.0.1:0")
    with recorder.recording(), running_server(config) as address, tp.Client(address) as client:
        env = gymnasium.make("thetaprime/PointNavigation-v0", goal=[0.3, -0.2])
        session = client.create_session("point-navigation")
        recorder.enabled = True
        session.upload(tp.collect(session.policy, env, trajectories=20))
        session.adapt()
        assert session.round == 1
        recorder.enabled = False
        env.close()


def take_an_iteration(recorder: Recorder, folder: Path) -> None:
    """Runs one iteration of MAML-TRPO by the command."""
    command = ["train", "half-cheetah-direction", "--recipe", "paper", "--iterations", "1"]
    sizes = ["--meta-batch-size", "2", "--support-trajectories", "4"]
    with recorder.recording():
        recorder.enabled = True
        cli([*command, *sizes, "--output", str(folder / "run")], standalone_mode=False)
        recorder.enabled = False


def listed(heading: str) -> tuple[list[str], list[str]]:
    """Returns the stops of a walk, and the files around it, as ARCHITECTURE.md lists them."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None, f"ARCHITECTURE.md has no section {heading!r}"
    stops, around = section[1].split("\nAround these stops", maxsplit=1)
    stops_found, around_found = (re.findall(r"\]\(([\w./-]+\.py)\)", part) for part in (stops, around))
    return stops_found, around_found


@pytest.mark.parametrize(
    ("heading", "walk", "most"),
    [
        ("One trajectory, from collect to θ′", take_a_trajectory, 28),
        ("One iteration, from the command to the accepted step", take_an_iteration, 16),
    ],
)
def test_a_walk_visits_the_files_that_the_page_lists(
    heading: str,
    walk: Callable[[Recorder, Path], None],
    most: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Periodic tasks run beside the call, and are no part of its walk.
    monkeypatch.setattr("thetaprime.server.runtime.lifecycle.start_background_tasks", lambda *_, **__: [])
    monkeypatch.setattr("thetaprime.server.rpc.connections.Connections.watch", lambda *_: contextlib.nullcontext())
    recorder = Recorder()
    walk(recorder, tmp_path)
    stops, around = listed(heading)
    assert recorder.files == {*stops, *around}
    assert len(stops) + len(around) == len(recorder.files), "a file is listed twice"
    assert len(stops) <= most
