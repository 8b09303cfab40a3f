"""Measures the verdicts: runs sessions through a real server, or in this process, and records each.

python benchmarks/verdicts/run.py                            every case, for ten minutes
python benchmarks/verdicts/run.py --cases scale --sessions 50
python benchmarks/verdicts/run.py --minutes 60               goes on where the last call stopped
python benchmarks/verdicts/run.py --in-process               ten times as many sessions, without a server

A trial that the records contain is not run again. Other code of the models or of the server begins new records.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.verdicts.cases import CASES  # noqa: E402
from benchmarks.verdicts.in_process import InProcess  # noqa: E402
from benchmarks.verdicts.trials import Server, Trial, interleaved  # noqa: E402
from thetaprime.cli._server_process import server_process  # noqa: E402

_FOLDER: Final = ROOT / "build" / "verdicts"
_NICE: Final = 19
_FEW_MATCHES: Final = 1000


def main() -> None:
    """Runs trials until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="default: all", metavar="CASE")
    parser.add_argument("--sessions", type=int, default=None, help="of each case, at most")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--in-process", action="store_true", help="call the step function, without a server")
    parser.add_argument("--records", type=Path, default=None, help="default: a file for the code as it is")
    parser.add_argument("--only", default="", help="a word that a trial's meta-policy or name contains")
    arguments = parser.parse_args()
    arguments.records = arguments.records or default_records()
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    os.nice(_NICE)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    until = time.monotonic() + 60.0 * arguments.minutes
    done = {record["key"] for record in read(arguments.records)}
    trials = interleaved([_first(CASES[case](), arguments.sessions, arguments.only) for case in arguments.cases])
    with _place(in_process=arguments.in_process) as place:
        run(place, trials, done, arguments.records, until)


@contextlib.contextmanager
def _place(*, in_process: bool) -> Iterator[InProcess | Server]:
    """Where the sessions run: in this process, or on a server in another one."""
    if in_process:
        yield InProcess()
        return
    with server_process("--max-tenant-requests-per-second", "10000") as process:
        server = Server(process.address())
        try:
            yield server
        finally:
            server.close()


def default_records() -> Path:
    """The file of the records that the present code of the models and the server made."""
    code = hashlib.sha256()
    for folder in ("models", "server"):
        for path in sorted((ROOT / folder / "thetaprime").rglob("*")):
            if path.suffix in (".py", ".json"):
                code.update(path.read_bytes())
    return _FOLDER / f"{code.hexdigest()[:12]}.jsonl"


def read(records: Path) -> Iterator[dict[str, Any]]:
    """Reads the records, except a last line that was cut."""
    if not records.exists():
        return
    for line in records.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def run(place: InProcess | Server, trials: Iterable[Trial], done: set[str], records: Path, until: float) -> None:
    """Runs the trials that are not done, and appends a line for each."""
    count = 0
    with records.open("a") as file:
        for trial in trials:
            if time.monotonic() > until:
                break
            if trial.key in done:
                continue
            record = place.run(trial)
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
            file.flush()
            done.add(trial.key)
            count += 1
    print(f"{count} sessions; {len(done)} in {records}")


def _first(trials: Iterator[Trial], count: int | None, only: str) -> Iterator[Trial]:
    """The first trials whose meta-policy or name contains a word."""
    found = missed = 0
    for trial in trials:
        if count is not None and found >= count:
            return
        if only in f"{trial.meta_policy} {trial.name}":
            found, missed = found + 1, 0
            yield trial
        elif (missed := missed + 1) > _FEW_MATCHES:
            return


if __name__ == "__main__":
    main()
