"""Puts the payload of an upload together again, checking each limit before it takes the memory."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from thetaprime.server.auth.authenticator import DEFAULT_TENANT
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import BusyError, InvalidRequestError, QuotaError, StalledUploadError
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.wire import CHUNK_BYTES

Messages = AsyncIterator[service_pb.UploadTrajectoriesRequest]


class InflightBudget:
    """The memory that all arriving payloads may take together. For use on one event loop.

    A tenant that has an upload arriving gets room for another as long as it then holds no more than is left to the
    others (the dynamic thresholds of Choudhury and Hahne, 1998): however many it sends, and however slowly, there is
    room for somebody else's.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def reserve(self, tenant: str, size: int) -> Iterator[None]:
        """Sets bytes aside for as long as the context lasts.

        Raises:
            BusyError: other uploads hold too much of the budget.
        """
        after, left = self._held[tenant] + size, self._free - size
        shares = tenant != DEFAULT_TENANT and after > size
        if left < 0 or (shares and after > left):
            raise BusyError(f"too many uploads are arriving at once to take {size} bytes more", retry_after=1.0)
        self._free, self._held[tenant] = left, after
        try:
            yield
        finally:
            self._free += size
            self._held[tenant] -= size
            if not self._held[tenant]:
                del self._held[tenant]


class PayloadAssembly:
    """The payload of one upload while its chunks arrive.

    Args:
        declared: `UploadHeader.payload_bytes`.
        config: for the limit.

    Raises:
        InvalidRequestError: nothing was declared.
        QuotaError: more was declared than one upload may have.
    """

    def __init__(self, declared: int, config: ServerConfig) -> None:
        if declared <= 0:
            raise InvalidRequestError("header.payload_bytes", f"{declared}; an upload has at least one trajectory")
        if declared > config.max_upload_bytes:
            raise QuotaError("UPLOAD_TOO_LARGE", "header.payload_bytes", declared, config.max_upload_bytes)
        self._declared = declared
        self._chunks: list[bytes] = []
        self._arrived = 0

    def add(self, data: bytes) -> None:
        """Takes the next chunk.

        Raises:
            InvalidRequestError: a chunk above the contract's size, or more bytes than were declared.
        """
        if len(data) > CHUNK_BYTES:
            raise InvalidRequestError("chunk.data", f"{len(data)} bytes; at most {CHUNK_BYTES} are allowed")
        if self._arrived + len(data) > self._declared:
            raise InvalidRequestError(
                "chunk.data", f"{self._arrived + len(data)} payload bytes so far; the header declared {self._declared}"
            )
        # An empty chunk costs nothing to send: a list of them must not grow.
        if data:
            self._chunks.append(data)
            self._arrived += len(data)

    def finish(self) -> bytes:
        """The payload, once the footer has come.

        Raises:
            InvalidRequestError: fewer bytes arrived than were declared.
        """
        if self._arrived < self._declared:
            raise InvalidRequestError(
                "header.payload_bytes", f"{self._declared} declared; {self._arrived} came before the footer"
            )
        return b"".join(self._chunks)


async def receive_header(messages: Messages, idle: float) -> service_pb.UploadHeader:
    """The first message of an upload.

    Args:
        messages: the stream.
        idle: seconds to wait for it.

    Raises:
        InvalidRequestError: it is no header.
        StalledUploadError: it did not come.
    """
    first = await _next(messages, idle)
    if first.WhichOneof("part") != "header":
        raise InvalidRequestError("header", "missing; the first message of an upload is its header")
    return first.header


async def receive_payload(
    messages: Messages, assembly: PayloadAssembly, idle: float, total: float
) -> tuple[bytes, service_pb.UploadFooter]:
    """The chunks and the footer of an upload.

    Args:
        messages: the stream, after its header.
        assembly: where the chunks go.
        idle: seconds to wait for each message.
        total: seconds to wait for all of them.

    Raises:
        InvalidRequestError: the stream is not chunks and then a footer, or its length is not what was declared.
        StalledUploadError: a message did not come, or not the last one in time.
    """
    try:
        async with asyncio.timeout(total):
            return await _all(messages, assembly, idle)
    except TimeoutError:
        raise StalledUploadError(f"the upload did not arrive within {total:g} s") from None


async def _all(messages: Messages, assembly: PayloadAssembly, idle: float) -> tuple[bytes, service_pb.UploadFooter]:
    while True:
        message = await _next(messages, idle)
        match message.WhichOneof("part"):
            case "chunk":
                assembly.add(message.chunk.data)
            case "footer":
                return assembly.finish(), message.footer
            case "header":
                raise InvalidRequestError("header", "came twice; an upload has one")
            case _:
                raise InvalidRequestError("part", "not set; expected a chunk or the footer")


async def _next(messages: Messages, idle: float) -> service_pb.UploadTrajectoriesRequest:
    try:
        async with asyncio.timeout(idle):
            return await anext(messages)
    except TimeoutError:
        raise StalledUploadError(f"no message of the upload came for {idle:g} s") from None
    except StopAsyncIteration:
        raise InvalidRequestError("footer", "missing; the stream ended before it") from None
