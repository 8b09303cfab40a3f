"""What functions that block do in another way than coroutines. Its twin is ``_async/runtime.py``."""

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
"""Collects that many trajectories with that policy."""
CLOSED: Final = (ValueError,)
"""What a channel raises that was closed."""


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


class Stubs:
    """The services of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.adaptation: AdaptationStub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.meta_policies: MetaPolicyStub = meta_policy_service_pb2_grpc.MetaPolicyServiceStub(channel)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> Channel:
    """A channel to a server, which connects at its first call."""
    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def close_channel(channel: Channel) -> None:
    """Closes a channel, and ends its calls."""
    channel.close()


def offload(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Does work that takes long: here, where it can be interrupted."""
    return function(*args, **kwargs)


def call_collector(collector: Collector, policy: AdaptedPolicy, count: int) -> Iterable[wire.Trajectory]:
    """Asks a collector for trajectories."""
    return collector(policy, count)


def all_of(works: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
    """Does several works at once, each on a thread; one alone is done on this one.

    Args:
        works: the works.
        stop: called when one has failed or this thread is interrupted; asks the others to end soon.

    Raises:
        Exception: what the first one to fail raised, once all have ended.
    """
    if len(works) == 1:
        works[0]()
        return
    first: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            first.append(error)
            stop()

    with ThreadPoolExecutor(len(works), "thetaprime-collector") as threads:
        try:
            for future in [threads.submit(contextvars.copy_context().run, run, work) for work in works]:
                future.result()
        except BaseException:
            stop()
            raise
    if first:
        raise first[0]


def relay(function: Callable[_P, object]) -> Callable[_P, None]:
    """The function, called by one thread at a time."""
    lock = threading.Lock()

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with lock:
            function(*args, **kwargs)

    return call


def traced(name: str) -> Callable[[Callable[Concatenate[_S, _P], _R]], Callable[Concatenate[_S, _P], _R]]:
    """A decorator that runs a method in a span."""

    def decorate(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @functools.wraps(method)
        def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self._transport.tracing.span(name):
                return method(self, *args, **kwargs)

        return run

    return decorate
