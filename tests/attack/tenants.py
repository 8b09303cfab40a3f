"""Attacks by a tenant, who has a token."""

import asyncio
import contextlib
import itertools
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from tests.attack.attack import Aim, Attack
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

_NAME = "point-navigation"
_BLOCK = 1 << 16
_Metadata = tuple[tuple[str, str | bytes], ...]


@contextlib.contextmanager
def _relay(target: str, source: str) -> Iterator[str]:
    """Forwards connections from the attacker's address, which a gRPC client cannot choose; yields its address."""
    host, _, port = target.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            while data := await reader.read(_BLOCK):
                writer.write(data)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
            await asyncio.gather(forward(reader, server_writer), forward(server_reader, writer))

    started = threading.Event()
    addresses: list[str] = []

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        addresses.append("{}:{}".format(*server.sockets[0].getsockname()))
        started.set()
        await server.serve_forever()

    # The process of an attack ends with it, and the thread with the process.
    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    started.wait()
    yield addresses[0]


class TenantAttack(Attack):
    """An attack by eight threads of one tenant."""

    guarded = True
    computes = True
    threads = 8

    def run(self, aim: Aim) -> None:
        with _relay(aim.address, aim.source) as address, contextlib.ExitStack() as opened:
            authority = Path(aim.authority).read_bytes()
            credentials = grpc.ssl_channel_credentials(authority)
            attackers = []
            for _ in range(self.threads):
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
                channel = opened.enter_context(grpc.secure_channel(address, credentials, options))
                stub = AdaptationServiceStub(channel)
                metadata: _Metadata = (("authorization", f"Bearer {aim.token}"),)
                attackers.append(threading.Thread(target=self._repeat, args=(aim, stub, metadata)))
            for each in attackers:
                each.start()
            for each in attackers:
                each.join()

    def _repeat(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> None:
        attempt = self.begin(aim, stub, metadata)
        while aim.goes_on():
            try:
                attempt()
            except grpc.RpcError:
                time.sleep(0.001)

    @abstractmethod
    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        """Returns what a thread does again and again."""


class SlowUploads(TenantAttack):
    """Uploads as slowly as it may."""

    about = "uploads of a tenant that announce 16 MiB each and send a byte at a time"
    threads = 32

    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        create = service_pb.CreateSessionRequest(request_id=uuid.uuid4().hex, meta_policy=_NAME)
        header = service_pb.UploadTrajectoriesRequest()
        header.header.upload_id, header.header.payload_bytes = "slow", 16 << 20

        def drip() -> Iterator[service_pb.UploadTrajectoriesRequest]:
            yield header
            while True:
                yield service_pb.UploadTrajectoriesRequest(chunk=service_pb.UploadChunk(data=b"\0"))
                time.sleep(0.05)

        def upload() -> None:
            session = stub.CreateSession(create, timeout=aim.left(), metadata=metadata).session
            header.header.session_id = session.session_id
            stub.UploadTrajectories(drip(), timeout=aim.left(), metadata=metadata)

        return upload


class ManySessions(TenantAttack):
    """Opens sessions with the longest ids."""

    about = "sessions of a tenant, created as fast as it can, with request ids of 128 characters"

    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        def create() -> object:
            request = service_pb.CreateSessionRequest(request_id=uuid.uuid4().hex * 4, meta_policy=_NAME)
            return stub.CreateSession(request, timeout=aim.left(), metadata=metadata)

        return create


class OpenedAndClosed(TenantAttack):
    """Opens sessions and closes them: none counts as open."""

    about = "sessions of a tenant that are closed as soon as they are open"

    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        def create_and_close() -> None:
            request = service_pb.CreateSessionRequest(request_id=uuid.uuid4().hex, meta_policy=_NAME)
            session = stub.CreateSession(request, timeout=aim.left(), metadata=metadata).session
            stub.CloseSession(
                service_pb.CloseSessionRequest(session_id=session.session_id), timeout=aim.left(), metadata=metadata
            )

        return create_and_close


class ManyReads(TenantAttack):
    """Reads, lists, and names what does not exist."""

    about = "listings and look-ups of a tenant, as many as it can"

    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        numbers = itertools.count()

        def read() -> None:
            stub.ListSessions(service_pb.ListSessionsRequest(page_size=1000), timeout=aim.left(), metadata=metadata)
            missing = service_pb.GetSessionRequest(session_id=f"{next(numbers):032x}")
            stub.GetSession(missing, timeout=aim.left(), metadata=metadata)

        return read


class InvalidTokens(TenantAttack):
    """Guesses tokens."""

    about = "calls with tokens that the peer guesses"

    def begin(self, aim: Aim, stub: AdaptationServiceStub, metadata: _Metadata) -> Callable[[], object]:
        def guess() -> object:
            wrong: _Metadata = (("authorization", f"Bearer {uuid.uuid4().hex}"),)
            return stub.GetSession(service_pb.GetSessionRequest(session_id="0"), timeout=aim.left(), metadata=wrong)

        return guess
