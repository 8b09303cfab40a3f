"""Measures what a session and a round cost a server, its database and its object store, for `thetaprime plan`.

python benchmarks/costs.py            measures, and writes cli/thetaprime/cli/costs.json
"""

import contextlib
import dataclasses
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import psycopg  # noqa: E402

from benchmarks.links import CountingLink, HttpRequests, PostgresMessages, Traffic  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from benchmarks.process import cpu_seconds, resident_bytes  # noqa: E402
from benchmarks.verdicts.environments import make_environment  # noqa: E402
from tests.support.server.object_store import RCLONE  # noqa: E402
from tests.support.server.postgres import Postgres  # noqa: E402
from tests.support.server.process import reserve_port  # noqa: E402
from thetaprime import wire  # noqa: E402
from thetaprime.cli._server_process import server_process  # noqa: E402
from thetaprime.client import AdaptedPolicy, Client, Session, collect  # noqa: E402
from thetaprime.models import load_meta_policy, resolve_meta_policy  # noqa: E402
from thetaprime.server.catalog.catalog import policy_message  # noqa: E402
from thetaprime.server.store import Store  # noqa: E402

OUTPUT: Final = HERE.parent / "cli" / "thetaprime" / "cli" / "costs.json"
PAGE: Final = HERE.parent / "docs" / "scale.md"
META_POLICY: Final = "half-cheetah-velocity"
EPISODES: Final = (5, 20)
WARMUP, SESSIONS = 8, 32
LOAD_SECONDS, LOAD_CLIENTS, LOAD_RATE = 20.0, 4, 4.0
IDLE_SECONDS = 5.0
# Payloads above it go to the object store.
ROW_BYTES: Final = 65_536
KINDS: Final = ("folder", "postgres", "postgres+objects")


@dataclasses.dataclass(frozen=True)
class Place:
    """A store, and what can be measured of it.

    Attributes:
        options: of ``thetaprime serve``.
        counters: return numbers that grow, by name.
    """

    options: list[str]
    counters: Mapping[str, Callable[[], float]]


@contextlib.contextmanager
def opened(kind: str) -> Iterator[Place]:
    """Yields a store of a kind, with proxies that count on the way to it."""
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="thetaprime-costs-")))
        if kind == "folder":
            yield Place(["--store", str(folder / "store")], {"stored_bytes": lambda: _folder_bytes(folder)})
            return
        postgres = running.enter_context(contextlib.closing(Postgres()))
        url = postgres.database()
        Store(url, upgrades=True).close()
        link = running.enter_context(CountingLink(postgres.port, PostgresMessages))
        options = ["--store", url.replace(f":{postgres.port}/", f":{link.port}/")]
        counters = {
            "database_cpu_seconds": lambda: _cpu_of_children(postgres),
            "stored_bytes": lambda: _number(url, "SELECT pg_database_size(current_database())"),
            "rows": lambda: _number(url, "SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables"),
            "log_bytes": lambda: _number(url, "SELECT pg_current_wal_lsn() - '0/0'"),
            **_of_link("database", link, ("statements", "round trips")),
        }
        if kind == "postgres+objects":
            objects = running.enter_context(_object_store(folder))
            options += ["--blobs", "s3://bucket/blobs", "--row-bytes", str(ROW_BYTES)]
            counters |= _of_link("objects", objects, ("PUT", "HEAD", "GET"))
            counters["object_bytes"] = lambda: _folder_bytes(folder)
        yield Place(options, counters)


def measure(kind: str, episodes: int) -> dict[str, dict[str, float]]:
    """Returns the costs of a session's creation, and of a round with so many episodes of 200 steps."""
    collected = _collected(episodes)
    numbers = iter(range(10**6))
    with (
        opened(kind) as place,
        server_process("--adaptation-threads", "1", "--probe-seconds", "86400", *place.options) as server,
        CountingLink(int(server.address().rpartition(":")[2])) as link,
        Client(f"127.0.0.1:{link.port}") as client,
    ):
        counters = {"cpu_seconds": lambda: cpu_seconds(server.pid), **_of_link("client", link), **place.counters}
        for _ in range(WARMUP):
            _round(client.create_session(META_POLICY), collected, next(numbers))
        sessions: list[Session] = []
        create = _cost_of(counters, lambda: sessions.append(client.create_session(META_POLICY)))
        ready = iter(sessions)
        taken = _cost_of(counters, lambda: _round(next(ready), collected, next(numbers)))
    return {"session": create, "round": taken}


