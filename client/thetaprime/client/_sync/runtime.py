"""The operations that differ between the two clients, for blocking code. Its counterpart is ``_async/runtime.py``."""

import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, Final, ParamSpec, TypeAlias, TypeVar

import grpc

from thetaprime import wire
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._rpc.channel import CHANNEL_OPTIONS
from thetaprime.client._rpc.tracing import Traced
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

Channel: TypeAlias = grpc.Channel
AdaptationStub: TypeAlias = "adaptation_service_pb2_grpc.AdaptationServiceStub"
MetaPolicyStub: TypeAlias = "meta_policy_service_pb2_grpc.MetaPolicyServiceStub"
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Traced)
Method = Callable[..., _R]
"""A method of a stub."""
Collector = Callable[[AdaptedPolicy, int], Iterable[wire.Trajectory]]
"""Collects a number of trajectories with a policy."""
CLOSED: Final = (ValueError,)
"""Exceptions of a closed channel."""


def sleep(seconds: float) -> None:
    """Sleeps."""
    time.sleep(seconds)


class Stubs:
    """The stubs of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.adaptation: AdaptationStub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.meta_policies: MetaPolicyStub = meta_policy_service_pb2_grpc.MetaPolicyServiceStub(channel)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> Channel:
    """Returns a channel to a server. The channel connects at its first call."""
    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def close_channel(channel: Channel) -> None:
    """Closes a channel and cancels its calls."""
    channel.close()


def offload(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Runs a long function on the calling thread, where Ctrl-C can interrupt it."""
    return function(*args, **kwargs)


def call_collector(collector: Collector, policy: AdaptedPolicy, count: int) -> Iterable[wire.Trajectory]:
    """Calls a collector and returns its trajectories."""
    return collector(policy, count)


def run_all(tasks: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
    """Runs several tasks concurrently, each on a thread; a single task runs on the calling thread.

    Args:
        tasks: the tasks.
        stop: asks the other tasks to end, after a task has failed or the calling thread is interrupted.

    Raises:
        BaseException: the exception of the first task that failed, after all tasks have ended.
    """
    if len(tasks) == 1:
        tasks[0]()
        return
    first: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            first.append(error)
            stop()

    with ThreadPoolExecutor(len(tasks), "thetaprime-collector") as threads:
        try:
            for future in [threads.submit(contextvars.copy_context().run, run, task) for task in tasks]:
                future.result()
        except BaseException:
            stop()
            raise
    if first:
        raise first[0]


def relay(function: Callable[_P, object]) -> Callable[_P, None]:
    """Returns a thread-safe function that calls `function`."""
    lock = threading.Lock()

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with lock:
            function(*args, **kwargs)

    return call


def traced(name: str) -> Callable[[Callable[Concatenate[_S, _P], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Returns a decorator that records a span of a method."""

    def decorate(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @functools.wraps(method)
        def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self._transport.tracing.span(name):
                return method(self, *args, **kwargs)

        return run

    return decorate
