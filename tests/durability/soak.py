"""Kills a server again and again under its clients, then measures the growth of its memory and open files.

    KILLS=1000 MINUTES=60 CLIENTS=4 make soak

Half of the kills are at a failpoint, half at a random moment. Every client must end with the θ′ that an undisturbed
server returns, and the server must keep everything that it acknowledged. For the rest of the minutes, and at least a
quarter of them, the soak samples the server's memory and open files. The last line is one JSON object.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress

import thetaprime.client as tp
from tests.support.artifacts import write_point_artifact
from tests.support.faults.customers import Customers, Outcome, adapt_once
from tests.support.server.process import ServerProcess
from thetaprime.server import failpoints

_SAMPLE_SECONDS: Final = 1.0
_WARM_UP: Final = 0.25
_KIB_PAGES: Final = os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Runs the soak; exits with 1 if data was lost or a policy differs."""
    kills, minutes = int(os.environ.get("KILLS", "1000")), float(os.environ.get("MINUTES", "60"))
    seed, clients = int(os.environ.get("SEED", "0")), int(os.environ.get("CLIENTS", "4"))
    console = Console(stderr=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thetaprime-soak-") as name, Progress(console=console) as bar:
        folder = Path(name)
        write_point_artifact(folder / "zoo")
        with (
            ServerProcess(folder, folder / "zoo") as server,
            Customers(server.address, clients, expiring=True) as customers,
        ):
            killed = _disturb(server, customers, kills, random.Random(seed), bar)
            left = max(minutes * 60 - (time.monotonic() - began), minutes * 15)
            memory, files = _watch(server, left, bar)
            customers.finish()
            status = server.stop()
        if customers.failures:
            raise customers.failures[0]
        outcomes = {outcome.seed: outcome for outcome in customers.outcomes}
        console.print(
            f"{killed} kills, {len(outcomes)} adaptations; an hour: {memory:+.1f} KiB, {files:+.2f} descriptors"
        )
        differing = _differing(folder / "undisturbed", folder / "zoo", outcomes, clients, bar)
        lost = [line for outcome in outcomes.values() for line in outcome.lost]
    for line in lost:
        console.print(line)
    result = {
        "kills": killed,
        "clients": clients,
        "lost": len(lost),
        "differing": differing,
        "rss_slope_kib_per_hour": round(memory, 1),
        "descriptor_slope_per_hour": round(files, 2),
        "adaptations": len(outcomes),
        "exit_status": status,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(bool(lost or differing or status))


def _disturb(server: ServerProcess, customers: Customers, kills: int, rng: random.Random, bar: Progress) -> int:
    """Kills and restarts the server so many times; returns the number of kills."""
    points = sorted(failpoints.POINTS)
    row = bar.add_task("killing", total=kills)
    killed = 0
    server.start()
    while killed < kills and not customers.failures:
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 1.0))
        server.kill()
        armed = ""
        if rng.random() < 0.5:
            point = rng.choice(points)
            once = point.startswith(("start.", "sweep."))
            armed = f"{point}=kill@{1 if once else rng.randint(1, 5)}"
        # A failpoint that is not reached in this time is followed by a kill from outside.
        if server.start_armed(armed) and armed:
            server.wait_killed(5.0)
        killed += 1
        bar.update(row, completed=killed)
    server.kill()
    server.start()
    return killed


def _watch(server: ServerProcess, seconds: float, bar: Progress) -> tuple[float, float]:
    """Measures the growth of resident memory (KiB an hour) and of open files (an hour), after a warm-up."""
    row = bar.add_task("watching", total=seconds)
    started, samples = time.monotonic(), []
    while (passed := time.monotonic() - started) < seconds:
        if passed > _WARM_UP * seconds:
            samples.append((passed / 3600, *_usage(server.pid)))
        bar.update(row, completed=passed)
        time.sleep(_SAMPLE_SECONDS)
    if len(samples) < 2:
        return 0.0, 0.0
    hours, memory, files = np.array(samples).T
    return float(np.polyfit(hours, memory, 1)[0]), float(np.polyfit(hours, files, 1)[0])


def _usage(pid: int) -> tuple[int, int]:
    """Returns resident memory in KiB, and the number of open files, of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _KIB_PAGES, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _differing(folder: Path, zoo: Path, outcomes: Mapping[int, Outcome], clients: int, bar: Progress) -> int:
    """Returns how many clients end with other policies on an undisturbed server."""
    folder.mkdir()
    with ServerProcess(folder, zoo) as server, ThreadPoolExecutor(clients) as threads:
        server.start()
        with tp.Client(server.address) as client:
            ends = threads.map(lambda seed: adapt_once(client, seed) == outcomes[seed], sorted(outcomes))
            return sum(not same for same in bar.track(ends, total=len(outcomes), description="comparing"))


if __name__ == "__main__":
    main()