def check_load(plan_cpu: float) -> dict[str, float]:
    """Runs clients at a known rate on the store of replicas; returns what was planned, and what was measured.

    Args:
        plan_cpu: processor seconds of a round and its session.
    """
    collected = _collected(EPISODES[-1])
    with (
        opened(KINDS[-1]) as place,
        server_process("--adaptation-threads", "1", *place.options) as server,
        Client(server.address()) as client,
    ):
        for number in range(WARMUP):
            _round(client.create_session(META_POLICY), collected, -1 - number)
        rounds, end = [0] * LOAD_CLIENTS, time.monotonic() + LOAD_SECONDS

        def load(index: int) -> None:
            rng = random.Random(index)  # noqa: S311
            while (wait := rng.expovariate(LOAD_RATE / LOAD_CLIENTS)) + time.monotonic() < end:
                time.sleep(wait)
                _round(client.create_session(META_POLICY), collected, index * 10**5 + rounds[index])
                rounds[index] += 1

        threads = [threading.Thread(target=load, args=(index,)) for index in range(LOAD_CLIENTS)]
        before, started = cpu_seconds(server.pid), time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        used = cpu_seconds(server.pid) - before
        memory, statements = resident_bytes(server.pid), place.counters["database_statements"]
        counted = statements()
        time.sleep(IDLE_SECONDS)
        probes = (statements() - counted) / IDLE_SECONDS
    return {
        "memory_bytes": memory,
        "idle_statements_per_second": probes,
        "rounds_per_second": sum(rounds) / seconds,
        "planned_cores": plan_cpu * sum(rounds) / seconds,
        "measured_cores": used / seconds,
    }


