"""Runs the benchmarks; prints a table and writes benchmarks/results.json and docs/speed.md.

python benchmarks/run.py            every benchmark
python benchmarks/run.py act        the named ones; recorded results of the others stay
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import (  # noqa: E402
    act,
    adaptation_round,
    bodies,
    collection,
    export,
    flood,
    idle_sessions,
    importing,
    memory,
    policy,
    sampler,
    service_load,
    speed,
    start,
)
from benchmarks.measure import Row, machine  # noqa: E402

BENCHMARKS = {
    "act": act.rows,
    "memory": memory.rows,
    "policy": policy.rows,
    "collection": collection.rows,
    "import": importing.rows,
    "export": export.rows,
    "round": adaptation_round.rows,
    "load": service_load.rows,
    "flood": flood.rows,
    "idle": idle_sessions.rows,
    "start": start.rows,
    "sampler": sampler.rows,
    "bodies": bodies.rows,
}


def main() -> None:
    """Runs the requested benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="default: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; expected any of {', '.join(BENCHMARKS)}")
    console = Console()
    names = arguments.names or list(BENCHMARKS)
    measured = {name: BENCHMARKS[name]() for name in track(names, "measuring", console=console, transient=True)}
    found = [row for rows in measured.values() for row in rows]
    table = Table("what", "ours", "reference", "ratio", "budget", "holds", caption=machine())
    for row in found:
        table.add_row(
            row.name,
            f"{row.ours:.3g} {row.unit}",
            f"{row.reference:.3g} {row.unit}",
            f"{row.ratio:.3g}",
            f"{row.budget:g}",
            "yes" if row.holds else "NO",
        )
    console.print(table)
    for row in found:
        if row.parts:
            parts = Table("of which", row.unit, "share", title=row.name)
            for name, value in row.parts.items():
                parts.add_row(name, f"{value:.3g}", f"{value / row.ours:.0%}")
            console.print(parts)
    arguments.output.write_text(json.dumps(_merge(arguments.output, measured), indent=2) + "\n")
    console.print(f"wrote {arguments.output}")
    if arguments.output == speed.RESULTS:
        speed.PAGE.write_text(speed.page(json.loads(speed.RESULTS.read_text())))
        console.print(f"wrote {speed.PAGE}")


def _merge(path: Path, measured: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Returns this run's rows, and the recorded rows of benchmarks that did not run."""
    before = json.loads(path.read_text()) if path.exists() else []
    recorded: list[dict[str, Any]] = []
    for name in BENCHMARKS:
        if name in measured:
            recorded += [{"benchmark": name, **dataclasses.asdict(row)} for row in measured[name]]
        else:
            recorded += [row for row in before if row.get("benchmark") == name]
    return recorded


if __name__ == "__main__":
    main()
