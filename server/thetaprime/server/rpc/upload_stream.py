"""Receives the header, the chunks and the footer of an upload, and checks each limit before it uses memory."""

import asyncio
from collections.abc import AsyncIterator

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import InvalidRequestError, QuotaError, StalledUploadError
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.wire import CHUNK_BYTES

Messages = AsyncIterator[service_pb.UploadTrajectoriesRequest]


class PayloadAssembly:
    """Assembles the payload of one upload from its chunks.

    Args:
        declared: `UploadHeader.payload_bytes`.
        config: the limits.

    Raises:
        InvalidRequestError: the declared size is not positive.
        QuotaError: the declared size exceeds the limit of one upload.
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
        """Appends the next chunk.

        Raises:
            InvalidRequestError: the chunk exceeds the contract's size, or the payload exceeds the declared size.
        """
        if len(data) > CHUNK_BYTES:
            raise InvalidRequestError("chunk.data", f"{len(data)} bytes; at most {CHUNK_BYTES} are allowed")
        if self._arrived + len(data) > self._declared:
            raise InvalidRequestError(
                "chunk.data", f"{self._arrived + len(data)} payload bytes so far; the header declared {self._declared}"
            )
        # Empty chunks are free to send: they must not make the list grow.
        if data:
            self._chunks.append(data)
            self._arrived += len(data)

    def finish(self) -> bytes:
        """Returns the payload, once the footer has arrived.

        Raises:
            InvalidRequestError: fewer bytes arrived than declared.
        """
        if self._arrived < self._declared:
            raise InvalidRequestError(
                "header.payload_bytes", f"{self._declared} declared; {self._arrived} came before the footer"
            )
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


async def receive_header(messages: Messages, idle: float) -> service_pb.UploadHeader:
    """Receives the first message of an upload.

    Args:
        messages: the stream.
        idle: seconds to wait for the message.

    Raises:
        InvalidRequestError: the message is not a header.
        StalledUploadError: the message did not arrive in time.
    """
    first = await _next(messages, idle)
    if first.WhichOneof("part") != "header":
        raise InvalidRequestError("header", "missing; the first message of an upload is its header")
    return first.header


async def receive_payload(
    messages: Messages, assembly: PayloadAssembly, idle: float, total: float
) -> tuple[bytes, service_pb.UploadFooter]:
    """Receives the chunks and the footer of an upload.

    Args:
        messages: the stream, after its header.
        assembly: assembles the payload.
        idle: seconds to wait for each message.
        total: seconds to wait for all messages.

    Raises:
        InvalidRequestError: the stream is not chunks followed by a footer, or the payload's size is not the declared
            one.
        StalledUploadError: a message, or the last one, did not arrive in time.
    """
    try:
        async with asyncio.timeout(total):
            return await _receive_all(messages, assembly, idle)
    except TimeoutError:
        raise StalledUploadError(f"the upload did not arrive within {total:g} s") from None


async def _receive_all(
    messages: Messages, assembly: PayloadAssembly, idle: float
) -> tuple[bytes, service_pb.UploadFooter]:
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
