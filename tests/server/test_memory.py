"""A server of a meta-policy with a memory: lists it, serves its file to clients that read it, refuses uploads."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.artifacts import POINT_NAVIGATION, write_point_artifact, write_untrained
from tests.support.server.service import Configure, connect
from thetaprime import models, wire
from thetaprime.server import running_server
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service

NAME = "point-navigation-rl2"


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> models.MetaPolicy:
    spec = models.PolicySpec(hidden_sizes=(8,), memory=models.MemorySpec(cell="lstm", size=6, reward_scale=0.1))
    return write_untrained(tmp_path_factory.mktemp("zoo"), NAME, POINT_NAVIGATION, spec=spec)


@pytest.fixture(scope="module")
def address(configure: Configure, remembering: models.MetaPolicy) -> Iterator[str]:
    zoo = remembering.directory.parent.parent
    write_point_artifact(zoo)
    with running_server(configure(zoo=(zoo,))) as served:
        yield served


@pytest.fixture
def plain(address: str) -> Iterator["Service"]:
    with connect(address) as service:
        yield service


@pytest.fixture
def client(address: str) -> Iterator[tp.Client]:
    with tp.Client(address) as connected:
        yield connected


def test_the_catalog_says_which_policies_remember(client: tp.Client) -> None:
    assert {each.name: each.memory for each in client.meta_policies()} == {NAME: "lstm", "point-navigation": ""}


def test_theta_is_served_and_acts(client: tp.Client, remembering: models.MetaPolicy) -> None:
    theta = client.theta(NAME)
    assert theta.policy_id == remembering.policy_id
    assert theta.memory is not None
    first = theta.act(np.ones(2))
    theta.observe(1.0)
    assert (theta.act(np.ones(2)) != first).any()


def test_a_session_begins_with_theta(client: tp.Client, remembering: models.MetaPolicy) -> None:
    session = client.create_session(NAME, request_id="again")
    assert session.policy.policy_id == remembering.policy_id
    assert session.meta_policy.memory == "lstm"
    assert client.resume(session.id).policy.onnx == session.policy.onnx
    assert client.create_session(NAME, request_id="again").id == session.id
    assert session.export("unity-mlagents").memory is not None
    with pytest.raises(tp.InvalidInputError, match=r"profile: 'godot-rl' cannot express this policy: it has a mem"):
        session.export("godot-rl")


OLD: dict[str, Callable[["Service", str], object]] = {
    "GetMetaPolicy": lambda service, _: service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=NAME)),
    "CreateSession": lambda service, _: service.create(meta_policy=NAME),
    "GetPolicy": lambda service, session: service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session)),
    "GetPolicy in a profile": lambda service, session: service.stub.GetPolicy(
        service_pb.GetPolicyRequest(session_id=session, profile="epsilon")
    ),
}


@pytest.mark.parametrize("call", OLD)
def test_a_client_that_has_never_heard_of_memory_is_told_what_it_needs(call: str, plain: "Service") -> None:
    session = plain.create(meta_policy=NAME, onnx_contract=2).session.session_id
    before = len(plain.stub.ListSessions(service_pb.ListSessionsRequest()).sessions)
    with plain.refuses() as refusal:
        OLD[call](plain, session)
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"{NAME}@1 carries a memory: its file follows version 2 of the ONNX contract" in refusal.message
    info = refusal.details["ErrorInfo"]
    assert (info.reason, info.metadata["needed"], info.metadata["found"]) == ("ONNX_CONTRACT", "2", "1")
    # A refused call leaves no session.
    assert len(plain.stub.ListSessions(service_pb.ListSessionsRequest()).sessions) == before


def test_a_client_that_has_never_heard_of_memory_gets_other_policies(plain: "Service") -> None:
    assert plain.create(meta_policy="point-navigation").policy.metadata["thetaprime.contract_version"] == "1"


def test_an_upload_is_refused_before_its_payload(plain: "Service") -> None:
    created = plain.create(meta_policy=NAME, onnx_contract=2)
    session = created.session.session_id
    trajectory = wire.Trajectory(
        observations=np.zeros((3, 2), np.float32),
        actions=np.zeros((3, 2), np.float32),
        rewards=np.zeros(3, np.float32),
        terminated=False,
        truncated=True,
        final_observation=np.zeros(2, np.float32),
        policy_id=created.policy.policy_id,
    )
    with plain.refuses(session) as refusal:
        plain.upload(session, [trajectory])
    info = refusal.details["ErrorInfo"]
    assert (refusal.code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MEMORY_UNSUPPORTED")
    assert "it takes no uploads" in refusal.message
    with plain.refuses(session) as refusal:
        plain.adapt(session, 0, "")
    assert refusal.details["ErrorInfo"].reason == "EMPTY_BATCH"


def test_the_client_refuses_rounds_before_an_episode(client: tp.Client) -> None:
    def never(*_: Any) -> list[tp.Trajectory]:
        pytest.fail("an episode was collected")

    with pytest.raises(
        tp.PreconditionError, match=f"{NAME}@1 carries a memory, and adapts in it from episode to"
    ) as caught:
        client.adapt(NAME, never, rounds=1)
    assert caught.value.reason == "MEMORY_UNSUPPORTED"


def test_an_altered_artifact_is_not_served(
    remembering: models.MetaPolicy, tmp_path: Path, configure: Configure
) -> None:
    spec = models.PolicySpec(hidden_sizes=(8,), memory=models.MemorySpec(size=6))
    folder = write_untrained(tmp_path, NAME, POINT_NAVIGATION, spec=spec).directory
    (folder / "policy.onnx").write_bytes((remembering.directory / "policy.onnx").read_bytes())
    with pytest.raises(RuntimeError, match=r"policy\.onnx: sha256"), running_server(configure(zoo=(tmp_path,))):
        pass
