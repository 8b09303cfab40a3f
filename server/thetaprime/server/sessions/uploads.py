"""What makes an upload count. Plain functions over the store; they block."""

import dataclasses
from typing import Final

import sqlalchemy as sa

from thetaprime import wire
from thetaprime.models import behavior_evidence, forward_pass, moving_parameters
from thetaprime.server import failpoints
from thetaprime.server.adaptation.precompute import precompute_step
from thetaprime.server.adaptation.step import PendingRound
from thetaprime.server.adaptation.step_inputs import StepInputs
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import (
    InvalidRequestError,
    PreconditionError,
    QuotaError,
    ReusedIdError,
    RoundMismatchError,
    shown,
)
from thetaprime.server.sessions import messages as convert
from thetaprime.server.sessions.policies import PolicyRecord, current_parameters, find_policy, session_entry
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch, count_as_kept, find_session, uploaded_batch
from thetaprime.server.sessions.sessions import check_id
from thetaprime.server.store import Store
from thetaprime.server.store.tables import sessions, uploads
from thetaprime.v1 import adaptation_service_pb2 as service_pb

_UPLOAD: Final = (
    sa.select(uploads)
    .join(sessions, sessions.c.session_id == uploads.c.session_id)
    .where(
        sessions.c.tenant == sa.bindparam("tenant"),
        uploads.c.session_id == sa.bindparam("session_id"),
        uploads.c.upload_id == sa.bindparam("upload_id"),
    )
)
_INSERT: Final = uploads.insert()


@dataclasses.dataclass(frozen=True)
class AdmittedUpload:
    """An upload whose payload may come.

    Attributes:
        tenant: whose it is.
        header: what it says about itself.
        session: where it belongs, as it was when the upload began.
        record: of the step that made the policy that its trajectories are to be of; None for θ.
        known: its row, where it has come before.
    """

    tenant: str
    header: service_pb.UploadHeader
    session: SessionRecord
    record: PolicyRecord | None = None
    known: sa.RowMapping | None = None


def admit_upload(store: Store, tenant: str, header: service_pb.UploadHeader) -> AdmittedUpload:
    """Refuses by its header an upload that could not count, before its payload is received.

    Raises:
        InvalidRequestError: the upload id is empty or too long.
        NotFoundError: there is no such session.
        PreconditionError: the session is closed.
        RoundMismatchError: it is at another round.
    """
    check_id(header.upload_id, "header.upload_id")
    with store.reading() as connection:
        session = find_session(connection, tenant, header.session_id, store.now())
        # One that has come before is acknowledged again, whatever has become of the session.
        known = _find_upload(connection, tenant, header)
        if known is not None:
            return AdmittedUpload(tenant, header, session, known=known)
        _require_current(session, header, store.now())
        record = find_policy(connection, session.session_id, session.round) if session.round else None
    return AdmittedUpload(tenant, header, session, record)


def accept_upload(
    store: Store,
    catalog: Catalog,
    config: ServerConfig,
    quotas: Quotas,
    upload: AdmittedUpload,
    payload: bytes,
    footer: service_pb.UploadFooter,
) -> service_pb.UploadTrajectoriesResponse:
    """Verifies a whole upload and makes it durable; one that came before gets the same acknowledgement.

    Raises:
        DigestMismatchError: the payload is not the one that the footer's digest stands for.
        WireError: a trajectory breaks the contract.
        InvalidRequestError: the footer's counts are not the payload's.
        ReusedIdError: the upload id came before with other content.
        QuotaError: a limit of the upload, of the round or of the tenant would be passed.
        PreconditionError: the session is closed, or the data is not the current policy's.
        RoundMismatchError: the session is at another round.
    """
    failpoints.reach("upload.received")
    digest = wire.sha256_hex(payload)
    if footer.sha256 != digest:
        raise wire.DigestMismatchError(
            "footer.sha256", f"{shown(footer.sha256)} was named; the payload that arrived has {digest}"
        )
    tenant, header = upload.tenant, upload.header
    if upload.known is not None:
        return _acknowledge_again(upload.known, header, digest)
    # What cannot be let in whatever else has come is not worth the work of verifying it.
    _extended(UploadedBatch(), digest, footer, config)
    with store.reading() as connection:
        quotas.require_room(connection, tenant, store.now(), size=len(payload), steps=footer.steps)
    entry = session_entry(catalog, upload.session)
    start = _checked(store, entry, upload.session, upload.record, payload, footer)
    _require_plausible(entry, start)
    failpoints.reach("upload.verified")

    # Tenants share blobs, unseen: none is ever asked for by its digest, only through a session's rows. That this one
    # was there already can be told by its speed alone, and only by who holds its every byte, noise of actions included.
    blobs = {digest: payload}
    store.prepare(blobs)
    with store.writing() as connection:
        known = _find_upload(connection, tenant, header)
        if known is not None:
            return _acknowledge_again(known, header, digest)
        now = store.now()
        session = find_session(connection, tenant, header.session_id, now)
        _require_current(session, header, now)
        quotas.require_room(connection, tenant, now, size=len(payload), steps=footer.steps)
        batch = _extended(uploaded_batch(connection, session), digest, footer, config)
        response = service_pb.UploadTrajectoriesResponse(
            upload_id=header.upload_id, sha256=digest, batch=convert.batch_message(batch)
        )
        row = {
            "session_id": header.session_id,
            "upload_id": header.upload_id,
            "round": header.round,
            "payload_sha256": digest,
            "trajectories": footer.trajectories,
            "steps": footer.steps,
            "acknowledgement": response.SerializeToString(),
        }
        connection.execute(_INSERT, row)
        count_as_kept(connection, session.session_id, size=len(payload), steps=footer.steps)
        store.keep(connection, blobs)
        failpoints.reach("upload.row")
    failpoints.reach("upload.committed")
    if batch.uploads == 1:
        precompute_step(store, entry, PendingRound(session, batch, upload.record), start)
    return response


