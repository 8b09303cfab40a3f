"""Attacks a server for minutes, with all attacks, one after the other.

    MINUTES=10 make attack
    ONLY=rapid-reset,ping-flood MINUTES=1 make attack
    PAGE=1 MINUTES=10 make attack    # writes the table of docs/reliability.md

An honest client takes rounds meanwhile. Each attack meets a fresh process on the same store, in a memory cgroup where
one can be made. At the end the server is killed and started again, and must have everything that it acknowledged. The
last line is one JSON object.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.attack.arena import HEADING, Arena, Result
from tests.attack.attacks import ATTACKS
from tests.attack.page import write_table

_REST_SECONDS: Final = 3.0
_SHORTEST, _LONGEST = 5.0, 30.0
# A process starts, and warms up.
_START_SECONDS: Final = 5.0


def main() -> None:
    """Runs the attacks; exits with 1 if data was lost or a server died."""
    seconds = 60 * float(os.environ.get("MINUTES", "10"))
    only = os.environ.get("ONLY", "")
    chosen = {name: ATTACKS[name] for name in (only.split(",") if only else ATTACKS)}
    console = Console(stderr=True, width=120, highlight=False)
    each = min(_LONGEST, max(_SHORTEST, seconds / len(chosen) - _REST_SECONDS - _START_SECONDS))
    results: list[Result] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="thetaprime-attack-") as name:
        folders = [Path(name) / each for each in ("open", "guarded")]
        for folder in folders:
            folder.mkdir()
        arenas = [Arena(folder, guarded=guarded) for folder, guarded in zip(folders, (False, True), strict=True)]
        console.print(HEADING)
        while not results or time.monotonic() + each < end:
            for kind in chosen.values():
                arena = arenas[kind.guarded]
                with arena.serving() as served:
                    results.append(served.suffer(kind, each, served.rest(_REST_SECONDS)))
                console.print(results[-1].line())
                if len(results) > len(chosen) and time.monotonic() > end:
                    break
        lost = [line for arena in arenas if arena.kept for line in arena.find_lost()]
    for line in lost:
        console.print(line)
    console.print(f"\n{HEADING}")
    worst = {attack: _worst([each for each in results if each.attack == attack]) for attack in chosen}
    for result in worst.values():
        console.print(result.line())
    if os.environ.get("PAGE"):
        write_table(worst)
    caged = "a memory cgroup" if arenas[0].caged or arenas[1].caged else "no memory cgroup could be made"
    console.print(f"{caged}; {sum(len(arena.kept) for arena in arenas)} honest rounds; {each:.0f} s for each attack")
    summary = {
        "attacks": len({each.attack for each in results}),
        "peak_rss_mib": round(max(each.mib for each in results), 1),
        "honest_p95_ratio": round(max(each.ratio for each in results), 2),
        "median_p95_ratio": round(statistics.median(each.ratio for each in results), 2),
        "lost": len(lost),
        "survived": all(each.survived for each in results),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    sys.exit(bool(lost) or not summary["survived"])


def _worst(results: list[Result]) -> Result:
    """Returns the run of an attack that took the most memory."""
    return max(results, key=lambda each: each.mib)


if __name__ == "__main__":
    main()
