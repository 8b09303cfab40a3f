"""What is another tenant's answers exactly like what does not exist."""

import dataclasses
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.server import every_rpc as rpc
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.server.errors import NotFoundError
from thetaprime.server.sessions.rows import SessionRecord, find_session
from thetaprime.server.store import Store, tables
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Service, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]


@dataclasses.dataclass(frozen=True)
class Two:
    """Two tenants of one server; alice has a session with an upload acknowledged and a round taken on it."""

    alice: "Service"
    bob: "Service"
    session_id: str
    payload: bytes
    batch_sha256: str


@pytest.fixture(scope="module")
def two(
    configure: "Configure",
    connect: "Connect",
    collect: Collect,
    write_tokens: "WriteTokens",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Two]:
    file = write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.toml", {"a": "alice", "b": "bob"})
    with (
        running_server(configure(tokens=file)) as address,
        connect(address, "a") as alice,
        connect(address, "b") as bob,
    ):
        created = alice.create(request_id="the same")
        session_id, trajectories = created.session.session_id, collect(created.policy)
        ack = alice.upload(session_id, trajectories, upload_id="u")
        alice.adapt(session_id, 0, ack.batch.sha256)
        yield Two(alice, bob, session_id, wire.pack(trajectories), ack.batch.sha256)


def status_of(call: Callable[[], object]) -> bytes:
    """All of a refusal that a client can see, but for the time."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    trailing = sorted((key, value) for key, value in error.trailing_metadata() or ())
    return repr((error.code(), error.details(), sorted(error.initial_metadata() or ()), trailing)).encode()


def assert_as_if_it_were_not_there(two: Two, call: rpc.Call) -> None:
    theirs, nobodys = two.session_id, uuid.uuid4().hex
    before = two.alice.get(theirs)
    found = status_of(lambda: call(two.bob, theirs))
    assert b"NOT_FOUND" in found
    assert found.replace(theirs.encode(), b"ID") == status_of(lambda: call(two.bob, nobodys)).replace(
        nobodys.encode(), b"ID"
    )
    assert two.alice.get(theirs) == before


@pytest.mark.parametrize("name", rpc.ABOUT_A_SESSION)
def test_another_tenant_s_session_is_as_if_it_were_not_there(two: Two, name: str) -> None:
    assert_as_if_it_were_not_there(two, rpc.ABOUT_A_SESSION[name])


def test_what_alice_would_be_acknowledged_again_bob_is_not(two: Two) -> None:
    def again(service: "Service", session_id: str) -> Any:
        return service.send(wire.iter_upload(session_id, "u", 0, two.payload, 4, 32))

    assert again(two.alice, two.session_id).upload_id == "u"
    assert_as_if_it_were_not_there(two, again)


def test_the_round_that_alice_would_be_given_again_bob_is_not(two: Two) -> None:
    def again(service: "Service", session_id: str) -> Any:
        return service.adapt(session_id, 0, two.batch_sha256)

    assert again(two.alice, two.session_id).session.round == 1
    assert_as_if_it_were_not_there(two, again)


def test_each_tenant_lists_its_own(two: Two) -> None:
    mine = {two.bob.create().session.session_id for _ in range(3)}
    listed = two.bob.stub.ListSessions(service_pb.ListSessionsRequest())
    assert {session.session_id for session in listed.sessions} >= mine
    assert two.session_id not in {session.session_id for session in listed.sessions}
    others = two.alice.stub.ListSessions(service_pb.ListSessionsRequest())
    assert two.session_id in {session.session_id for session in others.sessions}
    assert not mine & {session.session_id for session in others.sessions}


def test_a_page_token_of_another_tenant_shows_nothing_of_theirs(two: Two) -> None:
    for _ in range(2):
        two.alice.create()
    token = two.alice.stub.ListSessions(service_pb.ListSessionsRequest(page_size=1)).next_page_token
    assert token
    alices = {each.session_id for each in two.alice.stub.ListSessions(service_pb.ListSessionsRequest()).sessions}
    page = two.bob.stub.ListSessions(service_pb.ListSessionsRequest(page_token=token))
    assert not alices & {session.session_id for session in page.sessions}


def test_a_request_id_is_each_tenant_s_own(two: Two) -> None:
    bobs = two.bob.create(request_id="the same", meta_policy_version=1)
    assert bobs.session.session_id != two.session_id
    assert two.bob.create(request_id="the same", meta_policy_version=1) == bobs
    assert two.alice.create(request_id="the same").session.session_id == two.session_id


# The schema of version 1, as it was.
VERSION_1 = """
CREATE TABLE schema_info (version INTEGER NOT NULL, PRIMARY KEY (version));
INSERT INTO schema_info VALUES (1);
CREATE TABLE sessions (
    session_id VARCHAR NOT NULL, request_id VARCHAR NOT NULL, request_sha256 VARCHAR NOT NULL,
    meta_policy VARCHAR NOT NULL, meta_policy_version BIGINT NOT NULL, theta_id VARCHAR NOT NULL,
    step_size_scale FLOAT, closed BOOLEAN NOT NULL, round BIGINT NOT NULL, policy_id VARCHAR NOT NULL,
    create_time BIGINT NOT NULL, expire_time BIGINT NOT NULL, PRIMARY KEY (session_id), UNIQUE (request_id));
