"""What coroutines do in another way than functions that block. Its twin is ``_sync/runtime.py``."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

import grpc

from thetaprime import wire
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._rpc.channel import CHANNEL_OPTIONS
from thetaprime.client._rpc.tracing import Traced
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

Channel: TypeAlias = grpc.aio.Channel
AdaptationStub: TypeAlias = "adaptation_service_pb2_grpc.AdaptationServiceAsyncStub"
MetaPolicyStub: TypeAlias = "meta_policy_service_pb2_grpc.MetaPolicyServiceAsyncStub"
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Traced)
Method = Callable[..., Awaitable[_R]]
"""A method of a stub."""
Collector = Callable[[AdaptedPolicy, int], Iterable[wire.Trajectory] | Awaitable[Iterable[wire.Trajectory]]]
"""Collects that many trajectories with that policy: a function, run on a thread, or a coroutine function."""
CLOSED: Final = (grpc.aio.UsageError, asyncio.InvalidStateError)
"""What a channel raises that was closed."""

sleep = asyncio.sleep


class Stubs:
    """The services of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.adaptation: AdaptationStub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.meta_policies: MetaPolicyStub = meta_policy_service_pb2_grpc.MetaPolicyServiceStub(channel)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> Channel:
    """A channel to a server, which connects at its first call."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def close_channel(channel: Channel) -> None:
    """Closes a channel, and ends its calls."""
    await channel.close(None)


async def offload(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Does work that takes long, on a thread: the event loop goes on."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def call_collector(collector: Collector, policy: AdaptedPolicy, count: int) -> Iterable[wire.Trajectory]:
    """Asks a collector for trajectories."""
    if inspect.iscoroutinefunction(collector) or inspect.iscoroutinefunction(getattr(collector, "__call__", None)):  # noqa: B004
        found = collector(policy, count)  # it gives its coroutine at once
    else:
        found = await asyncio.to_thread(collector, policy, count)
    return await found if isinstance(found, Awaitable) else found


async def all_of(works: Sequence[Callable[[], Awaitable[None]]], stop: Callable[[], None]) -> None:
    """Does several works at once.

    Args:
        works: the works.
        stop: called when one has failed or all are cancelled; asks the others to end soon.

    Raises:
        Exception: what the first one to fail raised, once all have ended.
    """
    first: list[BaseException] = []

    async def run(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BaseException as error:
            first.append(error)
            stop()
            raise

    tasks = [asyncio.ensure_future(run(work)) for work in works]
    try:
        # Not a TaskGroup: it would cancel the others, and what they have collected would not be kept.
        await asyncio.gather(*tasks, return_exceptions=True)
    except asyncio.CancelledError:
        stop()
        raise
    if first:
        raise first[0]


def relay(function: Callable[_P, object]) -> Callable[_P, None]:
    """The function, called on the event loop's thread from whatever thread."""
    loop = asyncio.get_running_loop()

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        loop.call_soon_threadsafe(functools.partial(function, *args, **kwargs))

    return call


def traced(
    name: str,
) -> Callable[
    [Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]], Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]
]:
    """A decorator that runs a method in a span."""

    def decorate(
        method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]],
    ) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]:
        @functools.wraps(method)
        async def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self._transport.tracing.span(name):
                return await method(self, *args, **kwargs)

        return run

    return decorate
