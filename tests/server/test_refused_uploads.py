"""Every refusal of an upload: its status and its details; nothing is stored."""

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnxruntime
import pytest

from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Service, Start

Collect = Callable[..., list[wire.Trajectory]]
Message = service_pb.UploadTrajectoriesRequest
CODE = grpc.StatusCode


def changed(array: "np.ndarray[Any, Any]", index: tuple[int, ...], value: float) -> "np.ndarray[Any, Any]":
    copy = array.copy()
    copy[index] = value
    return copy


BROKEN: dict[str, tuple[Callable[[wire.Trajectory], dict[str, Any]], str]] = {
    "observations shape": (lambda t: {"observations": t.observations[:, :1]}, "observations"),
    "observations too few": (lambda t: {"observations": t.observations[:-1]}, "observations"),
    "actions shape": (lambda t: {"actions": t.actions[:, 0]}, "actions"),
    "rewards shape": (lambda t: {"rewards": t.rewards[:, None]}, "rewards"),
    "final observation shape": (lambda t: {"final_observation": t.final_observation[:1]}, "final_observation"),
    "observations dtype": (lambda t: {"observations": t.observations.astype(np.int64)}, "observations"),
    "actions dtype": (lambda t: {"actions": t.actions.astype(np.int32)}, "actions"),
    "rewards dtype": (lambda t: {"rewards": t.rewards.astype(np.int32)}, "rewards"),
    "observation nan": (lambda t: {"observations": changed(t.observations, (3, 1), np.nan)}, "observations[3][1]"),
    "action inf": (lambda t: {"actions": changed(t.actions, (2, 0), np.inf)}, "actions[2][0]"),
    "reward nan": (lambda t: {"rewards": changed(t.rewards, (5,), np.nan)}, "rewards[5]"),
    "reward beyond float32": (
        lambda t: {"rewards": changed(t.rewards.astype(np.float64), (5,), 1e300)},
        "rewards[5]",
    ),
    "final observation inf": (
        lambda t: {"final_observation": changed(t.final_observation, (1,), -np.inf)},
        "final_observation[1]",
    ),
    "no steps": (
        lambda t: {"observations": t.observations[:0], "actions": t.actions[:0], "rewards": t.rewards[:0]},
        "rewards",
    ),
    "beyond the horizon": (
        lambda t: {
            "observations": np.tile(t.observations, (20, 1)),
            "actions": np.tile(t.actions, (20, 1)),
            "rewards": np.tile(t.rewards, 20),
        },
        "rewards",
    ),
    "not over": (lambda t: {"truncated": False}, "truncated"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trajectory_is_refused_with_the_path_to_the_fault(
    service: "Service", collect: Collect, case: str
) -> None:
    breaks, field = BROKEN[case]
    created = service.create()
    trajectories = collect(created.policy)
    trajectories[2] = dataclasses.replace(trajectories[2], **breaks(trajectories[2]))
    with service.refuses(created.session.session_id) as refusal:
        service.upload(created.session.session_id, trajectories)
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, f"trajectories[2].{field}")


def test_a_missing_array_is_refused_by_name(service: "Service", collect: Collect) -> None:
    created = service.create()
    message = wire.trajectory_to_message(collect(created.policy)[0])
    message.ClearField("rewards")
    data = message.SerializeToString()
    payload = bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data
    with service.refuses(created.session.session_id) as refusal:
        service.send(wire.iter_upload(created.session.session_id, "u", 0, payload, 1, 8))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, "trajectories[0].rewards.data_type")


@pytest.mark.parametrize("payload", [b"\x05ab", b"\x80", b"\xff" * 12, b"\x03\xff\xff\xff", b"\xff\xff\xff\x7fx"])
def test_a_payload_that_does_not_parse_is_refused(service: "Service", payload: bytes) -> None:
    session_id = service.create().session.session_id
    with service.refuses(session_id) as refusal:
        service.send(wire.iter_upload(session_id, "u", 0, payload, 1, 1))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, "trajectories[0]")


def test_an_empty_upload_is_refused(service: "Service") -> None:
    session_id = service.create().session.session_id
    with service.refuses(session_id) as refusal:
        service.upload(session_id, [])
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, "header.payload_bytes")


@pytest.mark.parametrize(("trajectories", "steps", "field"), [
    (3, 32, "footer.trajectories"),
    (5, 32, "footer.trajectories"),
    (-1, 32, "footer.trajectories"),
    (4, 31, "footer.steps"),
    (4, 33, "footer.steps"),
    (4, -1, "footer.steps"),
])  # fmt: skip
def test_counts_that_differ_from_the_payload_are_refused(
    service: "Service", collect: Collect, trajectories: int, steps: int, field: str
) -> None:
    created = service.create()
    session_id, payload = created.session.session_id, wire.pack(collect(created.policy))
    with service.refuses(session_id) as refusal:
        service.send(wire.iter_upload(session_id, "u", 0, payload, trajectories, steps))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, field)


