"""However much one tenant asks for, other tenants get their turns."""

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing, contextmanager
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
from thetaprime.server.auth.authenticator import Caller
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.fair_slots import FairQueue, FairSlots, FairThreads
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.server.sessions.rows import SessionRecord
from thetaprime.server.sessions.uploads import NewUpload, accept_upload
from thetaprime.server.store import Store
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Service, WriteTokens


def no_precomputation(upload: NewUpload) -> None:
    raise AssertionError("nothing was uploaded")


@contextmanager
def engine_of(
    take_round: Callable[[AdaptCall], Any], threads: int, queue: int, rate: Mapping[str, float] | None = None
) -> Iterator[AdaptationEngine]:
    """An engine of the given steps, with a rate limit for the named tenants."""
    with ThreadPoolExecutor(threads) as executor:
        engine = AdaptationEngine(
            take_round,
            precompute=no_precomputation,
            processors=FairThreads(FairSlots(threads), executor),
            threads=threads,
            queue=queue,
            rate_limit=RateLimit((rate or {}).get),
        )
        with closing(engine):
            yield engine


class Steps:
    """Steps that wait for an event, and record their order."""

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
    for _ in range(5):  # every call has its thread, or waits in the queue
        await asyncio.sleep(0)
    return tasks


def test_a_flood_of_one_tenant_leaves_other_tenants_their_turns() -> None:
    async def run() -> list[str]:
        steps = Steps()
        with engine_of(steps, threads=1, queue=30) as engine:
            tasks = await asked(engine, [*(f"a{n}" for n in range(20)), "b0", "b1", "c0"])
            steps.go_on.set()
            await asyncio.gather(*tasks)
            await engine.finish()
        return steps.taken

    taken = asyncio.run(run())
    assert taken[:7] == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    assert taken[7:] == [f"a{n}" for n in range(4, 20)]


def test_a_full_queue_refuses_its_own_tenant_only() -> None:
    async def run() -> None:
        steps = Steps()
        with engine_of(steps, threads=2, queue=2) as engine:
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

    asyncio.run(run())


def test_a_failed_step_frees_its_thread() -> None:
    async def run() -> None:
        def fail(call: AdaptCall) -> Any:
            if call.tenant == "a":
                raise ZeroDivisionError
            return call

        with engine_of(fail, threads=1, queue=9) as engine:
            replies = await asyncio.gather(*await asked(engine, ["a0", "b0", "a1", "b1"]), return_exceptions=True)
        assert [type(reply) for reply in replies] == [ZeroDivisionError, AdaptCall] * 2

    asyncio.run(run())


def test_a_step_that_the_rate_limit_refuses_takes_no_slot() -> None:
    async def run() -> None:
        steps = Steps()
        steps.go_on.set()

        with engine_of(steps, threads=1, queue=0, rate={"a": 1e-6}) as engine:
            await engine.adapt(call("a0"))
            for _ in range(3):
                with pytest.raises(BusyError, match="1e-06 adaptation steps per second"):
                    await engine.adapt(call("a1"))
            await engine.adapt(call("b0"))
        assert steps.taken == ["a0", "b0"]

    asyncio.run(run())


def test_a_closing_engine_drops_the_steps_that_wait() -> None:
    async def run() -> None:
        steps = Steps()
        with engine_of(steps, threads=1, queue=9) as engine:
            running, waiting = await asked(engine, ["a0", "b0"])
            engine.close()
            steps.go_on.set()
            await running
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert steps.taken == ["a0"]

    asyncio.run(run())


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_the_queue_is_round_robin_between_tenants_and_first_in_first_out_within_each(arrivals: list[str]) -> None:
    turns: FairQueue[tuple[str, int]] = FairQueue()
    for number, tenant in enumerate(arrivals):
        turns.add(tenant, (tenant, number))
    served = [item for _, item in iter(turns.next, None)]
    assert sorted(served) == sorted((tenant, number) for number, tenant in enumerate(arrivals))
    for tenant in set(arrivals):
        mine = [position for position, (name, _) in enumerate(served) if name == tenant]
        assert [served[position][1] for position in mine] == sorted(served[position][1] for position in mine)
        for earlier, later in zip([-1, *mine], mine, strict=False):
            between = [name for name, _ in served[earlier + 1 : later]]
            assert len(between) == len(set(between))