CREATE INDEX sessions_expiry ON sessions (expire_time);
CREATE INDEX sessions_newest ON sessions (create_time, session_id);
CREATE TABLE uploads (
    session_id VARCHAR NOT NULL, upload_id VARCHAR NOT NULL, round BIGINT NOT NULL, payload_sha256 VARCHAR NOT NULL,
    trajectories BIGINT NOT NULL, steps BIGINT NOT NULL, acknowledgement BLOB NOT NULL,
    PRIMARY KEY (session_id, upload_id), FOREIGN KEY(session_id) REFERENCES sessions (session_id) ON DELETE CASCADE);
CREATE INDEX uploads_payload ON uploads (payload_sha256);
CREATE INDEX uploads_round ON uploads (session_id, round);
CREATE TABLE policies (
    session_id VARCHAR NOT NULL, round BIGINT NOT NULL, batch_sha256 VARCHAR NOT NULL,
    parameters_sha256 VARCHAR NOT NULL, onnx_sha256 VARCHAR NOT NULL, policy BLOB NOT NULL, report BLOB NOT NULL,
    PRIMARY KEY (session_id, round), FOREIGN KEY(session_id) REFERENCES sessions (session_id) ON DELETE CASCADE);
CREATE INDEX policies_onnx ON policies (onnx_sha256);
CREATE INDEX policies_parameters ON policies (parameters_sha256);
"""
FAR = 2**62


def write_version_1(folder: Path) -> None:
    """A store as version 1 left it: a session with two uploads and a policy, and one with nothing."""
    store = Store(folder)
    payload, other, parameters, onnx = (store.blobs.put(data) for data in (b"12345", b"1", b"12", b"123"))
    store.close()
    (folder / "thetaprime.sqlite3").unlink()
    connection = sqlite3.connect(folder / "thetaprime.sqlite3")
    connection.executescript(VERSION_1)
    insert = "INSERT INTO sessions VALUES (?, ?, 'd', 'm', 1, 't', 0.5, 0, 1, 'p', 3, ?)"
    connection.executemany(insert, [("s", "r", FAR), ("empty", "other", FAR)])
    insert = "INSERT INTO uploads VALUES ('s', ?, 0, ?, 1, ?, 'ack')"
    connection.executemany(insert, [("u", payload, 30), ("v", other, 12)])
    connection.execute("INSERT INTO policies VALUES ('s', 1, 'b', ?, ?, 'policy', 'report')", (parameters, onnx))
    connection.commit()
    connection.close()


def test_a_store_of_version_1_is_the_default_tenant_s(tmp_path: Path) -> None:
    write_version_1(tmp_path)
    store = Store(tmp_path)
    Store(tmp_path).close()
    expected = SessionRecord(
        session_id="s",
        tenant="",
        request_id="r",
        request_sha256="d",
        meta_policy="m",
        meta_policy_version=1,
        theta_id="t",
        step_size_scale=0.5,
        closed=False,
        round=1,
        policy_id="p",
        create_time=3,
        expire_time=FAR,
        delete_time=FAR + 30 * 24 * 3600 * 10**6,
        kept_bytes=5 + 1 + 3,
        kept_steps=42,
    )
    with store.writing() as connection:
        assert find_session(connection, "", "s", 0) == expected
        with pytest.raises(NotFoundError):
            find_session(connection, "alice", "s", 0)
        rows = connection.execute(tables.uploads.select().order_by(tables.uploads.c.upload_id)).all()
        assert [(row.upload_id, row.steps, row.acknowledgement) for row in rows] == [("u", 30, "ack"), ("v", 12, "ack")]
        assert connection.execute(tables.policies.select()).one().policy == "policy"
        # Two tenants may use one request id, and what refers to a session goes with it.
        renamed = {**dataclasses.asdict(expected), "session_id": "s2", "tenant": "alice"}
        connection.execute(tables.sessions.insert().values(renamed))
        connection.execute(tables.sessions.delete().where(tables.sessions.c.session_id == "s"))
        assert connection.execute(tables.uploads.select()).all() == []
        assert connection.execute(tables.policies.select()).all() == []
    store.close()


def schema(folder: Path) -> set[tuple[str, str, str]]:
    connection = sqlite3.connect(folder / "thetaprime.sqlite3")
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    connection.close()
    return {(kind, name, re.sub(r"\s", "", sql or "")) for kind, name, sql in rows}


def test_a_store_that_was_brought_up_to_date_is_like_a_new_one(tmp_path: Path) -> None:
    write_version_1(tmp_path / "old")
    Store(tmp_path / "old").close()
    Store(tmp_path / "new").close()
    assert schema(tmp_path / "old") == schema(tmp_path / "new")


def test_an_update_that_fails_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version_1(tmp_path)
    before = schema(tmp_path)

    def fail(*_: object) -> int:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("thetaprime.server.store.blobs.BlobStore.size", fail)
        Store(tmp_path)
    assert schema(tmp_path) == before
    Store(tmp_path).close()
    assert schema(tmp_path) != before
