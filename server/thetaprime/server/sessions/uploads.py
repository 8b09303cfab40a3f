"""Admits, verifies and stores uploads. These functions block."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from thetaprime import wire
from thetaprime.models import (
    BehaviorMeasurement,
    ForwardPass,
    Parameters,
    TrajectoryBatch,
    forward_pass,
    measure_behavior,
    moving_parameters,
)
from thetaprime.server import failpoints
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry, require_gradient
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import (
    CorruptDataError,
    InvalidRequestError,
    PreconditionError,
    QuotaError,
    ReusedIdError,
    RoundMismatchError,
    shown,
)
from thetaprime.server.sessions.on_policy import UploadEvidence, refuse_upload
from thetaprime.server.sessions.policies import (
    PolicyRecord,
    current_parameters,
    find_upload_base,
    session_entry,
)
from thetaprime.server.sessions.room import with_expired_deleted
from thetaprime.server.sessions.rows import (
    ADDED_KEPT,
    KnownUpload,
    SessionRecord,
    UploadedBatch,
    check_id,
    find_round,
    set_doubt,
)
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.server.store.tables import sessions, uploads
from thetaprime.server.store.usage import upload_bytes
from thetaprime.server.store.writes import Writes, insert_row, row_values
from thetaprime.v1 import adaptation_service_pb2 as service_pb

_RECORD: Final = Writes(
    (
        sessions.update().where(sessions.c.session_id == sa.bindparam("session")).values(ADDED_KEPT),
        frozenset({"session", "more_bytes", "more_steps"}),
    ),
    (insert_row(uploads), frozenset(row_values(uploads, {}))),
)


@dataclasses.dataclass(frozen=True)
class AdmittedUpload:
    """An upload whose payload may be sent.

    Attributes:
        tenant: the caller's tenant.
        header: the upload's header.
        session: the session, as it was when the upload began.
        record: the step that made θ_k, which must have collected the trajectories; None for θ.
        previous: the step that made θ_{k−1}; None for θ, and in round 0.
        memories: what the session remembers of earlier rounds.
        known: the upload, where it was accepted before.
    """

    tenant: str
    header: service_pb.UploadHeader
    session: SessionRecord
    record: PolicyRecord | None = None
    previous: PolicyRecord | None = None
    memories: tuple[bytes | None, ...] = ()
    known: KnownUpload | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class VerifiedTrajectories:
    """The trajectories of one upload, and the forward pass that verified them.

    Attributes:
        parameters: θ_k, which collected them.
        trajectories: the trajectories.
        forward: θ_k run over them; one gradient may consume it.
        measurement: how the actions fit θ_k.
    """

    parameters: Parameters
    trajectories: TrajectoryBatch
    forward: ForwardPass
    measurement: BehaviorMeasurement


@dataclasses.dataclass(frozen=True, eq=False)
class NewUpload:
    """A new upload that counts, with all that a step on it needs.

    Attributes:
        session: its session.
        batch: the uploads of the round, this one included.
        record: the step that made θ_k; None for θ.
        memories: what the session remembers of earlier rounds.
        entry: the session's meta-policy.
        verified: its trajectories.
    """

    session: SessionRecord
    batch: UploadedBatch
    record: PolicyRecord | None
    memories: tuple[bytes | None, ...]
    entry: CatalogEntry
    verified: VerifiedTrajectories


@retried
def admit_upload(store: Store, catalog: Catalog, tenant: str, header: service_pb.UploadHeader) -> AdmittedUpload:
    """Checks an upload's header, before its payload is received.

    Raises:
        InvalidRequestError: the upload id is empty or too long.
        NotFoundError: the session does not exist.
        PreconditionError: the session is closed or expired, or its policy has a memory.
        RoundMismatchError: the session is at another round.
    """
    check_id(header.upload_id, "header.upload_id")
    with store.reading(snapshot=False) as connection:
        base = find_upload_base(connection, tenant, header.session_id, store.now(), header.upload_id)
    # A repeated upload is acknowledged again, also after its round was taken or its session was closed.
    if base.known is not None:
        return AdmittedUpload(tenant, header, base.session, known=base.known)
    _require_current(base.session, header, store.now())
    require_gradient(session_entry(catalog, base.session))
    return AdmittedUpload(tenant, header, base.session, base.record, base.previous, base.memories)


def accept_upload(
    store: Store,
    catalog: Catalog,
    config: ServerConfig,
    quotas: Quotas,
    upload: AdmittedUpload,
    payload: bytes,
    footer: service_pb.UploadFooter,
    *,
    on_counted: Callable[[NewUpload], object] = lambda upload: None,
) -> service_pb.UploadTrajectoriesResponse:
    """Verifies an upload, stores it durably, and returns its acknowledgement: the same for a repeated upload.

    Args:
        store: the store.
        catalog: the meta-policies.
        config: the limits.
        quotas: of the tenant.
        upload: the upload, admitted.
        payload: its trajectories.
        footer: what the client declared of them.
        on_counted: called with a new upload that counts, once all is done but the commit: a step on it may begin, and
            is of no use if the commit fails.

    Raises:
        DigestMismatchError: the payload does not have the footer's digest.
        WireError: a trajectory breaks the contract.
        InvalidRequestError: the footer's counts differ from the payload's.
        ReusedIdError: the upload id was used for another payload.
        QuotaError: the upload exceeds a limit of the upload, the round or the tenant.
        PreconditionError: the session is closed or expired; or θ_k did not collect the trajectories, or those of the
            round, this upload included.
        RoundMismatchError: the session is at another round.
    """
    failpoints.reach("upload.received")
    digest = wire.sha256_hex(payload)
    if footer.sha256 != digest:
        raise wire.DigestMismatchError(
            "footer.sha256", f"{shown(footer.sha256)} was declared; the payload that arrived has {digest}"
        )
    tenant, header = upload.tenant, upload.header
    if upload.known is not None:
        return _acknowledge_again(upload.known, header, digest)
    # Verification is expensive: first refuse an upload that exceeds the limits by itself.
    _extended_batch(UploadedBatch(), digest, footer, config)
    if quotas.limit_storage:
        size, steps = len(payload), footer.steps
        with_expired_deleted(store, tenant, lambda: _require_room_early(store, quotas, tenant, size, steps))
    entry = session_entry(catalog, upload.session)
    verified = _verified_trajectories(store, entry, upload, _unpacked(entry, upload.session, payload, footer))
    failpoints.reach("upload.verified")

    begun: list[NewUpload] = []

    def begin_once(new: NewUpload) -> None:
        # The step consumes the forward pass; a repeated transaction has no other.
        if not begun:
            begun.append(new)
            on_counted(new)

    return _store_upload(store, config, quotas, upload, entry, verified, digest, payload, footer, begin_once)


@retried
def _store_upload(
    store: Store,
    config: ServerConfig,
    quotas: Quotas,
    upload: AdmittedUpload,
    entry: CatalogEntry,
    verified: VerifiedTrajectories,
    digest: str,
    payload: bytes,
    footer: service_pb.UploadFooter,
    on_counted: Callable[[NewUpload], object],
) -> service_pb.UploadTrajectoriesResponse:
    """Records a verified upload, if the round still takes it."""
    tenant, header = upload.tenant, upload.header
    # Tenants share blobs without seeing it: a blob is only read through the rows of a session. Whether this one existed
    # shows in the upload's speed alone, and only to a sender of its every byte, noise of actions included.
    blobs = {digest: payload}
    with store.storing(blobs, tenant) as connection:
        now = store.now()
        session, before, known = find_round(connection, tenant, header.session_id, now, header.upload_id)
        if known is not None:
            return _acknowledge_again(known, header, digest)
        _require_current(session, header, now)
        counted_as = None if header.count_again else before.upload_with(digest)
        batch = before
        refusal = None
        if counted_as is not None:
            _require_place(before, config)
        else:
            batch = _extended_batch(before, digest, footer, config)
            refusal = refuse_upload(before, verified.measurement, header.upload_id, repeats=header.count_again)
        if refusal is None:
            acknowledgement = service_pb.UploadTrajectoriesResponse(
                upload_id=header.upload_id, sha256=digest, batch=batch.message(), counted_as=counted_as or ""
            )
            row = {
                "session_id": header.session_id,
                "upload_id": header.upload_id,
                "round": header.round,
                "payload_sha256": digest,
                "trajectories": footer.trajectories,
                "steps": footer.steps,
                "acknowledgement": acknowledgement.SerializeToString(),
                "counted": counted_as is None,
                "evidence": UploadEvidence.of(verified.measurement).pack() if counted_as is None else None,
            }
            placed = store.place(connection, blobs)
            size = upload_bytes(row) + placed.bytes
            # The round's policy has its room from the first upload on: `Adapt` is never refused for it.
            size += session.policy_bytes if before.uploads + before.uncounted == 0 else 0
            quotas.require_room(connection, tenant, size=size, steps=footer.steps)
            kept = {"session": session.session_id, "more_bytes": size, "more_steps": footer.steps}
            _RECORD.execute(connection, {**kept, **row_values(uploads, row)}, next(iter(placed.rows), None))
            if counted_as is None:
                on_counted(NewUpload(session, batch, upload.record, upload.memories, entry, verified))
            failpoints.reach("upload.row")
        elif refusal.round_doubt is not None:
            set_doubt(connection, session.session_id, refusal.round_doubt)
    if refusal is not None:
        raise refusal.error
    failpoints.reach("upload.committed")
    return acknowledgement


@retried
def _require_room_early(store: Store, quotas: Quotas, tenant: str, size: int, steps: int) -> None:
    """Checks that the quotas have room for the payload, before it is verified; its rows are counted later."""
    with store.reading() as connection:
        quotas.require_room(connection, tenant, size=size, steps=steps)


def trajectory_batch(trajectories: Sequence[wire.Trajectory]) -> TrajectoryBatch:
    """Returns trajectories of one round in the form that a step takes."""
    return TrajectoryBatch.concatenate(
        observations=[each.observations for each in trajectories],
        actions=[each.actions for each in trajectories],
        rewards=[each.rewards for each in trajectories],
        terminated=[each.terminated for each in trajectories],
        final_observations=[each.final_observation for each in trajectories],
    )


def _acknowledge_again(
    known: KnownUpload, header: service_pb.UploadHeader, digest: str
) -> service_pb.UploadTrajectoriesResponse:
    if (known.payload_sha256, known.round) != (digest, header.round):
        raise ReusedIdError(
            "UPLOAD_ID_REUSED",
            f"upload_id {shown(header.upload_id)} was acknowledged for payload {known.payload_sha256} of round "
            f"{known.round}; now payload {digest} of round {header.round} came",
        )
    acknowledgement = service_pb.UploadTrajectoriesResponse.FromString(known.acknowledgement)
    if known.counted is False and not acknowledgement.counted_as:
        raise PreconditionError(
            "UPLOAD_DISCARDED",
            f"upload_id {shown(header.upload_id)} was discarded; send the content under another id to count it",
        )
    return acknowledgement


def _require_current(session: SessionRecord, header: service_pb.UploadHeader, now: int) -> None:
    session.require_open(now)
    if header.round != session.round:
        raise RoundMismatchError(header.round, session.round)
    session.require_plausible()


def _extended_batch(
    batch: UploadedBatch, digest: str, footer: service_pb.UploadFooter, config: ServerConfig
) -> UploadedBatch:
    """Returns the round's batch with the upload added, if the limits allow the upload."""
    extended = dataclasses.replace(
        batch,
        payloads=(*batch.payloads, digest),
        trajectories=batch.trajectories + footer.trajectories,
        steps=batch.steps + footer.steps,
    )
    _require_place(batch, config)
    for reason, subject, came, limit in (
        ("TOO_MANY_TRAJECTORIES", "footer.trajectories", footer.trajectories, config.max_upload_trajectories),
        ("TOO_MANY_STEPS", "footer.steps", footer.steps, config.max_upload_steps),
        ("ROUND_FULL", "trajectories of the round", extended.trajectories, config.max_round_trajectories),
        ("ROUND_FULL", "steps of the round", extended.steps, config.max_round_steps),
    ):
        if came > limit:
            raise QuotaError(reason, subject, came, limit)
    return extended


