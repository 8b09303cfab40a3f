"""The page's HTTP server, tested with valid, malformed and hostile requests."""

import base64
import gzip
import hashlib
import http.client
import json
import re
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.artifacts import write_point_artifact
from tests.support.point_navigation import play
from thetaprime import wire
from thetaprime.cli.web import page as page_module
from thetaprime.cli.web.gateway import Gateway
from thetaprime.cli.web.page import ASSETS, PageServer, read_asset
from thetaprime.server import ServerConfig, running_server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("page")
    write_point_artifact(folder / "zoo")
    config = ServerConfig(zoo=(folder / "zoo",), store=folder / "store", address="127.0.0.1:0")
    with (
        running_server(config) as address,
        tp.Client(address) as client,
        PageServer(Gateway(client, "point-navigation")) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    page: PageServer, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=30)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    read_body = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, read_body


def post(page: PageServer, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    status, _, reply = ask(page, "POST", path, b"" if body is None else json.dumps(body).encode())
    return status, json.loads(reply)


def text(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def sent(trajectory: wire.Trajectory, **changes: Any) -> dict[str, Any]:
    return {
        "observations": text(trajectory.observations),
        "actions": text(trajectory.actions),
        "rewards": text(trajectory.rewards),
        "final_observation": text(trajectory.final_observation),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        **changes,
    }


def test_every_asset_is_served_and_no_other_file(page: PageServer) -> None:
    for path, asset in ASSETS.items():
        status, headers, body = ask(page, "GET", path)
        assert (status, headers["content-type"], body) == (200, asset.content_type, read_asset(asset.file))
        assert "default-src 'none'" in headers["content-security-policy"]
        if asset.compressed:
            assert headers["content-encoding"] == "gzip"
            assert gzip.decompress(body).startswith(b"\0asm")
    for path in ("/../page.py", "/%2e%2e/page.py", "/assets/index.html", "/ort/", "//etc/passwd", "/page.py", "/.git"):
        assert ask(page, "GET", path)[0] == 404


def test_the_page_requests_only_served_paths() -> None:
    """The page works without a network: every import and every attribute names an asset."""
    own = [asset.file for asset in ASSETS.values() if not asset.file.startswith("ort/")]
    requested = {
        (path.replace("./", "/"), file)
        for file in own
        for path in re.findall(
            r"""(?:from|src=|href=|import\()\s*["'](/[^"']*|https?:[^"']*|\./[^"']*)["']""", read_asset(file).decode()
        )
    }
    assert {("/main.js", "index.html"), ("/view.js", "main.js")} <= requested
    assert {path for path, _ in requested} <= set(ASSETS), requested


def test_the_vendored_runtime_equals_the_npm_package() -> None:
    documented = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", read_asset("ort/VENDORED.md").decode()))
    found = {
        "ort.wasm.bundle.min.mjs": read_asset("ort/ort.wasm.bundle.min.mjs"),
        "ort-wasm-simd-threaded.wasm": gzip.decompress(read_asset("ort/ort-wasm-simd-threaded.wasm.gz")),
    }
    assert documented == {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def test_a_round_through_the_gateway_returns_the_servers_policy(page: PageServer) -> None:
    status, opened = post(page, "/api/sessions")
    assert status == 200
    theta = tp.AdaptedPolicy(base64.b64decode(opened["policy"]["onnx"]), sha256=opened["policy"]["sha256"])
    assert opened["policy"]["metadata"] == dict(theta.metadata)
    trajectories = play(theta, np.random.default_rng(0), trajectories=4, steps=8)
    body = {"policy_id": theta.policy_id, "trajectories": [sent(each) for each in trajectories]}
    session = opened["session_id"]
    status, receipt = post(page, f"/api/sessions/{session}/uploads", body)
    assert (status, receipt["steps"]) == (200, 32)
    assert receipt["sha256"] == wire.sha256_hex(wire.pack(trajectories))
    status, adapted = post(page, f"/api/sessions/{session}/rounds")
    assert status == 200
    assert (adapted["report"]["round"], adapted["report"]["late_discount"]) == (0, None)
    assert adapted["report"]["mean_return"] == pytest.approx(
        np.mean([each.rewards.sum() for each in trajectories]), rel=1e-5
    )
    policy = tp.AdaptedPolicy(base64.b64decode(adapted["policy"]["onnx"]), sha256=adapted["policy"]["sha256"])
    assert policy.parent_id == theta.policy_id
    verdict = adapted["report"]["verdict"]
    assert verdict["decision"] in {each.value for each in tp.Decision}
    assert not verdict["text"].startswith((":", ".", verdict["decision"]))
    assert adapted["best_round"] == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("sessions/none/rounds", None, 404, "no such session"),
        ("sessions/none/../x", None, 404, "no such path"),
        ("nothing", None, 404, "no such path"),
        ("sessions/{}/rounds", None, 502, "has no uploads"),
        ("sessions/{}/uploads", None, 400, "malformed body"),
        ("sessions/{}/uploads", [], 400, "malformed body"),
        ("sessions/{}/uploads", {"policy_id": "p", "trajectories": []}, 400, "expected 1 to"),
        ("sessions/{}/uploads", {"policy_id": "p", "trajectories": [{"observations": "!"}]}, 400, "malformed body"),
    ],
)
def test_bad_requests_get_a_reason(page: PageServer, path: str, body: Any, status: int, reason: str) -> None:
    _, opened = post(page, "/api/sessions")
    found, reply = post(page, "/api/" + path.format(opened["session_id"]), body)
    assert found == status
    assert reason in reply["error"]


def test_pages_of_other_sites_are_refused(page: PageServer) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": "127.0.0.1"}):
        status, _, body = ask(page, "POST", "/api/sessions", headers=headers)
        assert status == 403, body
    own = f"127.0.0.1:{page.server_address[1]}"
    assert ask(page, "POST", "/api/sessions", headers={"Origin": f"http://{own}"})[0] == 200


def test_a_long_body_is_refused_unread(page: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_MAX_BODY_BYTES", 10)
    status, _, body = ask(page, "POST", "/api/sessions", b"x" * 11)
    assert status == 413
    assert b"at most 10" in body


def test_the_oldest_session_is_closed_for_a_new_one(page: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetaprime.cli.web.gateway._MAX_SESSIONS", 1)
    first, second = (post(page, "/api/sessions")[1]["session_id"] for _ in range(2))
    assert post(page, f"/api/sessions/{first}/rounds")[0] == 404
    assert post(page, f"/api/sessions/{second}/rounds")[0] == 502


def test_the_package_holds_every_asset() -> None:
    folder = Path(str(files("thetaprime.cli.web").joinpath("assets")))
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        Path(asset.file).name for asset in ASSETS.values()
    } | {"VENDORED.md"}
