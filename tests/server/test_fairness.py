"""However much one tenant asks for, the others get their turns."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thetaprime import wire
from thetaprime.server import ServerConfig, running_server
from thetaprime.server.adaptation.commit import AdaptCall
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.auth import Quotas
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.errors import BusyError
from thetaprime.server.rpc.upload_stream import InflightBudget
from thetaprime.server.scheduling.fair_slots import FairQueue, FairSlots
from thetaprime.server.sessions.uploads import accept_upload
from thetaprime.server.store import Store

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, WriteTokens


def no_limit(tenant: str) -> None:
    """Any pace will do."""


class Steps:
    """Steps that wait for a sign, and say in what order they were taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, call: AdaptCall) -> Any:
        assert self.go_on.wait(60)
        self.taken.append(call.session_id)
        return call


def call(name: str) -> AdaptCall:
    return AdaptCall(tenant=name[0], session_id=name, expected_round=0, batch_sha256="")


async def asked(engine: AdaptationEngine, names: Iterable[str]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(engine.adapt(call(name))) for name in names]
    for _ in range(5):  # what has a thread is with it by then, and the rest waits
        await asyncio.sleep(0)
    return tasks


def test_a_flood_of_one_tenant_leaves_the_others_their_turns() -> None:
    async def run() -> list[str]:
        steps = Steps()
        engine = AdaptationEngine(steps, threads=1, queue=30, pace=no_limit)
        tasks = await asked(engine, [*(f"a{n}" for n in range(20)), "b0", "b1", "c0"])
        steps.go_on.set()
        await asyncio.gather(*tasks)
        await engine.finish()
        engine.close()
        return steps.taken

    taken = asyncio.run(run())
    assert taken[:7] == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    assert taken[7:] == [f"a{n}" for n in range(4, 20)]


def test_a_full_queue_is_its_tenant_s_own() -> None:
    async def run() -> None:
        steps = Steps()
        engine = AdaptationEngine(steps, threads=2, queue=2, pace=no_limit)
        tasks = await asked(engine, ["a0", "a1", "a2", "a3"])
        with pytest.raises(BusyError, match="2 adaptation steps of the tenant"):
            await engine.adapt(call("a4"))
        tasks += await asked(engine, ["b0", "b1", "a0"])
        with pytest.raises(BusyError):
            await engine.adapt(call("b2"))
        steps.go_on.set()
        await asyncio.gather(*tasks)
        assert sorted(steps.taken) == ["a0", "a1", "a2", "a3", "b0", "b1"]
        await engine.adapt(call("a4"))
        engine.close()

    asyncio.run(run())


def test_a_step_that_fails_passes_its_thread_on() -> None:
    async def run() -> None:
        def fail(call: AdaptCall) -> Any:
            if call.tenant == "a":
                raise ZeroDivisionError
            return call

        engine = AdaptationEngine(fail, threads=1, queue=9, pace=no_limit)
        replies = await asyncio.gather(*await asked(engine, ["a0", "b0", "a1", "b1"]), return_exceptions=True)
        assert [type(reply) for reply in replies] == [ZeroDivisionError, AdaptCall] * 2
        engine.close()

    asyncio.run(run())


def test_a_step_that_is_refused_for_its_pace_takes_no_place() -> None:
    async def run() -> None:
        steps = Steps()
        steps.go_on.set()

        def pace(tenant: str) -> None:
            if tenant == "a":
                raise BusyError("too soon", retry_after=1.0)

        engine = AdaptationEngine(steps, threads=1, queue=0, pace=pace)
        for _ in range(3):
            with pytest.raises(BusyError, match="too soon"):
                await engine.adapt(call("a0"))
        await engine.adapt(call("b0"))
        assert steps.taken == ["b0"]
        engine.close()

    asyncio.run(run())


def test_what_waits_when_the_engine_closes_is_dropped() -> None:
    async def run() -> None:
        steps = Steps()
        engine = AdaptationEngine(steps, threads=1, queue=9, pace=no_limit)
        running, waiting = await asked(engine, ["a0", "b0"])
        engine.close()
        steps.go_on.set()
        await running
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert steps.taken == ["a0"]

    asyncio.run(run())


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_no_tenant_is_served_twice_while_another_waits_and_each_in_its_order(arrivals: list[str]) -> None:
    turns: FairQueue[tuple[str, int]] = FairQueue()
    for number, tenant in enumerate(arrivals):
        turns.add(tenant, (tenant, number))
    served = [item for _, item in iter(turns.next, None)]
    assert sorted(served) == sorted((tenant, number) for number, tenant in enumerate(arrivals))
    for tenant in set(arrivals):
        mine = [place for place, (name, _) in enumerate(served) if name == tenant]
        assert [served[place][1] for place in mine] == sorted(served[place][1] for place in mine)
        for earlier, later in zip([-1, *mine], mine, strict=False):
            between = [name for name, _ in served[earlier + 1 : later]]
            assert len(between) == len(set(between))


def test_uploads_that_one_tenant_sends_at_once_leave_room_for_another_s() -> None:
    budget = InflightBudget(1000)
    with ExitStack() as arriving:
        taken = 0
        with pytest.raises(BusyError):
            for _ in range(1000):
                arriving.enter_context(budget.reserve("a", 10))
                taken += 10
        assert taken == 500
        arriving.enter_context(budget.reserve("b", 300))
        with pytest.raises(BusyError):
            arriving.enter_context(budget.reserve("b", 10))
        arriving.enter_context(budget.reserve("c", 200))
        with pytest.raises(BusyError):
            arriving.enter_context(budget.reserve("d", 1))
    with budget.reserve("a", 1000):
        pass


