"""The audit log: one line for each call that took effect, with its caller."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]


@pytest.mark.usefixtures("everything_logged")
def test_the_audit_log_names_the_caller_of_each_call(
    configure: "Configure", connect: "Connect", collect: Collect, write_tokens: "WriteTokens", tmp_path: Path
) -> None:
    file = write_tokens(tmp_path / "tokens.toml", {"the-token": "alice"})
    with structlog.testing.capture_logs() as logs, running_server(configure(tokens=file)) as address:
        with connect(address, "the-token") as alice:
            theta = alice.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name="point-navigation")).policy
            created = alice.create(meta_policy_version=1)
            session_id = created.session.session_id
            batch = alice.upload(session_id, collect(created.policy), upload_id="u").batch
            adapted = alice.adapt(session_id, 0, batch.sha256).policy
            alice.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=0))
            alice.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
            with alice.refuses():
                alice.create(meta_policy="no-such")
        with connect(address, "another-token") as stranger, stranger.refuses():
            stranger.create()
    audited = [entry for entry in logs if entry.get("audit")]
    assert all(entry["peer"].startswith("ipv4:127.0.0.1:") for entry in audited)
    assert all(entry["tenant"] == "alice" for entry in audited[:-1])

    def expected(**more: Any) -> dict[str, Any]:
        return {"session_id": session_id, "meta_policy": "point-navigation@1", **more}

    known = {"audit", "event", "log_level", "peer", "tenant"}
    assert [{key: value for key, value in entry.items() if key not in known} for entry in audited] == [
        {"action": "fetched", "meta_policy": "point-navigation@2", "policy_id": theta.policy_id},
        expected(action="created", policy_id=created.policy.policy_id),
        {"action": "uploaded", "session_id": session_id, "sha256": audited[2]["sha256"]},
        expected(action="adapted", policy_id=adapted.policy_id, decision="TAKEN", reasons=[]),
        {"action": "fetched", "session_id": session_id, "policy_id": created.policy.policy_id},
        expected(action="closed", policy_id=adapted.policy_id),
        {"action": "refused", "method": "/thetaprime.v1.AdaptationService/CreateSession", "reason": "TOKEN_REFUSED"},
    ]
    assert "the-token" not in str(logs)
    assert "another-token" not in str(logs)
