"""``thetaprime plan``."""

import dataclasses
import importlib.resources
import json
import math
from typing import Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._output import console_for, json_option, print_json

_DAY: Final = 86_400.0
_MIB, _GIB = float(1 << 20), float(1 << 30)
# The default of `serve`, and its copies: a session counts until it expires.
_MAX_SESSIONS: Final = 10_000
_CONNECTIONS: Final = 16
_STORES: Final = ("folder", "postgres", "postgres+objects")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """What is asked of a service.

    Attributes:
        robots: number of robots.
        rounds_per_day: adaptation rounds of each robot.
        steps: environment steps of a round.
        session_rounds: rounds of a session.
        peak: rate at the busiest time, as a multiple of the mean.
        utilization: part of the processors that may be busy at that time.
        cores: processors of a replica.
        ttl_hours: hours until a session expires, and its uploads are deleted.
        keep_days: days that its policies are kept after that.
    """

    robots: int
    rounds_per_day: float
    steps: int = 4_000
    session_rounds: float = 3.0
    peak: float = 3.0
    utilization: float = 0.5
    cores: int = 4
    ttl_hours: float = 24.0
    keep_days: float = 30.0


def read_costs() -> dict[str, Any]:
    """Returns the measured costs: `benchmarks/costs.py` writes them."""
    text = importlib.resources.files("thetaprime.cli").joinpath("costs.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def plan(fleet: Fleet, store: str, costs: dict[str, Any]) -> dict[str, float]:
    """Returns what a fleet needs of servers, database and storage, by name.

    Args:
        fleet: what is asked.
        store: ``folder``, ``postgres`` or ``postgres+objects``.
        costs: as `read_costs` returns them.
    """
    kind = costs["kinds"][store]

    def of_round(name: str) -> float:
        """Cost of a round, with its part of the session's creation."""
        if name not in kind["round"]:
            return 0.0
        line = kind["round"][name]
        return float(line["fixed"] + line["per_step"] * fleet.steps + kind["session"][name] / fleet.session_rounds)

    per_day = fleet.robots * fleet.rounds_per_day
    mean, peak = per_day / _DAY, per_day / _DAY * fleet.peak
    busy = peak * of_round("cpu_seconds")
    needed = max(1, math.ceil(busy / fleet.utilization / fleet.cores - 1e-9))
    # One more than the load needs: a replica may stop at the busiest time.
    replicas = 1 if store == "folder" else needed + 1
    uploads_days = fleet.ttl_hours / 24
    policy = float(costs["policy_bytes"])
    payload = costs["payload_bytes"]["fixed"] + costs["payload_bytes"]["per_step"] * fleet.steps
    stored = of_round("stored_bytes")
    # Payloads are deleted at expiry, policies later: what is left of a round is its policy and the rows.
    objects = of_round("object_bytes")
    left = max(stored - (0.0 if objects else payload), policy)
    database = per_day * (stored * uploads_days + left * fleet.keep_days)
    return {
        "rounds_per_second": mean,
        "peak_rounds_per_second": peak,
        "replicas": float(replicas),
        "cores_per_replica": float(fleet.cores),
        "busy_cores": busy,
        "open_sessions": per_day / fleet.session_rounds * uploads_days,
        "memory_bytes_per_replica": float(costs["check"]["memory_bytes"]),
        "client_bytes_per_second": peak * (of_round("client_sent_bytes") + of_round("client_received_bytes")),
        "database_busy_cores": peak * of_round("database_cpu_seconds"),
        "database_statements_per_second": peak * of_round("database_statements")
        + replicas * costs["check"]["idle_statements_per_second"]
        if store != "folder"
        else 0.0,
        "database_connections": replicas * _CONNECTIONS if store != "folder" else 0.0,
        "database_bytes_per_second": peak * (of_round("database_sent_bytes") + of_round("database_received_bytes")),
        "log_bytes_per_day": per_day * of_round("log_bytes"),
        "database_bytes": database,
        "object_puts_per_day": per_day * of_round("objects_put"),
        "object_bytes": per_day * objects * uploads_days,
    }


@click.command(
    cls=Command,
    examples=(
        "thetaprime plan --robots 1000 --rounds-per-day 24",
        "thetaprime plan --robots 100000 --rounds-per-day 10 --steps 2000 --cores 8 --json",
    ),
)
@option("--robots", type=click.IntRange(1), required=True, help="Robots that adapt.")
@option(
    "--rounds-per-day", type=click.FloatRange(0, min_open=True), required=True, help="Rounds of each robot in a day."
)
@option(
    "--steps",
    type=click.IntRange(1),
    default=Fleet.steps,
    show_default=True,
    help="Environment steps of a round: episodes times their length.",
)
@option(
    "--session-rounds",
    type=click.FloatRange(1),
    default=Fleet.session_rounds,
    show_default=True,
    help="Rounds of a session.",
)
@option(
    "--peak",
    type=click.FloatRange(1),
    default=Fleet.peak,
    show_default=True,
    help="Rate at the busiest time, as a multiple of the mean.",
)
@option(
    "--utilization",
    type=click.FloatRange(0, 1, min_open=True),
    default=Fleet.utilization,
    show_default=True,
    help="Part of the processors that may be busy at that time.",
)
@option("--cores", type=click.IntRange(1), default=Fleet.cores, show_default=True, help="Processors of a replica.")
@option(
    "--ttl-hours",
    type=click.FloatRange(0, min_open=True),
    default=Fleet.ttl_hours,
    show_default=True,
    help="Hours until a session expires, and its uploads are deleted.",
)
@option(
    "--keep-days",
    type=click.FloatRange(0),
    default=Fleet.keep_days,
    show_default=True,
    help="Days that policies are kept after that.",
)
@option(
    "--store",
    type=click.Choice(_STORES),
    default=_STORES[-1],
    show_default=True,
    help="Where the state lies; a folder is one server's.",
)
@json_option
def command(store: str, as_json: bool, **fleet: Any) -> None:
    """Say how many replicas, and how large a database and an object store, a fleet of robots needs.

    Computed from the measured cost of a round, which the installation carries; the page "Scale" says how it was
    measured. Multiply by how much slower your processors are.
    """
    costs = read_costs()
    asked = Fleet(**fleet)
    found = plan(asked, store, costs)
    if store == "folder" and found["busy_cores"] > asked.cores * asked.utilization:
        raise click.UsageError(
            f"a folder is one server's: the load keeps {found['busy_cores']:.1f} processors busy, of "
            f"{asked.cores * asked.utilization:g} that may be; expected --store postgres, or more --cores"
        )
    console = console_for(as_json)
    for line in _lines(asked, store, found):
        console.print(line, soft_wrap=True)
    console.print(f"measured on {costs['machine']}, with {costs['meta_policy']}", soft_wrap=True)
    if as_json:
        print_json({"store": store, **dataclasses.asdict(asked), "plan": found})


def _lines(fleet: Fleet, store: str, found: dict[str, float]) -> list[str]:
    is_folder = store == "folder"
    number = {name: f"{value:.3g}" for name, value in found.items()}
    mib = {name: f"{value / _MIB:.3g} MiB" for name, value in found.items()}
    gib = {name: f"{value / _GIB:.3g} GiB" for name, value in found.items()}
    lines = [
        f"load       {number['rounds_per_second']} rounds a second, {number['peak_rounds_per_second']} at the peak",
        f"replicas   {found['replicas']:.0f} of {fleet.cores} cores, {mib['memory_bytes_per_replica']} each; "
        f"{number['busy_cores']} cores are busy at the peak" + ("" if is_folder else ", and one replica may stop"),
        f"network    {mib['client_bytes_per_second']} a second to and from clients at the peak",
    ]
    if found["open_sessions"] > _MAX_SESSIONS:
        most = math.ceil(1.5 * found["open_sessions"])
        lines.append(
            f"sessions   {found['open_sessions']:,.0f} at once: serve with --max-sessions {most}, or close them"
        )
    if not is_folder:
        lines += [
            f"database   {number['database_statements_per_second']} statements a second, "
            f"{mib['database_bytes_per_second']} a second, {number['database_busy_cores']} cores busy at the peak; "
            f"{found['database_connections']:.0f} connections",
            f"log        {gib['log_bytes_per_day']} of the database's write-ahead log a day",
        ]
    lines.append(f"storage    {gib['database_bytes']} in the {'folder' if is_folder else 'database'}")
    if found["object_bytes"]:
        lines.append(f"objects    {gib['object_bytes']}, {found['object_puts_per_day']:,.0f} puts a day")
    return lines