def _require_place(batch: UploadedBatch, config: ServerConfig) -> None:
    """Checks that the round takes one more upload, whether it counts or not."""
    came = batch.uploads + batch.uncounted + 1
    if came > config.max_round_uploads:
        raise QuotaError("ROUND_FULL", "uploads of the round", came, config.max_round_uploads)


def _unpacked(
    entry: CatalogEntry, session: SessionRecord, payload: bytes, footer: service_pb.UploadFooter
) -> list[wire.Trajectory]:
    """Returns the payload's trajectories, checked against the contract, the current policy and the footer's counts."""
    trajectories: list[wire.Trajectory] = []
    steps = 0
    # The footer's counts are within the limits: stopping at the counts bounds the memory.
    for index, trajectory in enumerate(wire.unpack(payload)):
        if index >= footer.trajectories:
            raise InvalidRequestError("footer.trajectories", f"{index} declared; the payload holds more")
        wire.validate(trajectory, entry.contract, f"trajectories[{index}]")
        if trajectory.policy_id != session.policy_id:
            raise PreconditionError(
                "STALE_POLICY",
                f"trajectories[{index}].policy_id is {shown(trajectory.policy_id)}; round {session.round} collects "
                f"with {session.policy_id}",
                trajectory=index,
                expected=session.policy_id,
            )
        steps += len(trajectory)
        if steps > footer.steps:
            raise InvalidRequestError("footer.steps", f"{footer.steps} declared; the payload holds more")
        trajectories.append(trajectory)
    if len(trajectories) != footer.trajectories:
        raise InvalidRequestError(
            "footer.trajectories", f"{footer.trajectories} declared; the payload holds {len(trajectories)}"
        )
    if steps != footer.steps:
        raise InvalidRequestError("footer.steps", f"{footer.steps} declared; the payload holds {steps}")
    return trajectories