def caller(tenant: str, peer: str = "ipv4:10.0.0.1:1") -> Caller:
    return Caller(tenant, peer)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetaprime.server.scheduling.memory_budget._PATIENCE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_patience")
def test_concurrent_uploads_of_one_tenant_leave_memory_for_another() -> None:
    async def run() -> None:
        budget = MemoryBudget(1000)
        async with AsyncExitStack() as arriving:
            taken = 0
            with pytest.raises(BusyError):
                for _ in range(1000):
                    await arriving.enter_async_context(budget.upload(caller("a"), 10))
                    taken += 10
            assert taken == 500
            await arriving.enter_async_context(budget.upload(caller("b"), 300))
            with pytest.raises(BusyError):
                await arriving.enter_async_context(budget.upload(caller("b"), 10))
            await arriving.enter_async_context(budget.upload(caller("c"), 200))
            with pytest.raises(BusyError):
                await arriving.enter_async_context(budget.upload(caller("d"), 1))
        assert budget.used == 0
        async with budget.upload(caller("a"), 1000):
            pass

    asyncio.run(run())


@pytest.mark.usefixtures("no_patience")
def test_the_single_tenant_of_a_server_without_tokens_may_take_all_memory() -> None:
    async def run() -> None:
        budget = MemoryBudget(1000)
        async with budget.upload(caller(""), 600), budget.upload(caller(""), 400):
            with pytest.raises(BusyError):
                async with budget.upload(caller(""), 1):
                    pass

    asyncio.run(run())


@pytest.mark.usefixtures("no_patience")
def test_connections_and_addresses_without_a_token_share_their_limits() -> None:
    async def run() -> None:
        budget = MemoryBudget(1000, 100)
        async with AsyncExitStack() as arriving:

            async def takes(peer: str, size: int) -> bool:
                try:
                    await arriving.enter_async_context(budget.upload(caller("", peer), size))
                except BusyError:
                    return False
                return True

            assert await takes("ipv4:10.0.0.1:1", 40)
            assert not await takes("ipv4:10.0.0.1:1", 11)
            assert await takes("ipv4:10.0.0.1:2", 50)
            assert not await takes("ipv4:10.0.0.1:3", 11)
            # A large upload is possible while its address has no other.
            assert await takes("ipv4:10.0.0.2:1", 300)
            assert not await takes("ipv4:10.0.0.2:2", 1)
            # Addresses of one IPv6 network are one.
            assert await takes("ipv6:%5B2001:db8::1%5D:1", 90)
            assert not await takes("ipv6:%5B2001:db8::2%5D:1", 11)
            assert await takes("ipv6:%5B2001:db8:0:1::1%5D:1", 11)
            # A quarter more is left for other messages and replies.
            budget.hold(caller("", "ipv4:10.0.0.1:4"), 35)
            with pytest.raises(BusyError):
                budget.hold(caller("", "ipv4:10.0.0.1:4"), 1)
            budget.release(caller("", "ipv4:10.0.0.1:4"), 35)
        assert budget.used == 0

    asyncio.run(run())