def test_the_one_tenant_of_a_server_without_tokens_may_take_all() -> None:
    budget = InflightBudget(1000)
    with budget.reserve("", 600), budget.reserve("", 400), pytest.raises(BusyError), budget.reserve("", 1):
        pass


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_tenant_that_is_alone_takes_every_place_and_leaves_one_while_another_is_about() -> None:
    async def run() -> None:
        clock = Clock()
        places = FairSlots(3, clock=clock)
        mine = [places.ask("a") for _ in range(5)]
        assert [turn.done() for turn in mine] == [True, True, True, False, False]
        first = places.ask("b")
        assert not first.done()
        places.give_back("a")
        assert first.done()
        assert not places.may_begin("b")
        places.give_back("b")
        # One place is free, and is kept for the other tenant's next piece of work; not for ever.
        assert [turn.done() for turn in mine] == [True, True, True, False, False]
        assert places.may_begin("b")
        assert places.may_begin("c")
        assert not places.may_begin("a")
        clock.seconds += 60
        assert places.may_begin("a")
        places.give_back("a")
        assert all(turn.done() for turn in mine)

    asyncio.run(run())


def test_a_caller_that_goes_away_takes_no_place_whenever_it_goes() -> None:
    async def hold(places: FairSlots, go_on: asyncio.Event) -> None:
        async with places.place("a"):
            await go_on.wait()

    async def run() -> None:
        places, go_on = FairSlots(1, queue=2), asyncio.Event()
        running, waiting, other = [asyncio.create_task(hold(places, go_on)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 calls of the tenant are waiting"):
            await hold(places, go_on)
        running.cancel()
        waiting.cancel()  # at once: the place that the first one gives back comes to it as it goes
        await asyncio.wait([running, waiting])
        assert not places.may_begin("b")  # the third one has it
        other.cancel()
        await asyncio.wait([other])
        assert places.may_begin("b")

    asyncio.run(run())


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "back", "cancel"]))))
def test_places_are_neither_lost_nor_made(count: int, events: list[tuple[str, str]]) -> None:
    async def run() -> None:
        places = FairSlots(count, clock=Clock())
        turns: dict[str, list[asyncio.Future[None]]] = {"a": [], "b": [], "c": []}
        for tenant, event in events:
            held = [turn for turn in turns[tenant] if turn.done()]
            waiting = [turn for turn in turns[tenant] if not turn.done()]
            if event == "ask":
                turns[tenant].append(places.ask(tenant))
            elif event == "back" and held:
                turns[tenant].remove(held[0])
                places.give_back(tenant)
            elif event == "cancel" and waiting:
                turns[tenant].remove(waiting[-1])
                waiting[-1].cancel()
            running = {name: sum(turn.done() for turn in each) for name, each in turns.items()}
            assert sum(running.values()) <= count
            for name, each in turns.items():
                # Who has nothing running waits only where everything is taken.
                if len(each) > running[name] == 0:
                    assert sum(running.values()) == count
        for tenant, each in turns.items():
            while each:
                assert each[0].done() or any(turn.done() for other in turns.values() for turn in other)
                for name, theirs in turns.items():
                    for turn in [turn for turn in theirs if turn.done()]:
                        theirs.remove(turn)
                        places.give_back(name)
            assert not turns[tenant]
        assert places.may_begin("a")

    asyncio.run(run())


def test_uploads_of_one_tenant_that_take_for_ever_leave_another_s_their_turn(
    configure: "Configure",
    connect: "Connect",
    write_tokens: "WriteTokens",
    collect: Callable[..., list[wire.Trajectory]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, go_on = threading.Semaphore(0), threading.Event()

    def accept(store: Store, catalog: Catalog, config: ServerConfig, quotas: Quotas, upload: Any, *rest: Any) -> Any:
        if upload.tenant == "a" and upload.header.upload_id != "first":
            stuck.release()
            assert go_on.wait(60)
        return accept_upload(store, catalog, config, quotas, upload, *rest)

    monkeypatch.setattr("thetaprime.server.rpc.adaptation_service.accept_upload", accept)
    # However slow the machine is, the other tenant counts as being about.
    monkeypatch.setattr("thetaprime.server.scheduling.fair_slots._PRESENT_SECONDS", 3600.0)
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a", "theta_b": "b"})
    with (
        running_server(configure(tokens=tokens, adaptation_threads=2)) as address,
        connect(address, "theta_a") as a,
        connect(address, "theta_b") as b,
        ThreadPoolExecutor(20) as threads,
    ):
        mine, theirs = a.create(), b.create()
        trajectories = collect(mine.policy)
        for service, created in ((a, mine), (b, theirs)):
            service.upload(created.session.session_id, trajectories, upload_id="first")
        flood = [
            threads.submit(a.upload, mine.session.session_id, collect(mine.policy, seed=seed)) for seed in range(1, 20)
        ]
        try:
            assert stuck.acquire(timeout=60)
            assert b.upload(theirs.session.session_id, collect(theirs.policy, seed=1)).batch.uploads == 2
            assert b.get(theirs.session.session_id).session.batch.uploads == 2
            assert not any(each.done() for each in flood)
        finally:
            go_on.set()
        assert sorted(each.result().batch.uploads for each in flood) == list(range(2, 21))
