"""The asyncio client has the methods of the synchronous client, and adapts to the same θ′."""

import asyncio
import inspect
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import grpc
import gymnasium
import pytest

import thetaprime.client as tp
from thetaprime import wire
from thetaprime.client import aio

# Words that differ between the docstrings of blocking functions and coroutines.
_SAME_WORDS = {"AsyncIterator": "Iterator", "__aenter__": "__enter__", "__aexit__": "__exit__", "_async": "_sync"}
_SAME_WORDS["grpc.aio"] = "grpc"


def in_common_words(text: str) -> str:
    for asynchronous, synchronous in _SAME_WORDS.items():
        text = text.replace(asynchronous, synchronous)
    return re.sub(r"grpc\._channel|grpc\.aio\._channel|grpc\._base_channel|grpc\._channel", "grpc", text)


def surface(kind: type) -> Iterator[tuple[str, str, str | None]]:
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in ("__init__", "__enter__", "__exit__", "__aenter__", "__aexit__"):
            continue
        function: Any = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        yield in_common_words(name), in_common_words(str(inspect.signature(function))), inspect.getdoc(value)


@pytest.mark.parametrize("name", aio.__all__)
def test_both_clients_have_the_same_methods(name: str) -> None:
    """Names, parameters, types, defaults and docstrings."""
    synchronous, asynchronous = list(surface(getattr(tp, name))), list(surface(getattr(aio, name)))
    assert asynchronous == synchronous
    assert len(synchronous) > 10
    assert inspect.getdoc(getattr(aio, name)) == inspect.getdoc(getattr(tp, name))


@pytest.mark.parametrize("name", aio.__all__)
def test_methods_that_do_io_are_coroutines_and_others_are_not(name: str) -> None:
    plain = {"__init__", "from_environment", "sessions"}
    for method, function in vars(getattr(aio, name)).items():
        if inspect.isfunction(function) and not method.startswith("_") and method not in plain:
            assert inspect.iscoroutinefunction(function), method
            assert not inspect.iscoroutinefunction(getattr(getattr(tp, name), method)), method
    assert inspect.isasyncgenfunction(aio.Client.sessions)


def test_the_synchronous_modules_do_not_use_asyncio() -> None:
    import thetaprime.client._sync.client
    import thetaprime.client._sync.rounds
    import thetaprime.client._sync.session
    import thetaprime.client._sync.transport

    modules: list[ModuleType] = [
        thetaprime.client._sync.client,
        thetaprime.client._sync.rounds,
        thetaprime.client._sync.session,
        thetaprime.client._sync.transport,
    ]
    for module in modules:
        code = inspect.getsource(module)
        assert not re.search(r"\b(async|await|asyncio|_async)\b", code.split("\n", 1)[1]), module.__name__
        assert "make sync-client" in code.split("\n", 1)[0]


def test_both_clients_adapt_to_the_same_policy(address: str) -> None:
    async def adapt() -> tuple[tp.AdaptedPolicy, list[tp.Progress], aio.Session]:
        seen: list[tp.Progress] = []
        async with aio.Client(address) as client:
            with gymnasium.make("Pendulum-v1") as env:
                adapted = await client.adapt("pendulum", env, 2, 3, seed=7, progress=seen.append)
            return adapted, seen, await client.resume(seen[0].session_id)

    adapted, seen, session = asyncio.run(adapt())
    reported: list[tp.Progress] = []
    with tp.Client(address) as client, gymnasium.make("Pendulum-v1") as env:
        expected = client.adapt("pendulum", env, 2, 3, seed=7, progress=reported.append)
    assert adapted.policy_id == expected.policy_id
    assert [(p.round, p.collected, p.report is None) for p in seen] == [
        (p.round, p.collected, p.report is None) for p in reported
    ]
    assert (session.info.state, session.round, session.policy.policy_id) == ("closed", 2, expected.policy_id)


