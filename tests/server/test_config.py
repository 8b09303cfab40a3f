"""Settings: the priority of their sources, their validation, and their output as TOML."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pydantic
import pytest

from thetaprime.server import ConfigFileError, ServerConfig, as_toml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('adaptation_threads = 2\nqueue = 2\nmax_sessions = 2\nzoo = ["a", "b"]\n')
    return path


def test_options_override_the_environment_and_the_environment_overrides_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THETAPRIME_SERVER_ADAPTATION_THREADS", "3")
    monkeypatch.setenv("THETAPRIME_SERVER_QUEUE", "3")
    config = ServerConfig(config=file, adaptation_threads=4)
    assert (config.adaptation_threads, config.queue, config.max_sessions, config.grace) == (4, 3, 2, 30.0)
    assert config.zoo == (Path("a"), Path("b"))


def test_the_password_of_a_store_is_kept_and_not_printed() -> None:
    url = "postgresql://robots:very-secret@database:5432/thetaprime?sslmode=require"
    config = ServerConfig(store=url, blobs="s3://bucket/prefix")
    assert ServerConfig(**config.model_dump(mode="json")).store == config.store == url
    printed = tomllib.loads(as_toml(config))
    assert printed["store"] == "postgresql://robots:***@database:5432/thetaprime?sslmode=require"
    assert printed["blobs"] == "s3://bucket/prefix"
    assert ServerConfig(store="folder").store == Path("folder")


def test_the_environment_may_name_the_file_and_an_option_overrides_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THETAPRIME_SERVER_CONFIG", str(file))
    assert ServerConfig().queue == 2
    other = tmp_path / "other.toml"
    other.write_text("queue = 5")
    assert ServerConfig(config=other).queue == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers = ", "server.toml"),
        ("\udcff", "server.toml"),
        ('config = "other.toml"', "the file itself cannot set config"),
        ("worker = 1", r"\bworker\n"),
        ("[limits]\nqueue = 1", "limits"),
        ("workers = 0", "workers"),
        ('workers = "many"', "workers"),
    ],
)
def test_an_invalid_file_is_refused_with_the_name_of_the_setting(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "server.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises((ConfigFileError, pydantic.ValidationError), match=says):
        ServerConfig(config=path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"nowhere\.toml: no such file"):
        ServerConfig(config=tmp_path / "nowhere.toml")
    with pytest.raises(ConfigFileError, match="no such file"):
        ServerConfig(config=tmp_path)


def test_the_printed_settings_are_complete_and_can_be_read_again(tmp_path: Path) -> None:
    config = ServerConfig(address="[::1]:1", zoo=(Path('a "quoted" \\ folder'), Path("ü")), grace=0.5, tracing=True)
    text = as_toml(config)
    # A setting without a value is printed as a comment.
    printed = set(tomllib.loads(text)) | set(re.findall(r"^# (\w+) =$", text, re.MULTILINE))
    assert printed == set(ServerConfig.model_fields) - {"config"}
    for field in ServerConfig.model_fields.values():
        assert field.description
    (tmp_path / "printed.toml").write_text(text)
    again = ServerConfig(config=tmp_path / "printed.toml")
    assert again.model_dump(exclude={"config"}) == config.model_dump(exclude={"config"})


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (None, 1, 1)])
def test_workers_share_the_cores_by_default(
    cores: int | None, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert ServerConfig(workers=workers).adaptation_threads == threads
    assert ServerConfig(workers=workers, adaptation_threads=5).adaptation_threads == 5


def test_the_settings_do_not_import_torch() -> None:
    script = "import sys; from thetaprime.server import ServerConfig; ServerConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class WithSecret(ServerConfig):
    password: pydantic.SecretStr = pydantic.SecretStr("")
    """A password."""
    certificate: Path | None = None
    """A certificate."""


def test_secrets_are_masked_and_settings_without_a_value_are_comments() -> None:
    text = as_toml(WithSecret(password=pydantic.SecretStr("hunter2")))
    assert "hunter2" not in text
    assert tomllib.loads(text)["password"] == "**********"
    assert "certificate" not in tomllib.loads(text)
    assert "# A certificate.\n# certificate =\n" in text


@pytest.mark.parametrize(("address", "says"), [
    ("127.0.0.1:99999", r"has port '99999'; expected a number from 0 to 65535"),
    ("127.0.0.1:65536", r"expected a number from 0 to 65535"),
    ("127.0.0.1:-1", r"expected a number from 0 to 65535"),
    ("127.0.0.1:http", r"expected a number from 0 to 65535"),
    ("127.0.0.1: 1", r"expected a number from 0 to 65535"),
    ("127.0.0.1:", r"expected a number from 0 to 65535"),
    ("127.0.0.1", r"has no port; expected host:port, such as 127\.0\.0\.1:50051"),
    ("[::1]", r"has no port; expected host:port, such as \[::1\]:50051"),
    ("::1", r"without brackets; expected \[host\]:port"),
    ("http://127.0.0.1:50051/", r"starts with http://; expected host:port without a scheme: 127\.0\.0\.1:50051"),
    ("https://example.org", r"starts with https://"),
])  # fmt: skip
@pytest.mark.parametrize("field", ["address", "metrics_address"])
def test_an_address_without_a_valid_port_is_refused_with_a_hint(field: str, address: str, says: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=rf"(?s){field}.*{says}"):
        ServerConfig(**{field: address})  # type: ignore[arg-type]


def test_the_command_reports_an_invalid_address_alone_in_one_line() -> None:
    command = [sys.executable, "-m", "thetaprime.cli", "serve", "--address", "127.0.0.1:99999"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert ended.stderr.splitlines() == [
        "thetaprime serve: address: has port '99999'; expected a number from 0 to 65535 (0: any free port) "
        "(got '127.0.0.1:99999')"
    ]


def test_only_the_metrics_address_may_be_empty_and_only_the_address_a_unix_socket() -> None:
    assert ServerConfig(metrics_address="").metrics_address == ""
    assert ServerConfig(address="unix:/run/theta.sock").address == "unix:/run/theta.sock"
    for refused in ({"address": ""}, {"metrics_address": "unix:/run/theta.sock"}):
        with pytest.raises(pydantic.ValidationError, match="expected"):
            ServerConfig(**refused)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:65535", ":50051", "localhost:1", "0.0.0.0:50051"])
def test_an_address_with_a_valid_port_is_accepted(address: str) -> None:
    assert ServerConfig(address=address, metrics_address=address).address == address
