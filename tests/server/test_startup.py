"""Startup: a server that cannot serve refuses to start, with the reason in one line."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

import thetaprime.client as tp
from thetaprime import models
from thetaprime.server import ServerConfig, StartupError, running_server

if TYPE_CHECKING:
    from tests.support.server.service import Configure

Write = Callable[..., models.MetaPolicy]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newer_schema(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["schema_version"] += 1
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(("file", "damage", "says"), [
    ("theta.safetensors", flip, "sha256"),
    ("policy.onnx", flip, "sha256"),
    ("reference.safetensors", Path.unlink, "cannot be read"),
    ("manifest.json", flip, "manifest.json"),
    ("manifest.json", newer_schema, "newer thetaprime"),
])  # fmt: skip
def test_a_corrupted_artifact_is_refused_with_the_name_of_its_file(
    configure: "Configure", zoo: Path, tmp_path: Path, file: str, damage: Callable[[Path], object], says: str
) -> None:
    copy = shutil.copytree(zoo, tmp_path / "zoo")
    damage(copy / "point-navigation" / "1" / file)
    with pytest.raises(StartupError, match=says) as caught, running_server(configure(zoo=(copy,))):
        pass
    assert str(copy / "point-navigation" / "1" / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_zoo_is_refused(configure: "Configure", tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="nowhere"), running_server(configure(zoo=(tmp_path / "nowhere",))):
        pass


def test_two_meta_policies_of_one_name_and_version_are_refused(
    configure: "Configure", zoo: Path, tmp_path: Path, write_point_artifact: Write
) -> None:
    write_point_artifact(tmp_path, version=2, seed=7)
    with (
        pytest.raises(StartupError, match="point-navigation@2 exists twice"),
        running_server(configure(zoo=(zoo, tmp_path))),
    ):
        pass


def test_an_address_in_use_is_refused(configure: "Configure") -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match=address), running_server(configure(address=address)):
            pass


def test_a_server_on_a_unix_socket_reports_its_socket(configure: "Configure", tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'theta.sock'}"
    with running_server(configure(address=address)) as reported, tp.Client(reported) as client:
        assert reported == address
        assert client.meta_policies()


def test_a_server_does_not_share_its_address_with_another(configure: "Configure") -> None:
    with (
        running_server(configure()) as address,
        pytest.raises(StartupError, match=address),
        running_server(configure(address=address)),
    ):
        pass


def test_every_setting_is_documented_and_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in ServerConfig.model_fields.items():
        assert field.description, name
    monkeypatch.setenv("THETAPRIME_SERVER_ADAPTATION_THREADS", "3")
    monkeypatch.setenv("THETAPRIME_SERVER_ADDRESS", "0.0.0.0:1")
    config = ServerConfig(adaptation_threads=5)
    assert (config.adaptation_threads, config.address) == (5, "0.0.0.0:1")
    assert config.zoo == (models.zoo_directory(),)
    with pytest.raises(ValidationError, match="max_inflight_bytes"):
        ServerConfig(max_inflight_bytes=1)
    with pytest.raises(ValidationError, match="frozen"):
        config.workers = 1  # type: ignore[misc]
