"""Reads the messages of a call, once the call was let in, and says of bytes that are none what is wrong with them.

gRPC would read them before anybody is asked who calls, and end a call that it cannot read as a fault of the server.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from thetaprime.server.errors import InvalidRequestError


def decoding(handler: "grpc.RpcMethodHandler[Any, Any]") -> Callable[..., Awaitable[Any]]:
    """A handler's behavior, for requests as bytes.

    The behavior raises `InvalidRequestError` where they are not the method's message.
    """
    read: Any = handler.request_deserializer
    if handler.request_streaming:
        stream: Any = handler.stream_unary
        return lambda messages, context: stream(_Messages(messages, read), context)
    behavior: Any = handler.unary_unary

    async def call(request: bytes, context: object) -> Any:
        return await behavior(_message(request, read), context)

    return call


class _Messages:
    """The messages of a stream, each read when it is asked for."""

    def __init__(self, messages: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> None:
        self._messages = messages
        self._read = read

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Any:
        return _message(await anext(self._messages), self._read)


def _message(data: bytes, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(data)
    except DecodeError as error:
        raise InvalidRequestError("request", f"{len(data)} bytes that are not the method's message") from error
