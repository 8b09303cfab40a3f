"""Errors, deadlines and retries, with gRPC servers on loopback that misbehave on purpose."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import thetaprime.client as tp
from thetaprime.v1 import adaptation_service_pb2 as pb

Handler = Callable[[Any, grpc.ServicerContext], Any]


def _answering(handler: Handler) -> "grpc.GenericRpcHandler[Any, Any]":
    """Handles GetSession and UploadTrajectories with one handler."""
    methods = {
        "GetSession": grpc.unary_unary_rpc_method_handler(
            handler, pb.GetSessionRequest.FromString, pb.GetSessionResponse.SerializeToString
        ),
        "UploadTrajectories": grpc.stream_unary_rpc_method_handler(
            handler, pb.UploadTrajectoriesRequest.FromString, pb.UploadTrajectoriesResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("thetaprime.v1.AdaptationService", methods)


@contextlib.contextmanager
def scripted(handler: Handler, address: str = "127.0.0.1:0") -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_answering(handler),))
        port = server.add_insecure_port(address)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def refuse(code: grpc.StatusCode, message: str = "no", *details: Any) -> Handler:
    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.abort_with_status(rpc_status.to_status(status))

    return handler


def error_of(handler: Handler, timeout: float = 60.0) -> tp.ThetaPrimeError:
    with (
        scripted(handler) as address,
        tp.Client(address, timeout=timeout) as client,
        pytest.raises(tp.ThetaPrimeError) as caught,
    ):
        client.resume("s")
    return caught.value


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="thetaprime", metadata=metadata)


@pytest.mark.parametrize(
    ("code", "kind", "standard"),
    [
        (grpc.StatusCode.NOT_FOUND, tp.NotFoundError, LookupError),
        (grpc.StatusCode.INVALID_ARGUMENT, tp.InvalidInputError, ValueError),
        (grpc.StatusCode.FAILED_PRECONDITION, tp.PreconditionError, RuntimeError),
        (grpc.StatusCode.ALREADY_EXISTS, tp.PreconditionError, RuntimeError),
        (grpc.StatusCode.ABORTED, tp.StaleRoundError, tp.PreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, tp.LimitError, RuntimeError),
        (grpc.StatusCode.DATA_LOSS, tp.DataLossError, OSError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, tp.DeadlineError, TimeoutError),
        (grpc.StatusCode.UNAVAILABLE, tp.UnreachableError, ConnectionError),
        (grpc.StatusCode.UNAUTHENTICATED, tp.AccessError, PermissionError),
        (grpc.StatusCode.PERMISSION_DENIED, tp.AccessError, PermissionError),
        (grpc.StatusCode.INTERNAL, tp.ServerError, RuntimeError),
        (grpc.StatusCode.UNKNOWN, tp.ServerError, RuntimeError),
        (grpc.StatusCode.UNIMPLEMENTED, tp.ServerError, RuntimeError),
    ],
)
@pytest.mark.usefixtures("quick_retries")
def test_every_status_code_has_its_error(code: grpc.StatusCode, kind: type, standard: type) -> None:
    error = error_of(refuse(code, "the server's message"))
    assert type(error) is kind
    assert isinstance(error, standard)
    assert "the server's message" in str(error)


def test_violations_name_their_fields() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="a.b[3]", description="nan; expected finite")
    error = error_of(
        refuse(grpc.StatusCode.INVALID_ARGUMENT, "x", error_details_pb2.BadRequest(field_violations=[violation]))
    )
    assert isinstance(error, tp.InvalidInputError)
    assert error.violations == (tp.Violation("a.b[3]", "nan; expected finite"),)
    assert "a.b[3]: nan; expected finite" in str(error)


def test_a_precondition_has_its_reason() -> None:
    error = error_of(refuse(grpc.StatusCode.FAILED_PRECONDITION, "x", info("OFF_POLICY", trajectory="3")))
    assert isinstance(error, tp.PreconditionError)
    assert (error.reason, error.details) == ("OFF_POLICY", {"trajectory": "3"})


def test_a_stale_round_has_the_current_one() -> None:
    error = error_of(refuse(grpc.StatusCode.ABORTED, "x", info("ROUND_MISMATCH", round="4")))
    assert isinstance(error, tp.StaleRoundError)
    assert error.current_round == 4
    assert "refresh()" in str(error)


def test_a_limit_error_has_the_retry_time() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    error = error_of(refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry), timeout=1.0)
    assert isinstance(error, tp.LimitError)
    assert error.retry_after == 1.5
    assert "retry after 1.5 s" in str(error)


def busy_at_first(times: int, answer: Any, seen: list[Any], *details: Any) -> Handler:
    """Reads the whole request and refuses it `times` times, then answers."""
    no = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", *details)

    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append([part.WhichOneof("part") for part in request] if hasattr(request, "__next__") else request)
        return no(request, context) if len(seen) <= times else answer

    return handler


def test_a_client_retries_at_the_servers_retry_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("thetaprime.client._sync.runtime.time.sleep", waits.append)
    seen: list[Any] = []
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    answer = pb.UploadTrajectoriesResponse(upload_id="u")
    parts = [
        pb.UploadTrajectoriesRequest(header=pb.UploadHeader(upload_id="u")),
        pb.UploadTrajectoriesRequest(footer=pb.UploadFooter(steps=1)),
    ]
    with scripted(busy_at_first(2, answer, seen, retry)) as address, tp.Client(address) as client:
        transport = client._transport
        assert transport.stream(transport.adaptation.UploadTrajectories, lambda: iter(parts)) == answer
    assert seen == [["header", "footer"]] * 3
    assert len(waits) == 2
    assert all(2.0 <= wait <= 2.5 for wait in waits)


def test_a_client_does_not_retry_beyond_its_deadline_or_without_a_retry_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s")

    monkeypatch.setattr("thetaprime.client._sync.runtime.time.sleep", sleep)
    late = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
    for details in ([late], [info("TENANT_BYTES")]):
        seen: list[Any] = []
        with (
            scripted(busy_at_first(9, None, seen, *details)) as address,
            tp.Client(address, timeout=30) as client,
            pytest.raises(tp.LimitError),
        ):
            client.resume("s")
        assert len(seen) == 1


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "ü"])
def test_a_malformed_token_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(tp.InvalidInputError, match="token: not a token") as caught:
        tp.Client(token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:50051", "example.org:50051", "127.0.0.1.example.org:1", "[2001:db8::1]:1"]
)
def test_a_token_is_not_sent_to_another_machine_in_plain_text(address: str) -> None:
    with pytest.raises(tp.InvalidInputError, match="in plain text") as caught:
        tp.Client(address, token="the-secret")
    assert "the-secret" not in str(caught.value)
    for client in (
        tp.Client(address, token="the-secret", credentials=tp.tls_credentials()),
        tp.Client(address, token="the-secret", allow_plaintext=True),
        tp.Client("[::1]:50051", token="the-secret"),
    ):
        assert "the-secret" not in repr(client)
        client.close()


def test_malformed_details_do_not_hide_the_error() -> None:
    def garbled(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the reason")

    error = error_of(garbled)
    assert isinstance(error, tp.PreconditionError)
    assert "the reason" in str(error)


@pytest.mark.usefixtures("quick_retries")
def test_an_unreachable_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with tp.Client(address) as client, pytest.raises(tp.UnreachableError, match="thetaprime serve") as caught:
            client.meta_policies()
    assert address in str(caught.value)


def test_a_server_that_does_not_answer_in_time() -> None:
    released = threading.Event()

    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        released.wait(60)
        return pb.GetSessionResponse()

    with scripted(hang) as address, tp.Client(address, timeout=0.2) as client:
        with pytest.raises(tp.DeadlineError, match="larger timeout"):
            client.resume("s")
        released.set()


def test_a_call_may_have_a_shorter_timeout_than_the_client() -> None:
    released = threading.Event()

    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        released.wait(60)
        return pb.GetSessionResponse()

    with scripted(hang) as address, tp.Client(address, timeout=50) as client:
        transport = client._transport
        with pytest.raises(tp.DeadlineError):
            client.resume("s", timeout=0.2)
        with pytest.raises(tp.DeadlineError):
            transport.stream(transport.adaptation.UploadTrajectories, lambda: iter(()), 0.2)
        released.set()


def test_another_service_at_the_address() -> None:
    refused = pytest.raises(tp.ServerError, match=r"does not serve thetaprime\.v1")
    with (
        scripted(refuse(grpc.StatusCode.INTERNAL)) as address,
        tp.Client(address) as client,
        refused as caught,
    ):
        client.meta_policies()
    assert caught.value.code == "UNIMPLEMENTED"


def failing_at_first(times: int, answer: Any, seen: list[Any]) -> Handler:
    """Is unavailable `times` times, having read the whole request, then answers."""

    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append([part.WhichOneof("part") for part in request] if hasattr(request, "__next__") else request)
        if len(seen) <= times:
            context.abort(grpc.StatusCode.UNAVAILABLE, "for now")
        return answer

    return handler


def test_a_call_is_retried_while_the_server_is_unavailable() -> None:
    seen: list[Any] = []
    answer = pb.GetSessionResponse(session=pb.Session(session_id="s"))
    with scripted(failing_at_first(3, answer, seen)) as address, tp.Client(address) as client:
        transport = client._transport
        response = transport.call(transport.adaptation.GetSession, pb.GetSessionRequest(session_id="s"))
    assert response == answer
    assert len(seen) == 4


def test_a_large_upload_is_retried_from_its_start() -> None:
    seen: list[Any] = []
    parts = [pb.UploadTrajectoriesRequest(header=pb.UploadHeader(upload_id="u"))]
    parts += [pb.UploadTrajectoriesRequest(chunk=pb.UploadChunk(data=bytes(1 << 20))) for _ in range(8)]
    parts += [pb.UploadTrajectoriesRequest(footer=pb.UploadFooter(steps=1))]
    answer = pb.UploadTrajectoriesResponse(upload_id="u")
    with scripted(failing_at_first(1, answer, seen)) as address, tp.Client(address) as client:
        transport = client._transport
        assert transport.stream(transport.adaptation.UploadTrajectories, lambda: iter(parts)) == answer
    assert seen == [["header", *["chunk"] * 8, "footer"]] * 2


@pytest.mark.slow
def test_a_restarted_server_is_found_again() -> None:
    answer = pb.GetSessionResponse(session=pb.Session(session_id="s"))
    request = pb.GetSessionRequest(session_id="s")
    with scripted(lambda *_: answer) as address, tp.Client(address) as client:
        transport = client._transport
        assert transport.call(transport.adaptation.GetSession, request) == answer
    with tp.Client(address) as client:
        transport = client._transport
        with pytest.raises(tp.UnreachableError):
            transport.call(transport.adaptation.GetSession, request)
        with scripted(lambda *_: answer, address):
            assert transport.call(transport.adaptation.GetSession, request) == answer


@pytest.mark.slow
@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_has_answered_is_waited_for_until_the_deadline() -> None:
    answer = pb.GetSessionResponse(session=pb.Session(session_id="s"))
    request = pb.GetSessionRequest(session_id="s")
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        with scripted(lambda *_: answer) as address:
            client = stack.enter_context(tp.Client(address))
            transport = client._transport
            assert transport.call(transport.adaptation.GetSession, request) == answer
        waiting = threads.submit(transport.call, transport.adaptation.GetSession, request)
        # All of gRPC's own attempts fail meanwhile.
        with pytest.raises(TimeoutError):
            waiting.result(1.5)
        with scripted(lambda *_: answer, address):
            assert waiting.result(60) == answer


def test_a_server_that_stays_away_fails_the_call_at_the_deadline() -> None:
    request = pb.GetSessionRequest(session_id="s")
    with contextlib.ExitStack() as stack:
        with scripted(lambda *_: pb.GetSessionResponse()) as address:
            client = stack.enter_context(tp.Client(address, timeout=1.0))
            transport = client._transport
            transport.call(transport.adaptation.GetSession, request)
        started = time.monotonic()
        with pytest.raises((tp.UnreachableError, tp.DeadlineError)):
            transport.call(transport.adaptation.GetSession, request)
        assert time.monotonic() - started < 10.0


def test_nothing_connects_before_the_first_call() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.1)
        with tp.Client(f"127.0.0.1:{listening.getsockname()[1]}"), pytest.raises(TimeoutError):
            listening.accept()


def test_a_given_channel_is_used_and_stays_open(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        with tp.Client(channel=channel) as client:
            first = client.meta_policies()
        with tp.Client(channel=channel) as client:
            assert client.meta_policies() == first


def test_a_closed_client_refuses_calls(address: str) -> None:
    client = tp.Client(address)
    client.close()
    with pytest.raises(tp.InvalidInputError, match="closed"):
        client.meta_policies()


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_timeout_that_is_not_positive_is_refused(timeout: float) -> None:
    with pytest.raises(tp.InvalidInputError, match="timeout"):
        tp.Client(timeout=timeout)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("127.0.0.1:99999", r"has port '99999'; expected a number from 0 to 65535"),
        ("localhost:-1", "has port '-1'"),
        ("localhost:grpc", "has port 'grpc'"),
        ("[::1]:65536", "has port '65536'"),
        ("dns:///localhost:70000", "has port '70000'"),
        ("ipv4:127.0.0.1:1,127.0.0.1:65536", "has port '65536'"),
        ("localhost", r"has no port; expected host:port, such as 'localhost:50051'"),
        ("localhost:", "such as 'localhost:50051'"),
        ("[::1]", r"has no port; expected host:port, such as '\[::1\]:50051'"),
        ("", "has no port"),
        ("2001:db8::1", r"has no brackets; expected host:port, such as '\[2001:db8::1\]:50051'"),
        ("http://localhost:50051", "is a URL; expected host:port, such as 'localhost:50051'"),
        ("https://localhost:50051/v1", "is a URL; expected host:port, such as 'localhost:50051'"),
        ("grpc://example.org:1", "such as 'example.org:1'"),
        ("http://example.org", "such as 'example.org:50051'"),
        ("http://", "such as 'localhost:50051'"),
    ],
)
def test_an_address_that_grpc_would_misread_is_refused_with_a_hint(address: str, hint: str) -> None:
    with pytest.raises(tp.InvalidInputError, match=f"^address: '.*{hint}"):
        tp.Client(address)


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:{}", "localhost:{}", "dns:localhost:{}", "dns:///localhost:{}", "ipv4:127.0.0.1:1,127.0.0.1:{}"],
)
def test_the_targets_of_grpc_reach_the_server(target: str, address: str) -> None:
    with tp.Client(target.format(address.rpartition(":")[2])) as client:
        assert client.meta_policies()


@pytest.mark.parametrize(
    "target",
    ["unix:/run/thetaprime.sock", "unix-abstract:thetaprime", "dns:///example.org", "ipv6:[::1]:65535", "a:0", ":1"],
)
def test_targets_of_grpc_are_accepted(target: str) -> None:
    with tp.Client(target) as client:
        assert client.address == target
