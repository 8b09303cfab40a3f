"""Progress of an adaptation: a bar in a terminal and in a notebook, lines elsewhere."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

import thetaprime.client as tp
from thetaprime.client._progress import ProgressLines, progress_bars, progress_callback

NOTEBOOK = """
import json, sys
from ipykernel.inprocess import InProcessKernelManager
assert "ipywidgets" not in sys.modules
manager = InProcessKernelManager()
manager.start_kernel()
client = manager.client()
client.start_channels()
client.execute('''
import thetaprime.client as tp
from thetaprime.client._progress import progress_callback
with progress_callback(None) as show:
    for collected in (1, 2, 4):
        show(tp.Progress("s", 0, 1, collected, 4, None))
    report = type("Report", (), {"mean_return": -2.0, "std_return": 0.5})()
    show(tp.Progress("s", 0, 1, 4, 4, report))
''')
status = client.get_shell_msg(timeout=30)["content"]["status"]
shown = []
while client.iopub_channel.msg_ready():
    message = client.get_iopub_msg()
    if message["msg_type"] in ("display_data", "update_display_data", "stream", "error"):
        shown.append([message["msg_type"], message["content"]])
print(json.dumps([status, shown]))
"""


def progress(collected: int, report: tp.AdaptationReport | None = None, round_index: int = 0) -> tp.Progress:
    return tp.Progress("s", round_index, 2, collected, 4, report)


def test_a_notebook_shows_a_bar_without_ipywidgets() -> None:
    pytest.importorskip("ipykernel")
    result = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    status, shown = json.loads(result.stdout.splitlines()[-1])
    assert status == "ok"
    assert [kind for kind, _ in shown] == ["display_data", "update_display_data"]
    texts = [content["data"]["text/plain"] for _, content in shown]
    assert texts == [
        "█████░░░░░░░░░░░░░░░ 1/4 episodes  round 1",
        "████████████████████ 4/4 episodes  round 1  return -2 ± 0.5",
    ]
    identities = {content["transient"]["display_id"] for _, content in shown}
    assert len(identities) == 1  # the bar is redrawn in place


def test_lines_are_the_first_those_that_must_be_seen_and_at_most_one_in_a_while() -> None:
    written: list[str] = []
    lines = ProgressLines(written.append, seconds=3600.0)
    lines.show("first")
    lines.show("too early")
    lines.show("last", always=True)
    assert written == ["first", "last"]
    lines = ProgressLines(written.append, seconds=0.0)
    lines.show("late enough")
    lines.show("again")
    assert written[2:] == ["late enough", "again"]


def test_progress_in_a_pipe_is_lines_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in ((None, []), (False, []), (True, ["round 1  1/4 episodes"])):
        with progress_callback(option) as show:
            show(progress(1))
            show(progress(2))
        assert capsys.readouterr().err.splitlines() == expected


def test_a_terminal_shows_a_bar_for_each_round() -> None:
    console = Console(force_terminal=True, file=io.StringIO(), width=80)
    with progress_bars(console) as show:
        for round_index in range(2):
            for collected in range(1, 5):
                show(progress(collected, round_index=round_index))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "4/4 episodes" in drawn and "round 1" in drawn and "round 2" in drawn