def test_uploads_wait_for_memory_in_turns() -> None:
    async def run() -> list[str]:
        budget, order = MemoryBudget(100), list[str]()

        async def upload(tenant: str, size: int) -> None:
            async with budget.upload(caller(tenant), size):
                order.append(tenant)
                await asyncio.sleep(0)

        async with budget.upload(caller("x"), 100):
            tasks = [asyncio.create_task(upload(tenant, 60)) for tenant in ("a", "a", "a", "b", "c")]
            canceled = asyncio.create_task(upload("d", 60))
            await asyncio.sleep(0)
            canceled.cancel()
            await asyncio.sleep(0)
            assert order == []
        await asyncio.gather(*tasks)
        assert budget.used == 0
        return order

    assert asyncio.run(run()) == ["a", "b", "c", "a", "a"]


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_tenant_takes_every_slot_while_alone_and_leaves_one_while_another_is_active() -> None:
    async def run() -> None:
        clock = Clock()
        slots = FairSlots(3, clock=clock)
        mine = [slots.ask("a") for _ in range(5)]
        assert [turn.done() for turn in mine] == [True, True, True, False, False]
        first = slots.ask("b")
        assert not first.done()
        slots.release("a")
        assert first.done()
        assert not slots.may_begin("b")
        slots.release("b")
        # One slot stays free for the other tenant's next call, for a while.
        assert [turn.done() for turn in mine] == [True, True, True, False, False]
        assert slots.may_begin("b")
        assert slots.may_begin("c")
        assert not slots.may_begin("a")
        clock.seconds += 60
        assert slots.may_begin("a")
        slots.release("a")
        assert all(turn.done() for turn in mine)

    asyncio.run(run())


def test_a_tenant_holds_its_share_of_the_slots_while_another_is_active() -> None:
    async def run() -> None:
        clock = Clock()
        slots = FairSlots(8, clock=clock, share=2)
        alone = [slots.ask("a") for _ in range(4)]
        assert all(turn.done() for turn in alone)
        assert slots.ask("b").done()
        # Those that it holds stay; it gets no more.
        waiting = slots.ask("a")
        for _ in range(2):
            slots.release("a")
            assert not waiting.done()
        slots.release("a")
        assert waiting.done()
        clock.seconds += 60
        assert slots.ask("a").done()
        assert slots.ask("a").done()

    asyncio.run(run())


def test_a_tenant_rests_after_a_transaction_while_another_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        clock, processor = Clock(), Clock()
        monkeypatch.setattr("time.thread_time", processor)

        def compute() -> None:
            processor.seconds += 0.01

        with ThreadPoolExecutor(4) as executor:
            threads = FairThreads(FairSlots(4, clock=clock, share=1), executor, rest=5.0)
            slots = threads.slots
            await threads.run("a", compute)
            assert slots.may_begin("a")
            await threads.run("b", compute)
            # Another tenant has worked: each of the two rests for five times its processor time.
            assert [slots.may_begin(tenant) for tenant in "abc"] == [False, False, True]
            clock.seconds += 0.049
            waiting = slots.ask("a")
            assert not waiting.done()
            clock.seconds += 0.002
            async with asyncio.timeout(60):
                await waiting
            slots.release("a")
            # The other tenant has done nothing for a second: no tenant is left to rest for.
            await threads.run("a", compute)
            assert not slots.may_begin("a")
            clock.seconds += 1.1
            await threads.run("a", compute)
            assert slots.may_begin("a")

    asyncio.run(run())