def test_a_payload_that_was_changed_in_transit_is_data_loss(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id, payload = created.session.session_id, bytearray(wire.pack(collect(created.policy)))
    messages = list(wire.iter_upload(session_id, "u", 0, bytes(payload), 4, 32))
    payload[len(payload) // 2] ^= 1
    messages[1].chunk.data = bytes(payload)
    with service.refuses(session_id) as refusal:
        service.send(iter(messages))
    assert (refusal.code, refusal.reason) == (CODE.DATA_LOSS, "DIGEST_MISMATCH")


def malformed(messages: list[Message]) -> dict[str, tuple[list[Message], str]]:
    header, chunk, footer = messages
    half = Message(chunk=service_pb.UploadChunk(data=chunk.chunk.data[:100]))
    oversize = Message(chunk=service_pb.UploadChunk(data=bytes(wire.CHUNK_BYTES + 1)))
    return {
        "nothing": ([], "footer"),
        "no header": ([chunk, footer], "header"),
        "two headers": ([header, header, chunk, footer], "header"),
        "no footer": ([header, chunk], "footer"),
        "an empty message": ([header, Message(), chunk, footer], "part"),
        "short of what was declared": ([header, half, footer], "header.payload_bytes"),
        "more than was declared": ([header, chunk, half, footer], "chunk.data"),
        "oversize chunk": ([header, oversize, footer], "chunk.data"),
    }


@pytest.mark.parametrize("case", malformed([Message(), Message(), Message()]))
def test_a_stream_out_of_order_is_refused(service: "Service", collect: Collect, case: str) -> None:
    created = service.create()
    session_id, payload = created.session.session_id, wire.pack(collect(created.policy))
    stream, field = malformed(list(wire.iter_upload(session_id, "u", 0, payload, 4, 32)))[case]
    with service.refuses(session_id) as refusal:
        service.send(iter(stream))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("upload_id", ["", "u" * 129])
def test_an_upload_id_of_invalid_length_is_refused(service: "Service", collect: Collect, upload_id: str) -> None:
    created = service.create()
    session_id, payload = created.session.session_id, wire.pack(collect(created.policy))
    with service.refuses(session_id) as refusal:
        service.send(wire.iter_upload(session_id, upload_id, 0, payload, 4, 32))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, "header.upload_id")


def test_an_interrupted_upload_leaves_nothing(configure: "Configure", start: "Start", collect: Collect) -> None:
    config = configure()
    with start(store=config.store, row_bytes=0) as service:
        created = service.create()
        session_id, before = created.session.session_id, service.get(created.session.session_id)
        messages = list(wire.iter_upload(session_id, "u", 0, wire.pack(collect(created.policy)), 4, 32))
        sent, over = threading.Event(), threading.Event()

        def cut() -> Iterator[Message]:
            yield from messages[:2]
            sent.set()
            over.wait(60)

        call: Any = service.stub.UploadTrajectories.future(cut())
        assert sent.wait(60)
        call.cancel()
        over.set()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        assert service.get(session_id) == before
        # Its memory is released, and its upload id is unused.
        assert service.send(iter(messages)).batch.uploads == 1
    assert len(list((Path(config.store) / "blobs").glob("??/*"))) == 1


@pytest.mark.parametrize("reason", ["DETERMINISTIC_ACTIONS", "UNSCALED_ACTIONS", "CLIPPED_ACTIONS", "OFF_POLICY"])
def test_actions_that_the_policy_did_not_choose_are_refused(service: "Service", collect: Collect, reason: str) -> None:
    created = service.create()
    session_id, trajectories = created.session.session_id, collect(created.policy, trajectories=8, steps=40)
    mean = collect_means(created.policy.onnx)
    change: dict[str, Callable[[wire.Trajectory], np.ndarray[Any, Any]]] = {
        "DETERMINISTIC_ACTIONS": lambda t: mean(t.observations),
        "UNSCALED_ACTIONS": lambda t: np.clip(t.actions, -1, 1) * np.float32(0.1),
        "CLIPPED_ACTIONS": lambda t: np.clip(t.actions, -1, 1),
        "OFF_POLICY": lambda t: t.actions + np.float32(3),
    }
    sent = [dataclasses.replace(each, actions=change[reason](each)) for each in trajectories]
    with service.refuses(session_id) as refusal:
        service.upload(session_id, sent)
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, reason)
    assert refusal.metadata.get("trajectory", "0") == "0"


def collect_means(onnx: bytes) -> Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return lambda observations: session.run(["mean"], {"obs": observations})[0]


def test_a_trajectory_of_another_round_s_policy_is_refused(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    current = service.adapt(session_id, 0, ack.batch.sha256).policy
    trajectories = collect(current)
    trajectories[3] = dataclasses.replace(trajectories[3], policy_id=created.policy.policy_id)
    with service.refuses(session_id) as refusal:
        service.upload(session_id, trajectories, round_index=1)
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "STALE_POLICY")
    assert refusal.metadata == {"trajectory": "3", "expected": current.policy_id}
    for named in ("trajectories[3]", created.policy.policy_id, current.policy_id):
        assert named in refusal.message


@pytest.mark.parametrize("round_index", [-1, 0, 2])
def test_an_upload_for_another_round_is_aborted_with_the_current_round(
    service: "Service", collect: Collect, round_index: int
) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    service.adapt(session_id, 0, ack.batch.sha256)
    with service.refuses(session_id) as refusal:
        service.upload(session_id, collect(created.policy), round_index=round_index)
    assert (refusal.code, refusal.reason) == (CODE.ABORTED, "ROUND_MISMATCH")
    assert refusal.metadata == {"round": "1"}


def test_a_closed_session_refuses_an_upload(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    with service.refuses(session_id) as refusal:
        service.upload(session_id, collect(created.policy))
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "SESSION_CLOSED")


def test_an_upload_to_an_unknown_session_is_refused(service: "Service", collect: Collect) -> None:
    trajectories = collect(service.create().policy)
    with service.refuses() as refusal:
        service.upload(uuid.uuid4().hex, trajectories)
    assert refusal.code is CODE.NOT_FOUND
    assert refusal.details["ResourceInfo"].resource_type == "session"


def test_an_upload_id_with_other_content_is_refused(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    service.upload(session_id, collect(created.policy), upload_id="u")
    with service.refuses(session_id) as refusal:
        service.upload(session_id, collect(created.policy, seed=1), upload_id="u")
    assert (refusal.code, refusal.reason) == (CODE.ALREADY_EXISTS, "UPLOAD_ID_REUSED")
