"""Receives the messages of a call within the gate's limits, and decodes each."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from thetaprime.server.errors import InvalidRequestError
from thetaprime.server.rpc.gate import END_OF_REQUESTS, MESSAGE_BYTES, AdmittedCall

_UPLOAD: Final = "/thetaprime.v1.AdaptationService/UploadTrajectories"
_REQUEST_BYTES: Final = 16 << 10
# A robot's description has 7 lists of up to 1,024 entries.
_LARGER_REQUESTS: Final = {
    _UPLOAD: MESSAGE_BYTES,
    "/thetaprime.v1.AdaptationService/GetPolicy": 256 << 10,
    "/thetaprime.v1.MetaPolicyService/GetMetaPolicy": 256 << 10,
}


class Requests:
    """The messages of a call, each received and decoded when it is requested. An asynchronous iterator.

    gRPC itself would decode a message before the call is authenticated, and end a call whose bytes are invalid as an
    internal error.

    Args:
        method: as gRPC names it, ``/package.Service/Method``.
        decode: turns bytes into a message.
        admitted: the call at the gate.
    """

    __slots__ = ("_admitted", "_decode", "_is_gated", "_is_upload", "_limit")

    def __init__(
        self,
        method: str,
        decode: Callable[[bytes], Any],
        admitted: AdmittedCall,
    ) -> None:
        self._limit = _LARGER_REQUESTS.get(method, _REQUEST_BYTES)
        self._decode = decode
        self._admitted = admitted
        self._is_upload = method == _UPLOAD
        self._is_gated = True

    async def only(self) -> Any:
        """Returns the message of a call that has one.

        Raises:
            InvalidRequestError: there is none, or its bytes are invalid.
            ServiceError: as from `AdmittedCall.receive`.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise InvalidRequestError("request", "missing; the call ended before its message") from None

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        if self._is_gated:
            data = await self._admitted.receive(self._limit)
            # An upload reserves the memory of its payload once its header has arrived, and limits its times.
            self._is_gated = not self._is_upload
        else:
            data = await self._admitted.read()
        if data is END_OF_REQUESTS:
            raise StopAsyncIteration
        try:
            return self._decode(data)
        except DecodeError as error:
            raise InvalidRequestError("request", f"{len(data)} bytes that are not the method's message") from error
