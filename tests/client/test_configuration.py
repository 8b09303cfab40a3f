"""Settings from arguments, environment variables and a file: precedence and refusals."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import thetaprime.client as tp
from thetaprime.client import aio
from thetaprime.client._configuration import Configuration
from thetaprime.v1 import meta_policy_service_pb2 as pb

SETTINGS = [field.name for field in dataclasses.fields(Configuration)]
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes the settings of the person who runs the tests."""
    for name in (*SETTINGS, "config"):
        monkeypatch.delenv(f"THETAPRIME_{name.upper()}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "empty"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_to(text: str) -> Path:
        path = tmp_path / "client.toml"
        path.write_text(text)
        return path

    return write_to


@pytest.fixture
def listening() -> Iterator[tuple[str, list[str]]]:
    """A server that records the tokens of its calls."""
    tokens: list[str] = []
    lock = threading.Lock()

    def answer(request: Any, context: grpc.ServicerContext) -> pb.ListMetaPoliciesResponse:
        with lock:
            tokens.append(str(dict(context.invocation_metadata()).get("authorization", "none")))
        return pb.ListMetaPoliciesResponse()

    method = grpc.unary_unary_rpc_method_handler(
        answer, pb.ListMetaPoliciesRequest.FromString, pb.ListMetaPoliciesResponse.SerializeToString
    )
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        handler = grpc.method_handlers_generic_handler("thetaprime.v1.MetaPolicyService", {"ListMetaPolicies": method})
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", tokens
        server.stop(None).wait()


def test_without_settings_the_defaults_apply() -> None:
    assert Configuration.read(None, {}) == Configuration()
    assert Configuration().arguments() == {
        "address": tp.DEFAULT_ADDRESS, "timeout": tp.DEFAULT_TIMEOUT, "credentials": None, "token": None,
        "allow_plaintext": False,
    }  # fmt: skip


def test_arguments_override_the_environment_which_overrides_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write('address = "a:1"\ntimeout = 11\ntls = true\nallow_plaintext = true\n')
    read = Configuration.read(file, {})
    assert (read.address, read.timeout, read.tls, read.allow_plaintext) == ("a:1", 11.0, True, True)
    monkeypatch.setenv("THETAPRIME_CONFIG", str(file))
    monkeypatch.setenv("THETAPRIME_ADDRESS", "b:2")
    monkeypatch.setenv("THETAPRIME_TIMEOUT", "22.5")
    monkeypatch.setenv("THETAPRIME_TLS", "no")
    read = Configuration.read(None, {"timeout": 33, "token": None})
    assert (read.address, read.timeout, read.tls, read.allow_plaintext) == ("b:2", 33.0, False, True)


def test_the_users_own_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thetaprime").mkdir()
    (tmp_path / "thetaprime" / "client.toml").write_text('address = "own:1"')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with tp.Client.from_environment() as client:
        assert client.address == "own:1"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Configuration.read(None, {}) == Configuration()
    (tmp_path / "home" / ".config" / "thetaprime").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "thetaprime" / "client.toml").write_text('address = "home:1"')
    assert Configuration.read(None, {}).address == "home:1"


def test_an_invalid_address_is_refused_by_its_source(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write('address = "localhost:65536"')
    with pytest.raises(tp.InvalidInputError, match=rf"^{re.escape(str(file))}: address: .* expected a number"):
        Configuration.read(file, {})
    monkeypatch.setenv("THETAPRIME_ADDRESS", "http://localhost:1")
    with pytest.raises(tp.InvalidInputError, match=r"^THETAPRIME_ADDRESS: .* is a URL"):
        Configuration.read(None, {})


def test_relative_paths_start_at_the_files_folder(write: Write, tmp_path: Path) -> None:
    read = Configuration.read(write('token_file = "t"\ntls_key = "/k"\ntls_authority = "~/ca.pem"'), {})
    assert (read.token_file, read.tls_key) == (tmp_path / "t", Path("/k"))
    assert read.tls_authority == Path("~/ca.pem").expanduser()
    assert Configuration.read(None, {"token_file": "t"}).token_file == Path("t")


def test_the_token_of_the_highest_precedence_is_sent(
    listening: tuple[str, list[str]], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, tokens = listening
    (tmp_path / "t").write_text("of-the-file\n")
    file = write('token_file = "t"')

    def call(**settings: Any) -> str:
        with tp.Client.from_environment(file, address=address, **settings) as client:
            client.meta_policies()
        return tokens[-1]

    assert call() == "Bearer of-the-file"
    monkeypatch.setenv("THETAPRIME_TOKEN", "of-the-environment")
    assert call() == "Bearer of-the-environment"
    assert call(token_file=tmp_path / "t") == "Bearer of-the-file"
    assert call(token="given") == "Bearer given"
    assert "of-the-environment" not in repr(Configuration.read(file, {}))


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("addr = 'x'", "addr", "no such setting; expected any of address, timeout"),
        ("timeout = 'soon'", "timeout", "'soon'; expected a number"),
        ("tls = 'maybe'", "tls", "'maybe'; expected true or false"),
        ("address = 3", "address", "int; expected a string"),
        ("tls_key = 3", "tls_key", "3; expected a path"),
        ("token = 'a'\ntoken_file = 'b'", "token", "beside token_file"),
        ("= 3", "config", "is not TOML"),
    ],
)
def test_an_invalid_file_is_refused_by_field(text: str, field: str, message: str, write: Write) -> None:
    with pytest.raises(tp.InvalidInputError, match=message) as caught:
        tp.Client.from_environment(write(text))
    assert caught.value.violations[0].field.endswith(field)
    assert "client.toml" in str(caught.value)


def test_an_invalid_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THETAPRIME_TIMEOUT", "x")
    with pytest.raises(tp.InvalidInputError, match="THETAPRIME_TIMEOUT: 'x'"):
        tp.Client.from_environment()
    monkeypatch.setenv("THETAPRIME_TIMEOUT", "0")
    with pytest.raises(tp.InvalidInputError, match="timeout"):
        tp.Client.from_environment()
    monkeypatch.delenv("THETAPRIME_TIMEOUT")
    monkeypatch.setenv("THETAPRIME_TLS_CERTIFICATE", "c.pem")
    with pytest.raises(tp.InvalidInputError, match="key: missing"):
        tp.Client.from_environment()
    monkeypatch.delenv("THETAPRIME_TLS_CERTIFICATE")
    missing = tmp_path / "none"
    with pytest.raises(tp.InvalidInputError, match=f"config: {missing} cannot be read: No such file"):
        tp.Client.from_environment(missing)
    with pytest.raises(tp.InvalidInputError, match=f"token_file: {missing} cannot be read: No such file"):
        tp.Client.from_environment(token_file=missing)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(tp.InvalidInputError, match="addr: no such setting"):
        tp.Client.from_environment(addr="x")


def test_errors_do_not_quote_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THETAPRIME_TOKEN", "the secret")
    with pytest.raises(tp.InvalidInputError, match="not a token") as caught:
        tp.Client.from_environment()
    assert "the secret" not in str(caught.value)


def test_the_asyncio_client_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THETAPRIME_ADDRESS", "b:2")
    assert aio.Client.from_environment().address == "b:2"
