"""Random calls of two tenants, between expiries, sweeps and restarts: the service answers as its model.

The calls go to the service without gRPC (see without_wire): ten times as fast as gRPC on loopback, with a clock that
the machine sets. tests/durability tests the service with gRPC.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import hypothesis
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support.artifacts import write_point_artifact
from tests.support.point_navigation import NAME, play
from tests.support.server.session_model import (
    CLOSED,
    EXPIRED,
    NOT_FOUND,
    OK,
    OTHER_ROUND,
    Answer,
    Arguments,
    Model,
    Session,
    Upload,
)
from tests.support.server.tokens import write_tokens
from tests.support.server.without_wire import RefusedError, ServiceWithoutWire
from thetaprime import wire
from thetaprime.server import ServerConfig
from thetaprime.server.store import tables
from thetaprime.server.store.expiry import named_blobs, unnamed_blob_rows
from thetaprime.server.store.usage import Usage, recount, tenant_usage
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2

EXAMPLES: Final = int(os.environ.get("EXAMPLES", "12"))
"""Number of sequences of calls; thousands take an hour."""
TENANTS: Final = ("alice", "bob")
MAX_SESSIONS, MAX_ROUND_UPLOADS = 3, 2
KEEP_SECONDS = 100
ARGUMENTS: Final = (Arguments(None, 100), Arguments(None, 1_000_000), Arguments(0.5, 1_000_000))
MICROSECONDS: Final = 1_000_000
BEGINNING: Final = 1_700_000_000 * MICROSECONDS
INVALID: Final[Answer] = (grpc.StatusCode.INVALID_ARGUMENT, "")
DAMAGED: Final[Answer] = (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")

tenants = st.sampled_from(TENANTS)
requests = st.sampled_from("pqrs")
upload_ids = st.sampled_from("uvw")
seeds = st.integers(0, 2)
# Offset from the session's round, mostly 0.
offsets = st.sampled_from([0, 0, 0, -1, 1])


class SessionMachine(RuleBasedStateMachine):
    zoo: Path
    taken: int  # rounds taken by all machines of the class

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="thetaprime-machine-")
        folder = Path(self._folder.name)
        self._config = ServerConfig(
            store=folder / "store",
            zoo=(self.zoo,),
            tokens=write_tokens(folder / "tokens.toml", {f"theta_{tenant}": tenant for tenant in (*TENANTS, "carol")}),
            max_tenant_sessions=MAX_SESSIONS,
            max_round_uploads=MAX_ROUND_UPLOADS,
            keep_policies=KEEP_SECONDS,
        )
        self._model = Model(BEGINNING, MAX_SESSIONS, MAX_ROUND_UPLOADS, KEEP_SECONDS)
        self._policies: dict[str, policy_pb2.Policy] = {}
        self._service = self._started()

    def _started(self) -> ServiceWithoutWire:
        return ServiceWithoutWire(self._config, now=lambda: self._model.now)

    def teardown(self) -> None:
        for session in list(self._model.sessions.values()):
            self._take_again_in_another_order(session)
        self._service.__exit__()
        self._folder.cleanup()

    # Rules.

    @initialize(seeds=st.lists(seeds, min_size=1, max_size=MAX_ROUND_UPLOADS))
    def begin(self, seeds: list[int]) -> None:
        for tenant in TENANTS:
            self._create(tenant, "p", ARGUMENTS[0])
        # The rules may draw a run without a round, which would test little.
        first = next(iter(self._model.sessions.values()))
        self._take_round(first.tenant, first, seeds)

    @rule(tenant=tenants, request_id=requests, arguments=st.sampled_from(ARGUMENTS))
    def create(self, tenant: str, request_id: str, arguments: Arguments) -> None:
        self._create(tenant, request_id, arguments)

    @rule(
        data=st.data(),
        upload_id=upload_ids,
        seed=seeds,
        offset=offsets,
        stale=st.sampled_from([False, False, True]),
        again=st.booleans(),
    )
    def upload(self, data: st.DataObject, upload_id: str, seed: int, offset: int, stale: bool, again: bool) -> None:
        tenant, session = self._drawn(data)
        upload = self._collected(session, seed, session.round + offset, stale)
        self._upload(tenant, session, upload_id, dataclasses.replace(upload, count_again=again))

    @rule(data=st.data())
    def upload_again(self, data: st.DataObject) -> None:
        tenant, session = self._drawn(data)
        for upload_id, upload in list(session.uploads.items()):
            self._upload(tenant, session, upload_id, upload)

    @rule(data=st.data(), upload_id=upload_ids, damage=st.sampled_from(["cut", "digest", "counts"]))
    def upload_damaged(self, data: st.DataObject, upload_id: str, damage: str) -> None:
        tenant, session = self._drawn(data)
        upload = self._collected(session, 3, session.round, stale=False)
        messages = upload.messages(session.session_id, upload_id)
        expected = self._model.answer_upload(tenant, session.session_id, upload_id, upload)
        # The header alone is validated where the upload could not count.
        received = expected not in (NOT_FOUND, CLOSED, EXPIRED, OTHER_ROUND)
        if damage == "cut":
            messages = messages[:-1]
            expected = INVALID if received else expected
        elif damage == "digest":
            messages[-1].footer.sha256 = wire.sha256_hex(b"other bytes")
            expected = DAMAGED if received else expected
        else:
            messages[-1].footer.trajectories += 1
            expected = INVALID if expected == OK else expected
        self._reply(tenant, "UploadTrajectories", messages, expected)

    @rule(data=st.data(), offset=offsets, chosen=st.lists(upload_ids, max_size=2))
    def discard(self, data: st.DataObject, offset: int, chosen: list[str]) -> None:
        tenant, session = self._drawn(data)
        index = session.round + offset
        expected = self._model.answer_discard(tenant, session.session_id, index, chosen)
        request = service_pb.DiscardUploadsRequest(session_id=session.session_id, round=index, upload_ids=chosen)
        reply = self._reply(tenant, "DiscardUploads", [request], expected)
        if reply is not None:
            session.discard(chosen)
            assert service_pb.DiscardUploadsResponse.FromString(reply).session == self._message(session)

    @rule(data=st.data(), offset=offsets, wrong=st.sampled_from(["", "", "0" * 64, "ø"]))
    def adapt(self, data: st.DataObject, offset: int, wrong: str) -> None:
        tenant, session = self._drawn(data)
        index = session.round + offset
        self._adapt(tenant, session, index, wrong or session.batch(index).sha256)

    @rule(data=st.data(), seeds=st.lists(seeds, min_size=1, max_size=MAX_ROUND_UPLOADS))
    def take_a_round(self, data: st.DataObject, seeds: list[int]) -> None:
        self._take_round(*self._drawn(data), seeds)

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        tenant, session = self._drawn(data)
        request = service_pb.CloseSessionRequest(session_id=session.session_id)
        expected = OK if self._model.find(tenant, session.session_id) else NOT_FOUND
        reply = self._reply(tenant, "CloseSession", [request], expected)
        if reply is not None:
            session.closed = True
            assert service_pb.CloseSessionResponse.FromString(reply).session == self._message(session)

    @rule(data=st.data(), index=st.integers(-1, 3))
    def fetch(self, data: st.DataObject, index: int) -> None:
        tenant, session = self._drawn(data)
        there = self._model.find(tenant, session.session_id) and 0 <= index <= session.round
        request = service_pb.GetPolicyRequest(session_id=session.session_id, round=index)
        reply = self._reply(tenant, "GetPolicy", [request], OK if there else NOT_FOUND)
        if reply is not None:
            found = service_pb.GetPolicyResponse.FromString(reply)
            assert found.policy == self._policies[session.policy_ids[index]]
            assert found.report == (session.steps[index - 1].report if index else service_pb.AdaptationReport())

    @rule(tenant=tenants, size=st.integers(1, 3))
    def list_sessions(self, tenant: str, size: int) -> None:
        expected = [self._message(session) for session in self._model.alive(tenant)]
        assert list(self._pages(tenant, size)) == expected

    @rule(seconds=st.sampled_from([1, 60, ARGUMENTS[0].seconds]))
    def wait(self, seconds: int) -> None:
        self._model.now += seconds * MICROSECONDS

    @rule()
    def sweep(self) -> None:
        self._service.store.sweep()
        self._model.sweep()

    @rule()
    def restart(self) -> None:
        self._service.__exit__()
        self._service = self._started()

    # Invariants.

    @invariant()
    def every_session_is_unchanged(self) -> None:
        for session in self._model.sessions.values():
            there = self._model.find(session.tenant, session.session_id)
            request = service_pb.GetSessionRequest(session_id=session.session_id)
            reply = self._reply(session.tenant, "GetSession", [request], OK if there else NOT_FOUND)
            if reply is not None:
                found = service_pb.GetSessionResponse.FromString(reply)
                assert found.session == self._message(session)
                reports = [step.report for step in session.steps]
                for report in found.reports[:-1]:
                    assert not report.uploads
                    report.uploads.extend(reports[report.round].uploads)
                assert list(found.reports) == reports

    @invariant()
    def every_byte_is_counted_and_named(self) -> None:
        store = self._service.store
        with store.reading() as connection:
            counted = recount(connection, store.blobs)
            for tenant in (*TENANTS, "carol"):
                mine = connection.scalars(sa.select(tables.sessions.c.session_id).filter_by(tenant=tenant)).all()
                expected = Usage(
                    len(mine),
                    sum(counted[each].bytes for each in mine),
                    sum(counted[each].steps for each in mine),
                )
                assert tenant_usage(connection, tenant) == expected
            assert not unnamed_blob_rows(connection)
            named = named_blobs(connection)
        assert set(store.blobs.digests()) <= named

    # Calls and their expected answers.

    def _create(self, tenant: str, request_id: str, arguments: Arguments) -> None:
        expected = self._model.answer_create(tenant, request_id, arguments)
        reply = self._reply(tenant, "CreateSession", [arguments.request(request_id, NAME)], expected)
        if reply is None:
            return
        created = service_pb.CreateSessionResponse.FromString(reply)
        known = self._model.same_request(tenant, request_id)
        if known is None:
            known = self._model.remember(tenant, request_id, arguments, created)
            self._meta_policy = created.session.meta_policy
            self._policies[created.policy.policy_id] = created.policy
        assert created.session == self._message(known)
        assert created.policy == self._policies[known.policy_ids[0]]

    def _upload(self, tenant: str, session: Session, upload_id: str, upload: Upload) -> None:
        expected = self._model.answer_upload(tenant, session.session_id, upload_id, upload)
        reply = self._reply(tenant, "UploadTrajectories", upload.messages(session.session_id, upload_id), expected)
        if reply is None:
            return
        acknowledged = service_pb.UploadTrajectoriesResponse.FromString(reply)
        if upload_id not in session.uploads:
            assert acknowledged.counted_as == session.accept(upload_id, upload)
            session.acknowledgements[upload_id] = acknowledged
            assert (acknowledged.upload_id, acknowledged.sha256) == (upload_id, upload.sha256)
            assert acknowledged.batch == session.batch()
        assert acknowledged == session.acknowledgements[upload_id]

    def _adapt(self, tenant: str, session: Session, index: int, sha256: str) -> None:
        expected = self._model.answer_adapt(tenant, session.session_id, index, sha256)
        request = service_pb.AdaptRequest(session_id=session.session_id, expected_round=index, batch_sha256=sha256)
        reply = self._reply(tenant, "Adapt", [request], expected)
        if reply is None:
            return
        step = service_pb.AdaptResponse.FromString(reply)
        if index == session.round:
            self._check_step(session, step)
            type(self).taken += 1
            session.steps.append(step)
            session.policy_ids.append(step.policy.policy_id)
            self._policies[step.policy.policy_id] = step.policy
        assert step == session.steps[index]

    def _take_round(self, tenant: str, session: Session, seeds: list[int]) -> None:
        for seed in seeds:
            upload_id = f"{session.round}/{len(session.uploads)}"
            self._upload(tenant, session, upload_id, self._collected(session, seed, session.round, stale=False))
        self._adapt(tenant, session, session.round, session.batch().sha256)

    def _reply(self, tenant: str, method: str, messages: list[Any], expected: Answer) -> bytes | None:
        """The reply of a call, checked against the expected answer; None where the answer is a refusal."""
        try:
            reply = self._service.call(
                method,
                [message.SerializeToString() for message in messages],
                [("authorization", f"Bearer theta_{tenant}")],
            )
        except RefusedError as refused:
            assert (refused.code, refused.reason) == expected, refused
            return None
        assert expected == OK
        return reply

    def _pages(self, tenant: str, size: int) -> Iterator[service_pb.Session]:
        token = ""
        while True:
            request = service_pb.ListSessionsRequest(page_size=size, page_token=token)
            reply = self._reply(tenant, "ListSessions", [request], OK)
            assert reply is not None
            page = service_pb.ListSessionsResponse.FromString(reply)
            yield from page.sessions
            token = page.next_page_token
            if not token:
                return

    def _drawn(self, data: st.DataObject) -> tuple[str, Session]:
        """A session and a caller: mostly an open session and its own tenant."""
        known = list(self._model.sessions.values())
        usable = [session for session in known if self._model.find(session.tenant, session.session_id)]
        usable = [session for session in usable if not session.closed] or known
        session = data.draw(st.sampled_from(usable) if data.draw(st.integers(0, 4)) else st.sampled_from(known))
        tenant = data.draw(st.sampled_from([session.tenant] * 5 + [each for each in TENANTS if each != session.tenant]))
        return tenant, session

    def _collected(self, session: Session, seed: int, index: int, stale: bool) -> Upload:
        """The trajectories of a session's round, determined by the seed."""
        policy = self._policies[session.policy_ids[0 if stale else -1]]
        payload = wire.pack(play(policy, np.random.default_rng(seed), trajectories=2, steps=4))
        return Upload(index, payload, 2, 8, policy.policy_id)

    def _message(self, session: Session) -> service_pb.Session:
        return session.message(self._meta_policy, self._model.now)

    def _check_step(self, session: Session, step: service_pb.AdaptResponse) -> None:
        """Checks the reply of a new step."""
        before = self._message(session)
        batch = session.batch()
        if step.policy.policy_id in session.policy_ids:
            assert step.policy == self._policies[step.policy.policy_id]
        else:
            assert step.policy.parent_id == session.policy_ids[-1]
        assert step.policy.onnx_sha256 == wire.sha256_hex(step.policy.onnx)
        report = step.report
        assert (report.round, report.trajectories, report.steps, report.batch_sha256) == (
            session.round,
            batch.trajectories,
            batch.steps,
            batch.sha256,
        )
        before.round, before.policy_id = session.round + 1, step.policy.policy_id
        # The best policy is one that episodes were uploaded for.
        assert 0 <= report.verdict.best_round <= session.round
        before.best_round = report.verdict.best_round
        before.best_policy_id = session.policy_ids[before.best_round]
        before.batch.Clear()
        before.batch.SetInParent()
        assert step.session == before

    def _take_again_in_another_order(self, session: Session) -> None:
        """Takes all rounds in a new session with the uploads in reverse order: θ′ is the same file."""
        if not session.steps:
            return
        reply = self._reply("carol", "CreateSession", [session.arguments.request(session.session_id, NAME)], OK)
        assert reply is not None
        again = service_pb.CreateSessionResponse.FromString(reply).session.session_id
        for index, step in enumerate(session.steps):
            for upload_id, upload in reversed(session.uploads.items()):
                if upload.round == index and upload_id in session.counting:
                    self._reply("carol", "UploadTrajectories", upload.messages(again, upload_id), OK)
            request = service_pb.AdaptRequest(
                session_id=again, expected_round=index, batch_sha256=session.batch(index).sha256
            )
            reply = self._reply("carol", "Adapt", [request], OK)
            assert reply is not None
            assert service_pb.AdaptResponse.FromString(reply).policy == step.policy
        self._reply("carol", "CloseSession", [service_pb.CloseSessionRequest(session_id=again)], OK)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_service_answers_as_the_model(tmp_path: Path) -> None:
    class Machine(SessionMachine):
        zoo = tmp_path
        taken = 0

    write_point_artifact(tmp_path)
    run_state_machine_as_test(Machine, settings=hypothesis.settings(max_examples=EXAMPLES, stateful_step_count=30))
    assert Machine.taken >= EXAMPLES
