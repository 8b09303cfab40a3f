"""Where the time of one round goes, by the clock: its parts follow one another, and add up to the round.

The functions of `SERVER` and `CLIENT` note when they begin and end. The server runs in its own process, as a script of
this file, and writes its notes when it stops. The clock of `time.perf_counter` is one for all processes of a machine.
"""

import contextlib
import functools
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from thetaprime.server.runtime.tuning import freeze_startup_objects

SERVER: Final = {
    "accept": ("thetaprime.server.rpc.adaptation_service", "accept_upload"),
    "verify": ("thetaprime.server.sessions.uploads", "_verified_trajectories"),
    "step": ("thetaprime.server.adaptation.precompute", "compute_step"),
    "next_step": ("thetaprime.server.adaptation.step", "next_step"),
    "inputs": ("thetaprime.models.verdict.session_step", "baseline_inputs"),
    "advantages": ("thetaprime.models.verdict.session_step", "inner_advantages"),
    "gradient": ("thetaprime.models.verdict.session_step", "adapt_step"),
    "summary": ("thetaprime.models.verdict.session_step", "summarize_step"),
    "take": ("thetaprime.server.runtime.components", "take_round"),
}
"""Module and name of each function that is timed in the server: as its caller looks it up."""
CLIENT: Final = {
    "prepare": ("thetaprime.client._sync.session", "prepare_upload"),
    "load": ("thetaprime.client._policy.adapted_policy", "AdaptedPolicy.from_message"),
}
"""The same of the client."""


class Note(NamedTuple):
    """One call of a timed function.

    Attributes:
        name: its key in `SERVER` or `CLIENT`.
        start: seconds of `time.perf_counter`.
        end: the same.
    """

    name: str
    start: float
    end: float


@contextlib.contextmanager
def noted_calls(functions: Mapping[str, tuple[str, str]], notes: list[Note]) -> Iterator[None]:
    """Each function notes its calls for as long as the context lasts."""
    with contextlib.ExitStack() as undo:
        for name, (module, path) in functions.items():
            *owners, attribute = path.split(".")
            owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
            undo.callback(setattr, owner, attribute, vars(owner)[attribute])
            setattr(owner, attribute, _noted(name, getattr(owner, attribute), notes))
        yield


def _noted(name: str, function: Callable[..., Any], notes: list[Note]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            notes.append(Note(name, start, time.perf_counter()))

    return noted


def parts_of(start: float, end: float, notes: Iterable[Note]) -> dict[str, float]:
    """The parts of a round in seconds, in the order in which they follow one another.

    Args:
        start: when the client's call began.
        end: when θ′ had acted.
        notes: of the round. Only functions within the step may have several.
    """
    every = list(notes)
    at = {note.name: note for note in every}

    def length(name: str) -> float:
        return sum(note.end - note.start for note in every if note.name == name)

    baseline = length("inputs") + length("advantages")
    return {
        "client: validate, pack, digest": at["prepare"].end - start,
        "call, admission, payload": at["accept"].start - at["prepare"].end,
        "server: digest, unpack, validate": at["verify"].start - at["accept"].start,
        "forward pass, test of the actions": length("verify"),
        "row of the upload": at["step"].start - at["verify"].end,
        "step: baseline, advantages": baseline,
        "step: gradient": length("gradient"),
        "step: verdict": length("next_step") - baseline - length("gradient") - length("summary"),
        "step: report, ONNX file": length("step") - length("next_step") + length("summary"),
        "commit of θ′, after the upload's": at["take"].end - at["step"].end,
        "reply": at["load"].start - at["take"].end,
        "client: load θ′": length("load"),
        "first action": end - at["load"].end,
    }


def round_parts(rounds: Iterable[tuple[float, float]], notes: Iterable[Note]) -> dict[str, float]:
    """The median of each part over rounds, in milliseconds.

    Args:
        rounds: start and end of each.
        notes: of client and server; a round has those that began within it.
    """
    every = sorted(notes, key=lambda note: note.start)
    found = [parts_of(start, end, [note for note in every if start <= note.start <= end]) for start, end in rounds]
    return {name: 1e3 * median(each[name] for each in found) for name in found[0]}


def read_notes(path: Path) -> list[Note]:
    """Reads what a server has written."""
    return [Note(*each) for each in json.loads(path.read_text())]


def server_command(notes: Path) -> tuple[str, ...]:
    """Arguments of Python, in place of ``-m thetaprime.cli``, for a server that writes its notes into a file."""
    return __file__, str(notes)


def new_file() -> Path:
    """Returns a path for the notes of a server."""
    return Path(tempfile.mkdtemp(prefix="thetaprime-bench-")) / "notes.json"


def _main() -> None:
    path, *arguments = sys.argv[1:]
    with freeze_startup_objects():
        from thetaprime.cli import cli
    notes: list[Note] = []
    try:
        with noted_calls(SERVER, notes):
            cli(arguments, prog_name="thetaprime")
    finally:
        Path(path).write_text(json.dumps(notes))


if __name__ == "__main__":
    _main()
