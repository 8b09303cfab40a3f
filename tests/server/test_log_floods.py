"""Peers without a token cannot fill the log, nor write to it past the server's formatting."""

import json
import socket
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import write_point_artifact
from tests.support.server.certificates import Authority
from tests.support.server.process import ServerProcess

# Below the rate at which a connection is closed.
# An address has 100 health checks a second.
CALLS = 80


def test_failed_handshakes_and_invalid_messages_leave_few_lines_and_all_are_json(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    files = authority.issue("server")
    write_point_artifact(tmp_path / "zoo")
    options = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    with ServerProcess(tmp_path, tmp_path / "zoo", *options) as server:
        host, _, port = server.start().rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=60) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while plain.recv(4096):  # until the server closes the connection
                    pass
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        with grpc.secure_channel(server.address, credentials) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
            for _ in range(CALLS):
                with pytest.raises(grpc.RpcError) as caught:
                    check(b"\xff\xff", timeout=60)
                assert isinstance(caught.value, grpc.Call)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    # The calls are refused before gRPC decodes their messages: it logs no traceback.
    assert not [line for line in lines if "DecodeError" in line["event"] or line["event"] == "library lines omitted"]
