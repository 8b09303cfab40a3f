"""TLS and mutual TLS with real certificates; plain text on loopback addresses only."""

import dataclasses
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

import thetaprime.client as tp
from tests.support.server.certificates import Authority, Files
from thetaprime.server import StartupError, running_server
from thetaprime.server.auth import server_credentials
from thetaprime.wire.tls import is_loopback

if TYPE_CHECKING:
    from tests.support.server.service import Configure, WriteTokens


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Certificates of our authority and of another one."""

    ours: Authority
    theirs: Authority
    server: Files
    client: Files
    stranger: Files


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return Certificates(ours, theirs, ours.issue("server"), ours.issue("client"), theirs.issue("client"))


def with_tls(certificates: Certificates, *, mutual: bool = False) -> dict[str, object]:
    return {
        "tls_certificate": certificates.server.certificate,
        "tls_key": certificates.server.key,
        "tls_client_authority": certificates.ours.certificate if mutual else None,
    }


def test_tls_with_a_token(
    configure: "Configure", certificates: Certificates, write_tokens: "WriteTokens", tmp_path: Path
) -> None:
    file = write_tokens(tmp_path / "tokens.toml", {"the-token": "alice"})
    credentials = tp.tls_credentials(certificates.ours.certificate)
    with running_server(configure(tokens=file, **with_tls(certificates))) as address:
        with tp.Client(address, credentials=credentials, token="the-token") as client:
            assert client.meta_policies()
            session = client.create_session("point-navigation")
            assert [each.session_id for each in client.sessions()] == [session.id]
        with tp.Client(address, credentials=credentials) as client, pytest.raises(tp.AccessError, match="no token"):
            client.meta_policies()
        with (
            tp.Client(address, credentials=credentials, token="another") as client,
            pytest.raises(tp.AccessError, match="no longer valid"),
        ):
            client.meta_policies()


@pytest.mark.usefixtures("quick_retries")
def test_a_client_refuses_a_server_of_another_authority(configure: "Configure", certificates: Certificates) -> None:
    with running_server(configure(**with_tls(certificates))) as address:
        for credentials in (tp.tls_credentials(certificates.theirs.certificate), tp.tls_credentials(), None):
            with (
                tp.Client(address, credentials=credentials, timeout=10) as client,
                pytest.raises(tp.UnreachableError),
            ):
                client.meta_policies()


@pytest.mark.usefixtures("quick_retries")
def test_mutual_tls_accepts_clients_of_our_authority_only(configure: "Configure", certificates: Certificates) -> None:
    ours = certificates.ours.certificate
    with running_server(configure(**with_tls(certificates, mutual=True))) as address:
        files = certificates.client
        credentials = tp.tls_credentials(ours, certificate=files.certificate, key=files.key)
        with tp.Client(address, credentials=credentials) as client:
            assert client.meta_policies()
        stranger = certificates.stranger
        for refused in (
            tp.tls_credentials(ours),
            tp.tls_credentials(ours, certificate=stranger.certificate, key=stranger.key),
        ):
            with tp.Client(address, credentials=refused, timeout=10) as client, pytest.raises(tp.UnreachableError):
                client.meta_policies()
        with tp.Client(address, credentials=credentials) as client:
            assert client.meta_policies()


Damage = Callable[[Certificates, Path], dict[str, Path | None]]


def files(certificates: Certificates, **fields: Path | None) -> dict[str, Path | None]:
    return {"tls_certificate": certificates.server.certificate, "tls_key": certificates.server.key, **fields}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
BAD_FILES: dict[str, tuple[Damage, str]] = {
    "no certificate": (
        lambda c, t: files(c, tls_certificate=t / "none"),
        r"certificate .*none: cannot be read \(No such",
    ),
    "no key": (lambda c, t: files(c, tls_key=t / "none"), r"key .*none: cannot be read \(No such"),
    "no authority": (lambda c, t: files(c, tls_client_authority=t / "none"), r"authority .*none: cannot be read"),
    "a folder": (lambda c, t: files(c, tls_key=t), "cannot be read"),
    "not PEM": (lambda c, t: files(c, tls_certificate=written(t / "x", b"\x30\x82")), "certificate .*is not PEM"),
    "broken PEM": (lambda c, t: files(c, tls_certificate=written(t / "x", PEM)), "cannot be used with key"),
    "broken authority": (
        lambda c, t: files(c, tls_client_authority=written(t / "x", PEM)),
        "authority .*cannot be read",
    ),
    "the key for the certificate": (lambda c, t: files(c, tls_certificate=c.server.key), "certificate .*is not PEM"),
    "another's key": (lambda c, t: files(c, tls_key=c.client.key), "does not belong to certificate"),
    "an encrypted key": (lambda c, t: files(c, tls_key=written(t / "x", ENCRYPTED)), "is encrypted; expected"),
    "certificate alone": (lambda c, t: files(c, tls_key=None), "tls-certificate .*needs tls-key as well"),
    "key alone": (lambda c, t: files(c, tls_certificate=None), "tls-key .*needs tls-certificate as well"),
    "authority alone": (
        lambda c, t: files(c, tls_certificate=None, tls_key=None, tls_client_authority=c.ours.certificate),
        "tls-client-authority .*needs tls-certificate and tls-key",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_an_invalid_file_is_refused_in_one_line(
    configure: "Configure", certificates: Certificates, tmp_path: Path, case: str
) -> None:
    damage, says = BAD_FILES[case]
    with pytest.raises(StartupError, match=says) as caught, running_server(configure(**damage(certificates, tmp_path))):
        pass
    assert "\n" not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def test_an_invalid_file_of_a_client_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    mine = certificates.client
    with pytest.raises(tp.InvalidInputError, match="cannot be read"):
        tp.tls_credentials(tmp_path / "none")
    with pytest.raises(tp.InvalidInputError, match="does not belong to"):
        tp.tls_credentials(certificate=mine.certificate, key=certificates.server.key)
    with pytest.raises(tp.InvalidInputError, match="key: missing; certificate came without it"):
        tp.tls_credentials(certificate=mine.certificate)
    with pytest.raises(tp.InvalidInputError, match="certificate: missing; key came without it"):
        tp.tls_credentials(key=mine.key)


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", ":50051", "192.0.2.1:50051", "example.org:50051"])
def test_plain_text_beyond_loopback_needs_a_flag_and_warns(
    configure: "Configure", certificates: Certificates, address: str
) -> None:
    with pytest.raises(StartupError, match="allow-plaintext") as caught, running_server(configure(address=address)):
        pass
    assert f"address {address}" in str(caught.value)
    with structlog.testing.capture_logs() as logs:
        assert server_credentials(configure(address=address, allow_plaintext=True)) is None
        assert server_credentials(configure(address=address, **with_tls(certificates))) is not None
    assert [(entry["log_level"], entry["address"]) for entry in logs] == [("warning", address)]


def test_a_server_beyond_loopback_starts_in_plain_text_with_the_flag(configure: "Configure") -> None:
    with (
        running_server(configure(address="0.0.0.0:0", allow_plaintext=True)) as address,
        tp.Client(f"127.0.0.1:{address.rpartition(':')[2]}") as client,
    ):
        assert client.meta_policies()


@pytest.mark.parametrize(("address", "stays"), [
    ("localhost:1", True),
    ("localhost", True),
    ("127.0.0.1:1", True),
    ("127.9.9.9:1", True),
    ("[::1]:1", True),
    ("::1", True),
    ("unix:/run/theta.sock", True),
    ("dns:///localhost:1", True),
    ("ipv4:127.0.0.1:1", True),
    ("0.0.0.0:1", False),
    ("[::]:1", False),
    (":1", False),
    ("", False),
    ("10.1.2.3:1", False),
    ("localhost.example.org:1", False),
    ("127.0.0.1.example.org:1", False),
    ("127.0.0.1@example.org:1", False),
    ("dns://8.8.8.8/example.org:1", False),
    ("ipv4:127.0.0.1:1,10.1.2.3:1", False),
    (f"{socket.gethostname()}.example:1", False),
])  # fmt: skip
def test_is_loopback(address: str, stays: bool) -> None:
    assert is_loopback(address) is stays