def test_the_server_lets_a_tenant_rest_for_five_times_a_transaction(
    configure: "Configure",
    connect: "Connect",
    write_tokens: "WriteTokens",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[tuple[str, float]] = []
    monkeypatch.setattr(FairSlots, "rest", lambda _slots, tenant, seconds: rests.append((tenant, seconds)))
    # Each thread reads a clock that goes on by a second whenever it is read.
    clocks: defaultdict[int, itertools.count[float]] = defaultdict(lambda: itertools.count(0.0))
    monkeypatch.setattr("time.thread_time", lambda: next(clocks[threading.get_ident()]))
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a"})
    with running_server(configure(tokens=tokens)) as address, connect(address, "theta_a") as service:
        service.get(service.create().session.session_id)
    assert rests == [("a", 5.0), ("a", 5.0)]


def test_a_list_of_sessions_is_built_beside_the_event_loop(service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    message = SessionRecord.message

    def record(session: SessionRecord, *arguments: Any, **more: Any) -> service_pb.Session:
        threads.append(threading.current_thread().name)
        return message(session, *arguments, **more)

    created = [service.create().session for _ in range(3)]
    monkeypatch.setattr(SessionRecord, "message", record)
    assert list(service.stub.ListSessions(service_pb.ListSessionsRequest()).sessions) == created[::-1]
    assert [name.rpartition("_")[0] for name in threads] == ["store"] * 3


def test_a_canceled_caller_holds_no_slot() -> None:
    async def hold(slots: FairSlots, go_on: asyncio.Event) -> None:
        async with slots.slot("a"):
            await go_on.wait()

    async def run() -> None:
        slots, go_on = FairSlots(1, queue=2), asyncio.Event()
        running, waiting, other = [asyncio.create_task(hold(slots, go_on)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 calls of the tenant are waiting"):
            await hold(slots, go_on)
        running.cancel()
        waiting.cancel()  # at once: the first caller's slot is granted to it while it is being canceled
        await asyncio.wait([running, waiting])
        assert not slots.may_begin("b")  # the third caller holds the slot
        other.cancel()
        await asyncio.wait([other])
        assert slots.may_begin("b")

    asyncio.run(run())


def test_a_canceled_call_holds_its_slot_until_its_thread_has_finished() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(60)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            threads = FairThreads(FairSlots(1), executor)
            running = asyncio.create_task(threads.run("a", work))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.sleep(0)
            assert not running.done()
            assert not threads.slots.may_begin("b")
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert threads.slots.may_begin("b")

    asyncio.run(run())


def test_a_slot_that_is_taken_beside_another_one_counts_against_all() -> None:
    async def run() -> None:
        slots = FairSlots(1, clock=Clock())
        slots.take("a")
        slots.take("a")
        turn = slots.ask("b")
        for _ in range(2):
            assert not turn.done()
            assert not slots.may_begin("b")
            slots.release("a")
        assert turn.done()
        slots.release("b")
        assert slots.may_begin("a")

    asyncio.run(run())


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "back", "cancel"]))))
def test_slots_are_neither_lost_nor_created(count: int, events: list[tuple[str, str]]) -> None:
    async def run() -> None:
        slots = FairSlots(count, clock=Clock())
        turns: dict[str, list[asyncio.Future[None]]] = {"a": [], "b": [], "c": []}
        for tenant, event in events:
            held = [turn for turn in turns[tenant] if turn.done()]
            waiting = [turn for turn in turns[tenant] if not turn.done()]
            if event == "ask":
                turns[tenant].append(slots.ask(tenant))
            elif event == "back" and held:
                turns[tenant].remove(held[0])
                slots.release(tenant)
            elif event == "cancel" and waiting:
                turns[tenant].remove(waiting[-1])
                waiting[-1].cancel()
            running = {name: sum(turn.done() for turn in each) for name, each in turns.items()}
            assert sum(running.values()) <= count
            for name, each in turns.items():
                # A tenant that holds no slot waits only while every slot is held.
                if len(each) > running[name] == 0:
                    assert sum(running.values()) == count
        for tenant, each in turns.items():
            while each:
                assert each[0].done() or any(turn.done() for other in turns.values() for turn in other)
                for name, theirs in turns.items():
                    for turn in [turn for turn in theirs if turn.done()]:
                        theirs.remove(turn)
                        slots.release(name)
            assert not turns[tenant]
        assert slots.may_begin("a")

    asyncio.run(run())


def test_stuck_uploads_of_one_tenant_leave_another_tenant_its_turn(
    configure: "Configure",
    connect: "Connect",
    write_tokens: "WriteTokens",
    collect: Callable[..., list[wire.Trajectory]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, go_on = threading.Semaphore(0), threading.Event()

    def accept(
        store: Store, catalog: Catalog, config: ServerConfig, quotas: Quotas, upload: Any, *rest: Any, **more: Any
    ) -> service_pb.UploadTrajectoriesResponse:
        if upload.tenant == "a" and upload.header.upload_id != "first":
            stuck.release()
            assert go_on.wait(60)
        return accept_upload(store, catalog, config, quotas, upload, *rest, **more)

    monkeypatch.setattr("thetaprime.server.rpc.adaptation_service.accept_upload", accept)
    # Keeps the other tenant active, however slow the machine is.
    monkeypatch.setattr("thetaprime.server.scheduling.fair_slots._ACTIVE_SECONDS", 3600.0)
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
