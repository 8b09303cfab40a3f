"""Calls that an overloaded server drops are retried."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import thetaprime.client as tp
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

CALLS = 8


def serve(ready: threading.Event, address: list[str], over: threading.Event) -> None:
    """Runs a server whose event loop is busy, and for which at most one call may wait."""

    async def reply(_messages: object, _context: object) -> bytes:
        time.sleep(0.02)  # holds up the loop
        return meta_pb.ListMetaPoliciesResponse().SerializeToString()

    class Answering(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
        async def intercept_service(self, _continuation: Any, _details: Any) -> Any:
            return grpc.stream_unary_rpc_method_handler(reply)

    async def run() -> None:
        limits = [("grpc.server.max_pending_requests", 1), ("grpc.server.max_pending_requests_hard_limit", 1)]
        server = grpc.aio.server(interceptors=[Answering()], options=limits)
        address.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        ready.set()
        await asyncio.to_thread(over.wait, 60)
        await server.stop(0)

    asyncio.run(run())


def test_a_call_that_an_overloaded_server_drops_is_retried() -> None:
    ready, over, address = threading.Event(), threading.Event(), list[str]()
    with ThreadPoolExecutor(CALLS + 1) as threads:
        server = threads.submit(serve, ready, address, over)
        try:
            assert ready.wait(60)
            with grpc.insecure_channel(address[0]) as opened:
                channel: Any = opened
                method = channel.unary_unary("/thetaprime.v1.MetaPolicyService/ListMetaPolicies")
                dropped = [method.future(b"", timeout=60) for _ in range(CALLS)]
                assert grpc.StatusCode.CANCELLED in {each.code() for each in dropped}
            with tp.Client(address[0]) as client:
                listed = [threads.submit(client.meta_policies) for _ in range(CALLS)]
                assert [list(each.result()) for each in listed] == [[]] * CALLS
        finally:
            over.set()
        server.result()
