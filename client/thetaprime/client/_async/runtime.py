"""The operations that differ between the two clients, for asyncio. Its counterpart is ``_sync/runtime.py``."""

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
"""Collects a number of trajectories with a policy: a function, which runs on a thread, or a coroutine function."""
CLOSED: Final = (grpc.aio.UsageError, asyncio.InvalidStateError)
"""Exceptions of a closed channel."""

sleep = asyncio.sleep


class Stubs:
    """The stubs of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.adaptation: AdaptationStub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.meta_policies: MetaPolicyStub = meta_policy_service_pb2_grpc.MetaPolicyServiceStub(channel)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> Channel:
    """Returns a channel to a server. The channel connects at its first call."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def close_channel(channel: Channel) -> None:
    """Closes a channel and cancels its calls."""
    await channel.close(None)


async def offload(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Runs a long function on a thread, so that the event loop continues."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def call_collector(collector: Collector, policy: AdaptedPolicy, count: int) -> Iterable[wire.Trajectory]:
    """Calls a collector and returns its trajectories."""
    if inspect.iscoroutinefunction(collector) or inspect.iscoroutinefunction(getattr(collector, "__call__", None)):  # noqa: B004
        found = collector(policy, count)  # returns its coroutine at once
    else:
        found = await asyncio.to_thread(collector, policy, count)
    return await found if isinstance(found, Awaitable) else found


async def run_all(tasks: Sequence[Callable[[], Awaitable[None]]], stop: Callable[[], None]) -> None:
    """Runs several tasks concurrently.

    Args:
        tasks: functions that return the tasks' coroutines.
        stop: asks the other tasks to end, after a task has failed or all are cancelled.

    Raises:
        BaseException: the exception of the first task that failed, after all tasks have ended.
    """
    first: list[BaseException] = []

    async def run(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except BaseException as error:
            first.append(error)
            stop()
            raise

    running = [asyncio.ensure_future(run(task)) for task in tasks]
    try:
        # Not a TaskGroup: it would cancel the other tasks, whose trajectories would be lost.
        await asyncio.gather(*running, return_exceptions=True)
    except asyncio.CancelledError:
        stop()
        raise
    if first:
        raise first[0]


def relay(function: Callable[_P, object]) -> Callable[_P, None]:
    """Returns a function for any thread that calls `function` on the event loop's thread."""
    loop = asyncio.get_running_loop()

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        loop.call_soon_threadsafe(functools.partial(function, *args, **kwargs))

    return call


def traced(
    name: str,
) -> Callable[
    [Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]], Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]
]:
    """Returns a decorator that records a span of a method."""

    def decorate(
        method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]],
    ) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]:
        @functools.wraps(method)
        async def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self._transport.tracing.span(name):
                return await method(self, *args, **kwargs)

        return run

    return decorate
