"""Policies outlive their session, and an audit event records each deletion."""

import dataclasses
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import sqlalchemy as sa
import structlog

from thetaprime import wire
from thetaprime.client import Client
from thetaprime.server import running_server
from thetaprime.server.errors import NotFoundError
from thetaprime.server.sessions.rows import SessionRecord, find_session
from thetaprime.server.store import Store, SweptSession, tables
from thetaprime.server.store.usage import Usage, recount, tenant_usage
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect

Collect = Callable[..., list[wire.Trajectory]]


def expire(store: Path, session_id: str) -> None:
    """Moves a session's expiry into the past."""
    connection = sqlite3.connect(store / "thetaprime.sqlite3")
    connection.execute(
        "UPDATE sessions SET expire_time = ? WHERE session_id = ?", (time.time_ns() // 1000 - 1, session_id)
    )
    connection.commit()
    connection.close()


def ends(logs: list[Any]) -> list[dict[str, Any]]:
    known = {"audit", "event", "log_level"}
    mine = [entry for entry in logs if entry.get("action") in ("expired", "deleted")]
    return [{key: value for key, value in entry.items() if key not in known} for entry in mine]


@pytest.mark.usefixtures("everything_logged")
def test_policies_are_readable_after_their_session_has_expired(
    configure: "Configure", connect: "Connect", collect: Collect
) -> None:
    config = configure()
    with running_server(config) as address, connect(address) as service:
        created, idle = service.create(request_id="r"), service.create()
        session_id = created.session.session_id
        first = service.upload(session_id, collect(created.policy), upload_id="u")
        step = service.adapt(session_id, 0, first.batch.sha256)
        expire(Path(config.store), session_id)
        expire(Path(config.store), idle.session.session_id)

        found = service.get(session_id)
        assert found.session.state == service_pb.SESSION_STATE_EXPIRED
        assert found.session.round == 1
        assert [report.round for report in found.reports] == [0]
        assert list(service.stub.ListSessions(service_pb.ListSessionsRequest()).sessions) == [found.session]
        assert service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)).policy == step.policy
        # A repeated call gets the same answer.
        again = service.adapt(session_id, 0, first.batch.sha256)
        assert (again.policy, again.report) == (step.policy, step.report)
        assert service.create(request_id="r").session == found.session
        with service.refuses(session_id) as refusal:
            service.upload(session_id, collect(step.policy), round_index=1)
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.details["ErrorInfo"].reason == "SESSION_EXPIRED"
        with service.refuses() as refusal:
            service.get(idle.session.session_id)
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        with Client(address) as client:
            resumed = client.resume(session_id)
            assert resumed.info.state == "expired"
            assert resumed.info.delete_time > resumed.info.expire_time
            assert resumed.policy.policy_id == step.policy.policy_id

    # The next server sweeps at startup.
    with structlog.testing.capture_logs() as logs, running_server(config) as address, connect(address) as service:
        deadline = time.monotonic() + 30
        while len(ends(logs)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)).policy == step.policy
    expected = {"action": "expired", "tenant": ""}
    assert ends(logs) == [
        {**expected, "session_id": idle.session.session_id, "policy_id": created.policy.policy_id, "rounds": 0},
        {**expected, "session_id": session_id, "policy_id": step.policy.policy_id, "rounds": 1},
    ]


def record(**changes: Any) -> SessionRecord:
    plain = SessionRecord(
        session_id="s",
        tenant="alice",
        request_id="r",
        request_sha256="",
        meta_policy="m",
        meta_policy_version=1,
        theta_id="t",
        step_size_scale=None,
        closed=False,
        round=1,
        policy_id="p",
        create_time=0,
        expire_time=2_000,
        delete_time=3_000,
        kept_bytes=11,
        kept_steps=8,
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("row_bytes", [0, 1 << 20], ids=["files", "rows"])
def test_uploads_are_deleted_at_expiry_and_policies_at_their_delete_time(tmp_path: Path, row_bytes: int) -> None:
    now = 1_000
    store = Store(tmp_path, now=lambda: now, row_bytes=row_bytes)
    blobs = {wire.sha256_hex(data): data for data in (b"payload", b"onnx")}
    payload, onnx = blobs
    store.prepare(blobs)
    with store.writing() as connection:
        connection.execute(tables.sessions.insert().values(dataclasses.asdict(record())))
        connection.execute(
            tables.uploads.insert().values(
                session_id="s",
                upload_id="u",
                round=0,
                payload_sha256=payload,
                trajectories=1,
                steps=8,
                acknowledgement=b"",
            )
        )
        connection.execute(
            tables.policies.insert().values(
                session_id="s", round=1, batch_sha256="b", onnx_sha256=onnx, policy=b"", report=b""
            )
        )
        store.keep(connection, blobs)

    def kept() -> set[str]:
        with store.reading() as connection:
            return {*connection.scalars(sa.select(tables.blobs.c.sha256)), *store.blobs.digests()}

    swept: list[SweptSession] = []
    assert store.sweep(swept.append) == 0
    now = 2_000
    assert store.sweep(swept.append) == 1
    assert kept() == {onnx}
    with store.reading() as connection:
        found = find_session(connection, "alice", "s", now)
        usage = recount(connection, store.blobs)["s"]
        assert (found.kept_bytes, found.kept_steps) == (usage.bytes, 0)
        assert tenant_usage(connection, "alice") == usage
        assert connection.execute(tables.uploads.select()).all() == []
    assert store.sweep(swept.append) == 0
    now = 3_000
    with store.reading() as connection, pytest.raises(NotFoundError):
        find_session(connection, "alice", "s", now)
    assert store.sweep(swept.append) == 1
    assert not kept()
    with store.reading() as connection:
        assert tenant_usage(connection, "alice") == Usage()
    assert [dataclasses.astuple(each) for each in swept] == [
        ("expired", "alice", "s", 1, "p"),
        ("deleted", "alice", "s", 1, "p"),
    ]
    store.close()
