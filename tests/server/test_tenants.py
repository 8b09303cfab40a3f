"""Another tenant's session is refused exactly as a session that does not exist."""

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.server import every_rpc as rpc
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Service, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]


@dataclasses.dataclass(frozen=True)
class Two:
    """Two tenants of one server. alice has a session with one upload and one step."""

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
    """All that a client sees of a refusal, without its duration."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    trailing = sorted((key, value) for key, value in error.trailing_metadata() or ())
    return repr((error.code(), error.details(), sorted(error.initial_metadata() or ()), trailing)).encode()


def assert_not_found_for_bob(two: Two, call: rpc.Call) -> None:
    theirs, missing = two.session_id, uuid.uuid4().hex
    before = two.alice.get(theirs)
    found = status_of(lambda: call(two.bob, theirs))
    assert b"NOT_FOUND" in found
    assert found.replace(theirs.encode(), b"ID") == status_of(lambda: call(two.bob, missing)).replace(
        missing.encode(), b"ID"
    )
    assert two.alice.get(theirs) == before


@pytest.mark.parametrize("name", rpc.ABOUT_A_SESSION)
def test_another_tenant_s_session_does_not_exist(two: Two, name: str) -> None:
    assert_not_found_for_bob(two, rpc.ABOUT_A_SESSION[name])


def test_another_tenant_s_upload_is_not_acknowledged_again(two: Two) -> None:
    def again(service: "Service", session_id: str) -> Any:
        return service.send(wire.iter_upload(session_id, "u", 0, two.payload, 4, 32))

    assert again(two.alice, two.session_id).upload_id == "u"
    assert_not_found_for_bob(two, again)


def test_another_tenant_s_step_is_not_returned_again(two: Two) -> None:
    def again(service: "Service", session_id: str) -> Any:
        return service.adapt(session_id, 0, two.batch_sha256)

    assert again(two.alice, two.session_id).session.round == 1
    assert_not_found_for_bob(two, again)


def test_each_tenant_lists_its_own_sessions(two: Two) -> None:
    mine = {two.bob.create().session.session_id for _ in range(3)}
    listed = two.bob.stub.ListSessions(service_pb.ListSessionsRequest())
    assert {session.session_id for session in listed.sessions} >= mine
    assert two.session_id not in {session.session_id for session in listed.sessions}
    others = two.alice.stub.ListSessions(service_pb.ListSessionsRequest())
    assert two.session_id in {session.session_id for session in others.sessions}
    assert not mine & {session.session_id for session in others.sessions}


def test_a_page_token_of_another_tenant_lists_no_session_of_theirs(two: Two) -> None:
    for _ in range(2):
        two.alice.create()
    token = two.alice.stub.ListSessions(service_pb.ListSessionsRequest(page_size=1)).next_page_token
    assert token
    alices = {each.session_id for each in two.alice.stub.ListSessions(service_pb.ListSessionsRequest()).sessions}
    page = two.bob.stub.ListSessions(service_pb.ListSessionsRequest(page_token=token))
    assert not alices & {session.session_id for session in page.sessions}


def test_each_tenant_has_its_own_request_ids(two: Two) -> None:
    bobs = two.bob.create(request_id="the same", meta_policy_version=1)
    assert bobs.session.session_id != two.session_id
    assert two.bob.create(request_id="the same", meta_policy_version=1) == bobs
    assert two.alice.create(request_id="the same").session.session_id == two.session_id
