"""A gRPC proxy that drops, cuts, delays, duplicates and reorders calls, between any two messages."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import grpc

FAULTS: Final = ("lost_request", "cut", "lost_reply", "delay", "twice", "twice_at_once", "late_again")
_PATIENCE: Final = 30.0


class FaultyProxy(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Forwards every method as bytes, with a fault in a share of the calls.

    - ``lost_request``: the server never receives the call; the client gets UNAVAILABLE.
    - ``cut``: the stream breaks after its first few messages.
    - ``lost_reply``: the server completes the call; the client gets UNAVAILABLE.
    - ``delay``: up to a fifth of a second before each message.
    - ``twice``, ``twice_at_once``: the server receives the call again, after its reply or in parallel.
    - ``late_again``: the server receives a copy during later calls of the client.

    Args:
        target: address of the server.
        seed: for the faults.
        share: fraction of the calls with a fault.

    Attributes:
        suffered: number of calls with each fault.
    """

    def __init__(self, target: str, seed: int, share: float = 0.5) -> None:
        self._channel = grpc.insecure_channel(target)
        self._random, self._share = random.Random(seed), share
        self._lock = threading.Lock()
        self._late = ThreadPoolExecutor(8)
        self._pending: list[Future[Any]] = []
        self.suffered: Counter[str] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        """Returns a handler for any method: a stream of bytes in, bytes out (a unary call is a stream of one)."""
        method = handler_call_details.method

        def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            return self._call(method, messages, context)

        return grpc.stream_unary_rpc_method_handler(call)

    def close(self) -> None:
        """Waits for the late copies."""
        for pending in self._pending:
            pending.exception(timeout=_PATIENCE)
        self._late.shutdown()
        self._channel.close()

    def _call(self, method: str, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        fault = self._fault()
        # The whole request, so that the proxy can send it again, and cut it between any two messages.
        request = list(messages)
        if fault == "lost_request":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the request was lost")
        if fault == "cut":
            with contextlib.suppress(grpc.RpcError):
                self._send(method, request[: self._draw(len(request))], whole=False)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the stream broke")
        again = self._late.submit(self._send, method, request) if fault == "twice_at_once" else None
        try:
            reply = self._send(method, request, slowly=fault == "delay")
            if fault == "twice":
                reply = self._send(method, request)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            context.abort(error.code(), error.details() or "")
        finally:
            if again is not None:
                again.exception(timeout=_PATIENCE)
        if fault == "late_again":
            self._pending.append(self._late.submit(self._send_later, method, request))
        if fault == "lost_reply":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the reply was lost")
        return reply

    def _send(self, method: str, request: Sequence[bytes], *, whole: bool = True, slowly: bool = False) -> bytes:
        def messages() -> Iterator[bytes]:
            for message in request:
                if slowly:
                    time.sleep(self._seconds())
                yield message
            if not whole:
                raise ConnectionError("the stream broke")

        upstream: Callable[..., bytes] = self._channel.stream_unary(method, bytes, bytes)
        return upstream(messages(), timeout=_PATIENCE)

    def _send_later(self, method: str, request: Sequence[bytes]) -> None:
        time.sleep(self._seconds())
        with contextlib.suppress(grpc.RpcError):
            self._send(method, request)

    def _fault(self) -> str:
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self._share else "none"
            self.suffered[fault] += 1
        return fault

    def _draw(self, below: int) -> int:
        with self._lock:
            return self._random.randrange(below) if below else 0

    def _seconds(self) -> float:
        with self._lock:
            return self._random.uniform(0.0, 0.2)


@contextlib.contextmanager
def faulty_proxy(target: str, seed: int, share: float = 0.5) -> Iterator[tuple[str, FaultyProxy]]:
    """Runs a proxy on loopback, and yields its address and the proxy."""
    proxy = FaultyProxy(target, seed, share)
    with ThreadPoolExecutor(16) as threads:
        server = grpc.server(threads, handlers=[proxy], options=[("grpc.max_receive_message_length", 64 << 20)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", proxy
        finally:
            server.stop(grace=None).wait()
            proxy.close()