def _verified_trajectories(
    store: Store, entry: CatalogEntry, upload: AdmittedUpload, trajectories: Sequence[wire.Trajectory]
) -> VerifiedTrajectories:
    """Runs θ_k over the trajectories, and measures how their actions fit it."""
    meta_policy = entry.meta_policy
    parameters = current_parameters(store, entry, upload.record)
    batch = trajectory_batch(trajectories)
    moving = moving_parameters(parameters, meta_policy.manifest.adaptation, meta_policy.step_sizes)
    forward = forward_pass(meta_policy.policy, parameters, batch, moving)
    earlier = list(_earlier_parameters(store, entry, upload))
    measurement = measure_behavior(meta_policy.policy, parameters, batch, forward.values, earlier)
    return VerifiedTrajectories(parameters, batch, forward, measurement)


def _earlier_parameters(store: Store, entry: CatalogEntry, upload: AdmittedUpload) -> Iterator[Parameters]:
    """Yields θ_{k−1} and θ, where they differ from θ_k: a collector that was not updated acts with one of them."""
    session = upload.session
    if upload.previous is not None and upload.previous.description.policy_id != session.policy_id:
        # The upload does not depend on θ_{k−1}: a damaged file makes the test weaker, and no more.
        with contextlib.suppress(CorruptDataError):
            yield current_parameters(store, entry, upload.previous)
    if upload.record is not None and session.policy_id != session.theta_id:
        yield entry.meta_policy.parameters
