"""An upload's payload is reassembled exactly, for every chunking."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thetaprime.server import ServerConfig
from thetaprime.server.auth.authenticator import Caller
from thetaprime.server.errors import InvalidRequestError, QuotaError
from thetaprime.server.rpc.upload_stream import PayloadAssembly, receive_header, receive_payload
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.v1 import adaptation_service_pb2 as service_pb

CONFIG = ServerConfig(max_upload_bytes=2000)
Message = service_pb.UploadTrajectoriesRequest


def receive(declared: int, messages: Iterable[Message]) -> tuple[bytes, service_pb.UploadFooter]:
    async def stream() -> AsyncIterator[Message]:
        yield Message(header=service_pb.UploadHeader(payload_bytes=declared))
        for message in messages:
            yield message

    async def run() -> tuple[bytes, service_pb.UploadFooter]:
        arriving = stream()
        header = await receive_header(arriving, idle=60)
        return await receive_payload(arriving, PayloadAssembly(header.payload_bytes, CONFIG), idle=60, total=60)

    return asyncio.run(run())


def chunk(data: bytes) -> Message:
    return Message(chunk=service_pb.UploadChunk(data=data))


FOOTER = Message(footer=service_pb.UploadFooter(trajectories=1, sha256="s"))


@st.composite
def cut_payloads(draw: st.DrawFn) -> list[bytes]:
    payload = draw(st.binary(min_size=1, max_size=2000))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=12)))
    return [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]


@given(cut_payloads())
def test_every_chunking_is_reassembled(parts: list[bytes]) -> None:
    payload = b"".join(parts)
    assert receive(len(payload), [*map(chunk, parts), FOOTER]) == (payload, FOOTER.footer)


@given(cut_payloads(), st.integers(-2000, 2000).filter(bool))
def test_a_payload_of_another_size_than_declared_is_refused(parts: list[bytes], off: int) -> None:
    declared = sum(map(len, parts)) + off
    with pytest.raises((InvalidRequestError, QuotaError)):
        receive(declared, [*map(chunk, parts), FOOTER])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.booleans()), max_size=20))
def test_the_budget_is_never_exceeded_and_fully_released(events: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        budget, tasks = MemoryBudget(100), list[tuple[asyncio.Task[None], asyncio.Event]]()

        async def hold(tenant: str, size: int, over: asyncio.Event) -> None:
            async with budget.upload(Caller(tenant, ""), size):
                await over.wait()

        for tenant, size, canceled in events:
            over = asyncio.Event()
            task = asyncio.create_task(hold(tenant, size, over))
            tasks.append((task, over))
            await asyncio.sleep(0)
            assert budget.used <= 100
            if canceled:
                task.cancel()
        for task, over in tasks:
            over.set()
            await asyncio.wait([task])
            assert budget.used <= 100
        assert budget.used == 0

    asyncio.run(run())
