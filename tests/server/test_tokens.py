"""Tokens: required by every call, reloaded while the server runs, and never logged."""

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.server import every_rpc as rpc
from thetaprime.server import StartupError, running_server
from thetaprime.server.auth import Authenticator, Quotas, new_token
from thetaprime.server.auth.tokens import token_digest
from thetaprime.server.errors import UnauthenticatedError

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Service, WriteTokens

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
ALICE, CAROL = "theta_alice", "theta_carol"
EXPIRED = f'[[tokens]]\ntenant = "carol"\nsha256 = "{token_digest(CAROL)}"\nexpires = 2020-01-01T00:00:00Z\n'


@pytest.fixture(scope="module")
def guarded(
    configure: "Configure", write_tokens: "WriteTokens", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server where alice's token is valid and carol's has expired."""
    file = write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.toml", {ALICE: "alice"}, EXPIRED)
    with running_server(configure(tokens=file)) as address:
        yield address


def refusal_of(service: "Service", name: str) -> bytes:
    with pytest.raises(grpc.RpcError) as caught:
        rpc.ALL[name](service, "s")
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is UNAUTHENTICATED
    return dict(error.trailing_metadata() or ())["grpc-status-details-bin"]


@pytest.mark.parametrize("name", rpc.ALL)
def test_every_call_needs_a_valid_token(guarded: str, connect: "Connect", name: str) -> None:
    with connect(guarded) as anonymous, anonymous.refuses() as refusal:
        rpc.ALL[name](anonymous, "s")
    assert (refusal.code, refusal.reason) == (UNAUTHENTICATED, "TOKEN_MISSING")
    answers = set()
    for authorization in (
        "Bearer theta_wrong",
        f"Bearer {CAROL}",
        f"Basic {ALICE}",
        ALICE,
        "Bearer",
        f"Bearer {ALICE}x",
    ):
        with connect(guarded, authorization=authorization) as stranger:
            answers.add(refusal_of(stranger, name))
    assert len(answers) == 1, "the answer discloses why the token is invalid"
    assert b"TOKEN_REFUSED" in answers.pop()
    with connect(guarded, ALICE) as alice:
        try:
            rpc.ALL[name](alice, "s")
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            assert error.code() is grpc.StatusCode.NOT_FOUND


def test_health_needs_no_token(guarded: str, connect: "Connect") -> None:
    with connect(guarded) as anonymous:
        reply = health_pb2_grpc.HealthStub(anonymous.channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def tenant_of(authenticator: Authenticator, token: str) -> str | None:
    try:
        return authenticator.authenticate([("user-agent", "x"), ("authorization", f"Bearer {token}")])
    except UnauthenticatedError:
        return None


def test_tokens_are_reloaded_without_a_restart(tmp_path: Path, write_tokens: "WriteTokens") -> None:
    file = write_tokens(tmp_path / "tokens.toml", {"old": "alice"})
    authenticator = Authenticator(file, Quotas())
    assert (tenant_of(authenticator, "old"), tenant_of(authenticator, "new")) == ("alice", None)
    write_tokens(file, {"old": "alice", "new": "alice"})
    assert (tenant_of(authenticator, "old"), tenant_of(authenticator, "new")) == ("alice", "alice")
    write_tokens(file, {"new": "alice"})
    assert (tenant_of(authenticator, "old"), tenant_of(authenticator, "new")) == (None, "alice")


def test_an_invalid_new_file_leaves_the_old_tokens_in_force(tmp_path: Path, write_tokens: "WriteTokens") -> None:
    file = write_tokens(tmp_path / "tokens.toml", {"good": "alice"}, "[tenants.alice]\nmax_sessions = 3\n")
    authenticator = Authenticator(file, Quotas(max_sessions=7, max_steps=9))
    write_tokens(file, {}, "[[tokens]]\ntenant = 'alice'\nsha256 = 'a-token-in-the-wrong-place'\n")
    with structlog.testing.capture_logs() as logs:
        assert [tenant_of(authenticator, "good") for _ in range(3)] == ["alice"] * 3
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert "tokens[0].sha256" in entry["problem"]
    assert "a-token-in-the-wrong-place" not in str(logs)
    file.unlink()
    assert tenant_of(authenticator, "good") == "alice"
    assert authenticator.quotas_of("alice") == Quotas(max_sessions=3, max_steps=9)
    assert authenticator.quotas_of("bob") == Quotas(max_sessions=7, max_steps=9)
    write_tokens(file, {"better": "alice"})
    assert (tenant_of(authenticator, "good"), tenant_of(authenticator, "better")) == (None, "alice")


def test_a_token_expires(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(f'[[tokens]]\ntenant = "a"\nsha256 = "{token_digest("t")}"\nexpires = 2030-01-01T00:00:00+01:00\n')
    end = datetime.datetime(2029, 12, 31, 23, tzinfo=datetime.UTC)
    times = [end - datetime.timedelta(microseconds=1), end]
    authenticator = Authenticator(file, Quotas(), now=lambda: times.pop(0))
    assert [tenant_of(authenticator, "t"), tenant_of(authenticator, "t")] == ["a", None]


def test_two_authorization_headers_are_refused(tmp_path: Path, write_tokens: "WriteTokens") -> None:
    authenticator = Authenticator(write_tokens(tmp_path / "tokens.toml", {"good": "alice"}), Quotas())
    with pytest.raises(UnauthenticatedError):
        authenticator.authenticate([("authorization", "Bearer good"), ("authorization", "Bearer good")])


DIGEST = "0" * 64


@pytest.mark.parametrize(("content", "says"), [
    ("[[tokens]", "is not TOML"),
    ("\udcff", "is not TOML"),
    ("token = 1", "token: Extra inputs"),
    (f'[[tokens]]\nsha256 = "{DIGEST}"', "tokens[0].tenant: Field required"),
    (f'[[tokens]]\ntenant = "a/b"\nsha256 = "{DIGEST}"', "tokens[0].tenant: "),
    (f'[[tokens]]\ntenant = ""\nsha256 = "{DIGEST}"', "tokens[0].tenant: "),
    ('[[tokens]]\ntenant = "a"\nsha256 = "theta_secret"', "tokens[0].sha256: "),
    (f'[[tokens]]\ntenant = "a"\nsha256 = "{DIGEST}"\nexpires = 2030-01-01T00:00:00', "tokens[0].expires: "),
    (f'[[tokens]]\ntenant = "a"\nsha256 = "{DIGEST}"\n' * 2, "tokens[1] is the same token as tokens[0]"),
    ("[tenants.a]\nmax_sessions = 0", "tenants.a.max_sessions: "),
    ("[tenants.a]\nmax_adaptations_per_second = inf", "tenants.a.max_adaptations_per_second: "),
    ("[tenants.a]\nmax_sesions = 1", "tenants.a.max_sesions: Extra inputs"),
])  # fmt: skip
def test_an_invalid_tokens_file_is_refused_at_startup(
    configure: "Configure", tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(StartupError) as caught, running_server(configure(tokens=file)):
        pass
    assert str(file) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "theta_secret" not in str(caught.value)


def test_a_missing_tokens_file_is_refused(configure: "Configure", tmp_path: Path) -> None:
    missing = tmp_path / "nothing.toml"
    with pytest.raises(StartupError, match=r"nothing\.toml: cannot be read"), running_server(configure(tokens=missing)):
        pass


def test_tokens_are_long_and_unique() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 43 + len("theta_")


@pytest.mark.usefixtures("everything_logged")
def test_no_token_is_logged(
    configure: "Configure", connect: "Connect", write_tokens: "WriteTokens", tmp_path: Path
) -> None:
    config = configure(tokens=write_tokens(tmp_path / "tokens.toml", {ALICE: "alice"}, EXPIRED))
    tokens = (ALICE, CAROL, "theta_wrong")
    with structlog.testing.capture_logs() as logs, running_server(config) as address:
        for token in tokens:
            with connect(address, token) as service, contextlib.suppress(grpc.RpcError):
                service.create()
    assert sorted(entry["event"] for entry in logs) == ["audit"] * 3 + ["call"] * 3
    for secret in (*tokens, token_digest(ALICE)):
        assert secret not in str(logs)