def table(costs: Mapping[str, Any]) -> str:
    """Returns the table of docs/scale.md: the costs of a round with the larger number of episodes."""
    steps = costs["steps"][-1]
    rows = (
        ("processor time of the server, ms", "cpu_seconds", 1e3),
        ("processor time of the database, ms", "database_cpu_seconds", 1e3),
        ("from the client, KiB", "client_sent_bytes", 1 / 1024),
        ("to the client, KiB", "client_received_bytes", 1 / 1024),
        ("to the database, KiB", "database_sent_bytes", 1 / 1024),
        ("from the database, KiB", "database_received_bytes", 1 / 1024),
        ("statements of the database, with BEGIN and COMMIT", "database_statements", 1),
        ("round trips to the database", "database_round_trips", 1),
        ("rows inserted or changed", "rows", 1),
        ("write-ahead log of the database, KiB", "log_bytes", 1 / 1024),
        ("stored in the folder or the database, KiB", "stored_bytes", 1 / 1024),
        ("puts of objects", "objects_put", 1),
        ("other requests to the object store", "objects_head", 1),
        ("stored in the object store, KiB", "object_bytes", 1 / 1024),
    )
    lines = [
        f"| what a round of {steps:,} steps costs | folder | PostgreSQL | PostgreSQL and S3 |",
        "|---|---|---|---|",
    ]
    for title, name, factor in rows:
        found = [costs["kinds"][kind]["round"].get(name) for kind in KINDS]
        cells = ["" if each is None else f"{factor * (each['fixed'] + each['per_step'] * steps):.3g}" for each in found]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(costs: Mapping[str, Any]) -> None:
    """Writes the table into docs/scale.md."""
    before, _, rest = PAGE.read_text().partition("<!-- costs -->\n")
    PAGE.write_text(f"{before}<!-- costs -->\n{table(costs)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


def main() -> None:
    """Measures, and writes the file and the page."""
    found: dict[str, Any] = {"kinds": {}}
    for kind in KINDS:
        small, large = (measure(kind, episodes) for episodes in EPISODES)
        found["kinds"][kind] = {
            "session": large["session"],
            "round": {name: _line(small["round"][name], large["round"][name]) for name in large["round"]},
        }
        print(kind, json.dumps(found["kinds"][kind], indent=1))
    meta_policy = load_meta_policy(resolve_meta_policy(META_POLICY, None))
    trajectories = _collected(EPISODES[-1])
    costs = found["kinds"][KINDS[-1]]
    steps = sum(map(len, trajectories))
    cpu = costs["session"]["cpu_seconds"] + costs["round"]["cpu_seconds"]["fixed"]
    found |= {
        "meta_policy": META_POLICY,
        "steps": [episodes * 200 for episodes in EPISODES],
        "payload_bytes": _line(len(wire.pack(_collected(EPISODES[0]))), len(wire.pack(trajectories))),
        "policy_bytes": len(policy_message(meta_policy.export(meta_policy.parameters)).onnx),
        "machine": machine(),
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "check": check_load(cpu + costs["round"]["cpu_seconds"]["per_step"] * steps),
    }
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    write_page(found)
    print(found["check"])


def _line(small: float, large: float) -> dict[str, float]:
    """Returns the line through the costs of both numbers of episodes."""
    fewer, more = (200 * episodes for episodes in EPISODES)
    per_step = max((large - small) / (more - fewer), 0.0)
    return {"fixed": max(large - per_step * more, 0.0), "per_step": per_step}


def _cost_of(counters: Mapping[str, Callable[[], float]], function: Callable[[], object]) -> dict[str, float]:
    before = {name: counter() for name, counter in counters.items()}
    for _ in range(SESSIONS):
        function()
    # PostgreSQL's processes report what they did once they are idle.
    time.sleep(1.5)
    return {name: (counter() - before[name]) / SESSIONS for name, counter in counters.items()}


def _round(session: Session, collected: list[wire.Trajectory], number: int) -> None:
    # Another payload each time: a store keeps equal ones once.
    first, *others = collected
    rewards = first.rewards + np.float32(1e-4) * np.arange(len(first), dtype=np.float32) * (number % 10**4)
    session.upload([dataclasses.replace(first, rewards=rewards), *others])
    session.adapt()


_episodes: dict[int, list[wire.Trajectory]] = {}


def _collected(episodes: int) -> list[wire.Trajectory]:
    if episodes not in _episodes:
        meta_policy = load_meta_policy(resolve_meta_policy(META_POLICY, None))
        theta = AdaptedPolicy.from_message(policy_message(meta_policy.export(meta_policy.parameters)))
        env = make_environment(META_POLICY, [1.2] * episodes)
        _episodes[episodes] = list(collect(theta, env, episodes, seed=0))
    return _episodes[episodes]


def _of_link(name: str, link: CountingLink, kinds: tuple[str, ...] = ()) -> dict[str, Callable[[], float]]:
    def counter(get: Callable[[Traffic], float]) -> Callable[[], float]:
        return lambda: get(link.traffic())

    def count(kind: str) -> Callable[[], float]:
        return counter(lambda traffic: traffic.counts[kind])

    return {
        f"{name}_sent_bytes": counter(lambda traffic: traffic.sent),
        f"{name}_received_bytes": counter(lambda traffic: traffic.received),
        **{f"{name}_{kind.lower().replace(' ', '_')}": count(kind) for kind in kinds},
    }


def _number(url: str, query: str) -> float:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    return float(row[0] or 0) if row else 0.0


def _cpu_of_children(postgres: Postgres) -> float:
    """Returns the processor time of a PostgreSQL and its processes; those that ended count for their parent."""
    assert postgres._process is not None  # noqa: S101
    parent, total = postgres._process.pid, 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent or path.parent.name == str(parent):
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _folder_bytes(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _object_store(folder: Path) -> Iterator[CountingLink]:
    (folder / "objects" / "bucket").mkdir(parents=True)
    port = reserve_port()
    command = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret"]
    process = subprocess.Popen([*command, str(folder / "objects")], stderr=subprocess.DEVNULL)
    account = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    with CountingLink(port, HttpRequests) as link:
        for name, value in {**account, "ENDPOINT_URL": f"http://127.0.0.1:{link.port}"}.items():
            os.environ[f"AWS_{name}"] = value
        time.sleep(1.0)
        try:
            yield link
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
