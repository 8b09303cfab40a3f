"""Commands against a server that requires a token."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from thetaprime.server import ServerConfig, running_server
from thetaprime.server.auth.tokens import TokenTable, token_digest

Command = Callable[..., Result]
TOKENS_FILE = "tokens.toml"


@pytest.fixture
def token(thetaprime: Command, tmp_path: Path) -> str:
    """A token of `thetaprime token`, with its lines in the tokens file."""
    result = thetaprime("token", "--tenant", "alice", "--days", "2")
    assert result.exit_code == 0, result.output
    _, shown, _, lines = result.stdout.split("\n\n", 3)
    assert shown not in lines
    (tmp_path / TOKENS_FILE).write_text(lines)
    return shown


@pytest.fixture
def guarded(token: str, zoo: Path, tmp_path: Path) -> Iterator[str]:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(zoo,), tokens=tmp_path / TOKENS_FILE)
    with running_server(config) as address:
        yield address


def test_a_token_from_a_file_or_the_environment(
    guarded: str, token: str, thetaprime: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = thetaprime("models", "--address", guarded)
    assert refused.exit_code == 1
    assert "refuses this client: the call has no token" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    file = tmp_path / "token"
    file.write_text(token + "\n")
    assert thetaprime("models", "--address", guarded, "--token-file", file).exit_code == 0
    monkeypatch.setenv("THETAPRIME_TOKEN", token)
    assert thetaprime("models", "--address", guarded).exit_code == 0
    monkeypatch.setenv("THETAPRIME_ADDRESS", guarded)
    assert thetaprime("models").exit_code == 0
    assert "in plain text" in thetaprime("models", "--address", "192.0.2.1:1").stderr


def test_a_token_goes_into_files(zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    table, file = tmp_path / "tokens.toml", tmp_path / "robots.token"
    first = thetaprime("token", "--tenant", "robots", "--days", 1, "--tokens", table, "--output", file)
    assert first.exit_code == 0, first.output
    token = file.read_text().strip()
    assert token not in first.output and file.stat().st_mode & 0o777 == 0o600
    second = thetaprime("token", "--tenant", "others", "--tokens", table, "--json")
    shown = json.loads(second.stdout.splitlines()[-1])["token"]
    assert token_digest(shown) in table.read_text() and shown not in table.read_text()
    assert [each.tenant for each in TokenTable.read(table).tokens] == ["robots", "others"]
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(zoo,), tokens=table)
    with running_server(config) as address:
        assert thetaprime("models", "--address", address, "--token-file", file).exit_code == 0
    again = thetaprime("token", "--tenant", "robots", "--output", file)
    assert again.exit_code == 2 and "exists" in again.stderr
    table.write_text("[[tokens]]\ntenant = 1\n")
    refused = thetaprime("token", "--tenant", "robots", "--tokens", table, "--output", file, "--force")
    assert refused.exit_code == 2 and "tokens[0].tenant" in refused.stderr
    assert file.read_text().strip() == token


def test_an_invalid_tls_file_is_one_line(thetaprime: Command, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("not PEM")
    result = thetaprime("models", "--tls-authority", tmp_path / "x.pem")
    assert result.exit_code == 1
    assert "x.pem: is not PEM" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_lines_of_a_new_token_hold_its_digest(thetaprime: Command) -> None:
    result = thetaprime("token", "--tenant", "alice", "--json")
    made = json.loads(result.stdout.splitlines()[-1])
    (entry,) = TokenTable.model_validate(tomllib.loads(made["lines"])).tokens
    assert (entry.tenant, entry.sha256, entry.expires) == ("alice", token_digest(made["token"]), None)
    assert result.output.count(made["token"]) == 1


@pytest.mark.parametrize("tenant", ["", "a b", "../a", 'a"', "-", "a" * 65])
def test_an_invalid_name_of_a_tenant_is_refused(thetaprime: Command, tenant: str) -> None:
    result = thetaprime("token", f"--tenant={tenant}")
    assert result.exit_code == 2
    assert "expected 1 to 64 letters" in result.stderr


def test_a_configuration_file(guarded: str, token: str, thetaprime: Command, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    (tmp_path / "client.toml").write_text(f'address = "{guarded}"\ntoken_file = "token"\n')
    assert thetaprime("models", "--config", tmp_path / "client.toml").exit_code == 0
    refused = thetaprime("models", "--config", tmp_path / "client.toml", "--address", "192.0.2.1:1")
    assert "not sent to 192.0.2.1:1 in plain text" in refused.stderr
    (tmp_path / "client.toml").write_text("addr = 'x'")
    refused = thetaprime("models", "--config", tmp_path / "client.toml")
    assert "client.toml: addr: no such setting" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