def _find_upload(connection: sa.Connection, tenant: str, header: service_pb.UploadHeader) -> sa.RowMapping | None:
    named = {"tenant": tenant, "session_id": header.session_id, "upload_id": header.upload_id}
    return connection.execute(_UPLOAD, named).mappings().one_or_none()


def _acknowledge_again(
    known: sa.RowMapping, header: service_pb.UploadHeader, digest: str
) -> service_pb.UploadTrajectoriesResponse:
    if (known["payload_sha256"], known["round"]) != (digest, header.round):
        raise ReusedIdError(
            "UPLOAD_ID_REUSED",
            f"upload_id {shown(header.upload_id)} was acknowledged for payload {known['payload_sha256']} of round "
            f"{known['round']}; now payload {digest} of round {header.round} came",
        )
    return service_pb.UploadTrajectoriesResponse.FromString(known["acknowledgement"])


def _require_current(session: SessionRecord, header: service_pb.UploadHeader, now: int) -> None:
    session.require_open(now)
    if header.round != session.round:
        raise RoundMismatchError(header.round, session.round)


def _extended(
    batch: UploadedBatch, digest: str, footer: service_pb.UploadFooter, config: ServerConfig
) -> UploadedBatch:
    """The round's batch with the upload in it, if the limits allow."""
    extended = UploadedBatch(
        (*batch.payloads, digest), batch.trajectories + footer.trajectories, batch.steps + footer.steps
    )
    for reason, subject, came, limit in (
        ("TOO_MANY_TRAJECTORIES", "footer.trajectories", footer.trajectories, config.max_upload_trajectories),
        ("TOO_MANY_STEPS", "footer.steps", footer.steps, config.max_upload_steps),
        ("ROUND_FULL", "uploads of the round", extended.uploads, config.max_round_uploads),
        ("ROUND_FULL", "trajectories of the round", extended.trajectories, config.max_round_trajectories),
        ("ROUND_FULL", "steps of the round", extended.steps, config.max_round_steps),
    ):
        if came > limit:
            raise QuotaError(reason, subject, came, limit)
    return extended


def _checked(
    store: Store,
    entry: CatalogEntry,
    session: SessionRecord,
    record: PolicyRecord | None,
    payload: bytes,
    footer: service_pb.UploadFooter,
) -> StepInputs:
    """The trajectories, held against the contract and the footer, and the policy that is to have collected them."""
    trajectories: list[wire.Trajectory] = []
    steps = 0
    # The footer's counts are within the limits by now: to stop where they are passed is to stop at the limits.
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
    parameters = current_parameters(store, entry, record)
    batch = convert.trajectory_batch(trajectories)
    meta_policy = entry.meta_policy
    moving = moving_parameters(parameters, meta_policy.manifest.adaptation, meta_policy.step_sizes)
    forward = forward_pass(meta_policy.policy, parameters, batch, moving, layers=True)
    return StepInputs(parameters, batch, forward, forward.values, counts=(len(trajectories),))


def _require_plausible(entry: CatalogEntry, start: StepInputs) -> None:
    """Refuses trajectories whose actions the policy can hardly have chosen."""
    for doubt in behavior_evidence(entry.meta_policy.policy, start.parameters, start.batch, start.outputs):
        if doubt.trajectory is None:
            raise PreconditionError(doubt.reason, f"trajectories: {doubt.message}")
        raise PreconditionError(
            doubt.reason, f"trajectories[{doubt.trajectory}]: {doubt.message}", trajectory=doubt.trajectory
        )
