"""`thetaprime plan` against its measurements, and against a simulation of the fleet."""

import heapq
import random
from pathlib import Path
from typing import Final

import pytest

from benchmarks import costs
from tests.support.command import Command, last_json
from thetaprime.cli.plan import Fleet, plan, read_costs

ROOT: Final = Path(__file__).parents[2]
COSTS: Final = read_costs()
STORES: Final = ("folder", "postgres", "postgres+objects")


@pytest.mark.parametrize("store", STORES)
def test_the_measured_costs_are_those_of_the_tests(store: str) -> None:
    measured = COSTS["kinds"][store]["round"]
    if store != "folder":
        assert measured["database_statements"]["per_step"] == 0
        # A payload that becomes an object is looked up twice more.
        assert round(measured["database_statements"]["fixed"]) == 11 + 2 * (store == STORES[-1])
    if store == STORES[-1]:
        assert (measured["objects_put"]["fixed"], measured["objects_get"]["fixed"]) == (1, 0)
    # Nearly all bytes from the client are the payload.
    payload = COSTS["payload_bytes"]
    assert measured["client_sent_bytes"]["per_step"] == pytest.approx(payload["per_step"], rel=0.01)


def test_the_page_shows_the_measured_costs() -> None:
    assert f"<!-- costs -->\n{costs.table(COSTS)}\n<!-- end -->" in (ROOT / "docs" / "scale.md").read_text()


def test_a_load_takes_the_processors_that_were_planned() -> None:
    check = COSTS["check"]
    assert check["measured_cores"] == pytest.approx(check["planned_cores"], rel=0.3)


@pytest.mark.parametrize(("robots", "rounds"), [(1_000, 24), (20_000, 100), (300_000, 10)])
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_simulated_fleet_waits_little_even_with_one_replica_less(robots: int, rounds: int, stopped: int) -> None:
    fleet = Fleet(robots, rounds)
    found = plan(fleet, "postgres+objects", COSTS)
    rng, rate = random.Random(0), found["peak_rounds_per_second"]
    service = found["busy_cores"] / rate
    free = [0.0] * (fleet.cores * round(found["replicas"] - stopped))
    heapq.heapify(free)
    now, busy, waits = 0.0, 0.0, []
    for _ in range(30_000):
        now += rng.expovariate(rate)
        begin = max(now, heapq.heappop(free))
        taken = rng.expovariate(1 / service)
        heapq.heappush(free, begin + taken)
        busy += taken
        waits.append(begin - now)
    assert busy / now == pytest.approx(found["busy_cores"], rel=0.05)
    assert busy / now / len(free) <= 1.05 * fleet.utilization
    assert sorted(waits)[int(0.99 * len(waits))] <= 2 * service


def test_a_million_sessions_a_day(thetaprime: Command) -> None:
    result = thetaprime("plan", "--robots", 100_000, "--rounds-per-day", 30, "--session-rounds", 3, "--json")
    found = last_json(result)["plan"]
    assert found["rounds_per_second"] == pytest.approx(3e6 / 86_400)
    assert found["open_sessions"] == 1e6
    assert found["object_puts_per_day"] == pytest.approx(3e6, rel=0.01)
    assert "--max-sessions 1500000" in thetaprime("plan", "--robots", 100_000, "--rounds-per-day", 30).stdout


def test_twice_the_robots_need_twice_the_storage() -> None:
    one, two = (plan(Fleet(robots, 10), "postgres", COSTS) for robots in (1_000, 2_000))
    for name in ("database_bytes", "busy_cores", "log_bytes_per_day", "client_bytes_per_second", "open_sessions"):
        assert two[name] == pytest.approx(2 * one[name])
    assert plan(Fleet(1_000, 10, ttl_hours=1), "postgres", COSTS)["database_bytes"] < one["database_bytes"]


def test_a_folder_is_one_server(thetaprime: Command) -> None:
    small = thetaprime("plan", "--robots", 100, "--rounds-per-day", 24, "--store", "folder")
    assert small.exit_code == 0
    assert "replicas   1 of 4 cores" in small.stdout
    assert "database" not in small.stdout
    large = thetaprime("plan", "--robots", 1_000_000, "--rounds-per-day", 24, "--store", "folder")
    assert large.exit_code == 2
    assert "expected --store postgres" in large.stderr


@pytest.mark.parametrize("options", [("--robots", 0), ("--robots", 1, "--rounds-per-day", 0), ("--robots", 1)])
def test_numbers_that_make_no_sense_are_refused(options: tuple[object, ...], thetaprime: Command) -> None:
    assert thetaprime("plan", *options).exit_code == 2
