"""The service that receives the fuzzer's calls: one tenant, one session."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc

from tests.support.artifacts import write_point_artifact
from tests.support.point_navigation import NAME
from tests.support.server.tokens import write_tokens
from tests.support.server.without_wire import Metadata, RefusedError, ServiceWithoutWire
from thetaprime.server import ServerConfig
from thetaprime.server.store import tables
from thetaprime.v1 import adaptation_service_pb2 as service_pb

SESSION: Final = "s"
TOKEN: Final = "theta_fuzz"
AUTHORIZED: Final = (("authorization", f"Bearer {TOKEN}"),)


class Service:
    """Calls methods by name, and restores the store after each call."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="thetaprime-fuzz-")
        folder = Path(self._folder.name)
        write_point_artifact(folder / "zoo")
        self._service = ServiceWithoutWire(
            ServerConfig(
                store=folder / "store",
                zoo=(folder / "zoo",),
                tokens=write_tokens(folder / "tokens.toml", {TOKEN: "tenant"}),
                tracing=True,
                max_upload_bytes=1 << 20,
                max_inflight_bytes=1 << 20,
            )
        )
        request = service_pb.CreateSessionRequest(request_id="r", meta_policy=NAME).SerializeToString()
        reply = self._service.call("CreateSession", [request], AUTHORIZED)
        self.policy = service_pb.CreateSessionResponse.FromString(reply).policy
        with self._service.store.writing() as connection:
            connection.execute(tables.sessions.update().values(session_id=SESSION))
            self._session = dict(connection.execute(tables.sessions.select()).mappings().one())

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, sorted."""
        return self._service.methods

    def call(self, method: str, messages: Iterable[bytes], metadata: Metadata = AUTHORIZED) -> grpc.StatusCode:
        """Makes a call, and returns its status.

        Raises:
            AssertionError: the status is INTERNAL.
            Exception: the service raised an undeclared error.
        """
        try:
            self._service.call(method, messages, metadata)
        except RefusedError as refused:
            assert refused.code is not grpc.StatusCode.INTERNAL, "an internal error; its traceback is in the log"
            return refused.code
        self._restore()
        return grpc.StatusCode.OK

    def _restore(self) -> None:
        with self._service.store.writing() as connection:
            for table in (tables.uploads, tables.policies, tables.sessions):
                connection.execute(table.delete())
            connection.execute(tables.sessions.insert().values(self._session))
