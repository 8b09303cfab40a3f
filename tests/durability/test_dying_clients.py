"""A client that dies at any moment of a round leaves nothing behind but its acknowledged calls."""

import os
import threading
import time
from typing import Any, Final

import grpc
import pytest

from tests.support.faults.connections import descriptors, wait_for_descriptors
from tests.support.faults.cutter import cut_after
from tests.support.point_navigation import collect
from tests.support.server.metrics_page import free_address, scrape
from tests.support.server.service import Service, Start
from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb

CUTS: Final = 60
SPARE: Final = 4
PATIENCE: Final = 60.0
OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


def take_round(service: Service, request_id: str) -> service_pb.AdaptResponse:
    """Makes every call that changes the store."""
    created = service.create(request_id=request_id)
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy), upload_id="u").batch
    step = service.adapt(session_id, 0, batch.sha256)
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id), timeout=PATIENCE)
    return step


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_cut_after_any_byte_can_be_repeated(start: Start) -> None:
    metrics = free_address()
    with start() as service:
        size = len(wire.pack(collect(service.create().policy)))
    # Memory for one upload: if a cut upload kept its memory, the next one would be refused.
    with start(max_upload_bytes=size, max_inflight_bytes=size, metrics_address=metrics) as service:
        with cut_after(service.address) as cutter, grpc.insecure_channel(cutter.address, OPTIONS) as channel:
            expected = take_round(Service(cutter.address, channel=channel), "whole").policy.onnx
        before, threads = descriptors(os.getpid()), threading.active_count()
        refused = 0
        for number in range(CUTS):
            limit = 1 + cutter.sent * number // CUTS
            with (
                cut_after(service.address, limit) as wire_,
                grpc.insecure_channel(wire_.address, OPTIONS) as channel,
            ):
                try:
                    take_round(Service(wire_.address, channel=channel), f"cut-{number}")
                except grpc.RpcError as error:
                    assert isinstance(error, grpc.Call)
                    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                    refused += 1
            # The same calls again, undisturbed: each counts once.
            assert take_round(service, f"cut-{number}").policy.onnx == expected
        assert refused >= CUTS - 1
        listed = service.stub.ListSessions(service_pb.ListSessionsRequest(page_size=1000))
        assert len(listed.sessions) == CUTS + 1
        assert all(session.state == service_pb.SESSION_STATE_CLOSED for session in listed.sessions)
        wait_for_descriptors(os.getpid(), at_most=before + SPARE)
        end = time.monotonic() + PATIENCE
        while threading.active_count() > threads + SPARE:
            assert time.monotonic() < end, threading.enumerate()
            time.sleep(0.05)
        assert scrape(metrics)["thetaprime_steps_running"].samples[0].value == 0


@pytest.mark.parametrize("messages", range(4))
def test_a_canceled_upload_leaves_nothing(start: Start, messages: int) -> None:
    with start() as service:
        created = service.create()
        session_id = created.session.session_id
        payload = wire.pack(collect(created.policy))
        whole = list(wire.iter_upload(session_id, "u", 0, payload, 4, 32))
        sent, over = threading.Event(), threading.Event()

        def cut() -> Any:
            yield from whole[:messages]
            sent.set()
            over.wait(PATIENCE)

        call: Any = service.stub.UploadTrajectories.future(cut(), timeout=PATIENCE)
        assert sent.wait(PATIENCE)
        if messages < len(whole):
            call.cancel()
        over.set()
        if messages < len(whole):
            with pytest.raises(grpc.FutureCancelledError):
                call.result()
        batch = service.send(iter(whole)).batch
        assert (batch.uploads, batch.sha256) == (1, wire.batch_digest([wire.sha256_hex(payload)]))