def test_step_by_step(address: str) -> None:
    async def steps() -> None:
        async with aio.Client(address) as client:
            assert [each.label for each in await client.meta_policies()] == [
                "cart-pole@1", "grid@1", "half-open@1", "pendulum@1", "point-navigation@1"
            ]  # fmt: skip
            session = await client.create_session("pendulum", ttl=600)
            theta = await client.theta("pendulum")
            assert session.policy.policy_id == theta.policy_id
            with gymnasium.make("Pendulum-v1") as env:
                receipt = await session.upload(tp.collect(session.policy, env, 2, seed=0))
            assert receipt.batch == session.batch
            adapted = await session.adapt()
            assert (await session.policy_at(0)).policy_id == theta.policy_id
            twin = await client.resume(session.id)
            assert (twin.policy.policy_id, twin.reports) == (adapted.policy_id, session.reports)
            await twin.refresh()
            await twin.close()
            listed = [each async for each in client.sessions()]
            assert (listed[0].session_id, listed[0].state) == (session.id, "closed")

    asyncio.run(steps())


@pytest.mark.usefixtures("quick_retries")
def test_both_clients_raise_the_same_errors(address: str) -> None:
    async def fail() -> None:
        async with aio.Client(address) as client:
            with pytest.raises(tp.NotFoundError):
                await client.create_session("no-such")
            with pytest.raises(tp.InvalidInputError, match="ttl"):
                await client.create_session("pendulum", ttl=-5.0)
            session = await client.create_session("pendulum")
            with pytest.raises(tp.PreconditionError) as caught:
                await session.adapt()
            assert caught.value.reason
        with pytest.raises(tp.InvalidInputError, match="closed"):
            await client.meta_policies()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # without listening
            async with aio.Client(f"127.0.0.1:{taken.getsockname()[1]}") as nowhere:
                with pytest.raises(tp.UnreachableError, match="thetaprime serve"):
                    await nowhere.meta_policies()

    asyncio.run(fail())


def test_a_client_can_be_created_without_an_event_loop_and_closed_unused(address: str) -> None:
    client = aio.Client(address)

    async def use() -> str:
        async with client:
            return (await client.meta_policy("grid")).label

    assert asyncio.run(use()) == "grid@1"
    asyncio.run(aio.Client(address).close())


def test_a_given_channel_is_used_and_stays_open(address: str) -> None:
    async def use() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            async with aio.Client(channel=channel) as client:
                first = await client.meta_policies()
            async with aio.Client(channel=channel) as client:
                assert await client.meta_policies() == first

    asyncio.run(use())


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sleeps in each step, as a robot would."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        time.sleep(0.002)
        return super().step(action)


def test_the_event_loop_continues_while_an_environment_steps(address: str) -> None:
    async def both() -> tuple[int, tp.AdaptedPolicy]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        async with aio.Client(address) as client:
            heart = asyncio.create_task(beat())
            adapted = await client.adapt(
                "pendulum", Slow(gymnasium.make("Pendulum-v1")), 1, 3, verify=0, progress=False
            )
            heart.cancel()
        return beats, adapted

    beats, adapted = asyncio.run(both())
    assert adapted.parent_id
    assert beats > 20  # 120 steps of 2 ms and more


def test_coroutine_functions_collect_and_progress_runs_on_the_event_loop(address: str) -> None:
    async def work() -> None:
        seen: list[tuple[int, int]] = []

        async def collector(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
            return await asyncio.to_thread(tp.collect, policy, gymnasium.make("Pendulum-v1"), count)

        def plain(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
            assert threading.current_thread() is not threading.main_thread()
            return tp.collect(policy, gymnasium.make("Pendulum-v1"), count)

        def tell(progress: tp.Progress) -> None:
            assert threading.current_thread() is threading.main_thread()
            seen.append((progress.round, progress.collected))

        async with aio.Client(address) as client:
            await client.adapt("pendulum", [collector, plain], 2, 4, progress=tell)
        assert seen[-1] == (2, 5)
        assert [k for k, _ in seen] == [0] * 5 + [1] * 5 + [2] * 5

    asyncio.run(work())


def test_a_cancelled_run_stops_its_environment_and_can_be_resumed(address: str) -> None:
    async def work() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        env = Slow(gymnasium.make("Pendulum-v1"))
        async with aio.Client(address) as client:
            session = await client.create_session("pendulum")
            task = asyncio.create_task(session.run(env, 1, 1000, progress=False))
            while env.steps < 10:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert getattr(caught.value, "session_id", None) == session.id
            assert session.id in caught.value.__notes__[0]
            # Runs once the only thread has left the environment, which a whole run would hold for 80 s.
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 10)
            adapted = await (await client.resume(session.id)).run(env, 1, 2, progress=False, verify=0)
            assert adapted.parent_id == session.policy.policy_id

    asyncio.run(work())
