"""Creates, reads, lists and closes sessions. These functions block."""

import base64
import binascii
import dataclasses
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from google.protobuf import json_format

from thetaprime.server import failpoints
from thetaprime.server.auth import audit
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry, require_readable
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import InvalidRequestError, QuotaError, ReusedIdError, UnavailableError, shown
from thetaprime.server.sessions.policies import session_entry
from thetaprime.server.sessions.room import with_expired_deleted
from thetaprime.server.sessions.rows import (
    SESSION_COLUMNS,
    SessionRecord,
    UploadedBatch,
    check_id,
    find_round,
    find_session,
    uploaded_batch,
    uploaded_batches,
)
from thetaprime.server.store import Store, SweptSession
from thetaprime.server.store.clock import may_delete_expired, seconds_since_sweep
from thetaprime.server.store.retries import retried
from thetaprime.server.store.tables import is_readable, policies, sessions
from thetaprime.server.store.usage import expected_policy_bytes, row_bytes
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2
from thetaprime.wire import sha256_hex

_MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 100
_MORE_OPTIONS: Final = ("caution", "reward_scale", "reward_offset", "max_kl")


@dataclasses.dataclass(frozen=True)
class CreateArguments:
    """The arguments of `CreateSession`.

    Attributes:
        meta_policy: name of the meta-policy.
        meta_policy_version: its version; 0 for the newest.
        step_size_scale: factor on every inner step size; None for 1.
        ttl: microseconds to expiry; None for the server's default.
        caution: as on the wire; 0 for the default.
        reward_scale: scale of the task's rewards relative to meta-training; None for unknown.
        reward_offset: offset of the task's rewards; None for unknown.
        max_kl: longest step, in nats; None for no limit.
    """

    meta_policy: str
    meta_policy_version: int
    step_size_scale: float | None
    ttl: int | None
    caution: int = 0
    reward_scale: float | None = None
    reward_offset: float | None = None
    max_kl: float | None = None
    onnx_contract: int = 0

    def check(self, config: ServerConfig) -> None:
        """Validates the arguments.

        Raises:
            InvalidRequestError: a field is out of range.
        """
        if self.meta_policy_version < 0:
            raise InvalidRequestError("meta_policy_version", f"{self.meta_policy_version}; expected 0 or more")
        for name in ("step_size_scale", "reward_scale", "max_kl"):
            value: float | None = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidRequestError(f"options.{name}", f"{value}; expected a finite number above 0")
        if self.reward_offset is not None and not math.isfinite(self.reward_offset):
            raise InvalidRequestError("options.reward_offset", f"{self.reward_offset}; expected a finite number")
        if self.caution not in service_pb.Caution.values():
            known = ", ".join(f"{number} ({name})" for name, number in service_pb.Caution.items())
            raise InvalidRequestError("options.caution", f"{self.caution}; expected one of {known}")
        if self.ttl is not None and not 0 < self.ttl <= config.max_ttl * 1e6:
            raise InvalidRequestError(
                "ttl", f"{self.ttl / 1e6:g} s; expected more than 0 and at most {config.max_ttl:g} s"
            )

    @property
    def sha256(self) -> str:
        """Digest of the arguments."""
        # Options that are not set leave the digest of servers that did not know them: a retried request may meet one.
        first = [self.meta_policy, self.meta_policy_version, self.step_size_scale, self.ttl]
        more = self.more_options
        return sha256_hex(json.dumps(first if more is None else [*first, more]).encode())

    @property
    def more_options(self) -> str | None:
        """The options but the scale of the step sizes, as a session's row keeps them."""
        more = {name: value for name in _MORE_OPTIONS if (value := getattr(self, name))}
        if not more:
            return None
        return json_format.MessageToJson(
            service_pb.SessionOptions(**more), preserving_proto_field_name=True, indent=None
        )


def create_session(
    store: Store,
    catalog: Catalog,
    config: ServerConfig,
    quotas: Quotas,
    tenant: str,
    request_id: str,
    arguments: CreateArguments,
) -> tuple[SessionRecord, UploadedBatch, policy_pb2.Policy]:
    """Creates a session. A repeated request of the tenant returns the session that it created.

    Returns:
        The session, the uploads of its current round, and θ.

    Raises:
        InvalidRequestError: an argument is out of range.
        ReusedIdError: the request id was used with other arguments.
        NotFoundError: the meta-policy does not exist.
        QuotaError: the tenant, or the server, has too many open sessions.
        PreconditionError: the client cannot read the policy's file; or the session exists, and its meta-policy has left
            the catalog.
    """
    check_id(request_id, "request_id")
    arguments.check(config)
    session, batch = with_expired_deleted(
        store,
        tenant,
        lambda: _found_or_created(store, catalog, config, quotas, tenant, request_id, arguments),
    )
    # Another process may have created the session from a version that this one has not seen: after the transaction,
    # since the catalog then scans its folders.
    theta = session_entry(catalog, session).theta
    require_readable(theta, arguments.onnx_contract)
    return session, batch, theta


@retried
def _found_or_created(
    store: Store,
    catalog: Catalog,
    config: ServerConfig,
    quotas: Quotas,
    tenant: str,
    request_id: str,
    arguments: CreateArguments,
) -> tuple[SessionRecord, UploadedBatch]:
    with store.writing(tenant) as connection:
        now = store.now()
        same_request = sa.and_(sessions.c.tenant == tenant, sessions.c.request_id == request_id)
        row = connection.execute(sa.select(sessions).where(same_request)).mappings().one_or_none()
        replaced: SweptSession | None = None
        if row is not None and _is_readable(session := SessionRecord(**row), now):
            if session.request_sha256 != arguments.sha256:
                raise ReusedIdError(
                    "REQUEST_ID_REUSED", f"request_id {shown(request_id)} created a session with other arguments"
                )
            return session, uploaded_batch(connection, session)
        if row is not None:
            _require_trusted_clock(connection, now, request_id)
            replaced = SweptSession(
                "deleted" if session.round else "expired", tenant, session.session_id, session.round, session.policy_id
            )
            store.delete_sessions(connection, [replaced])
        entry = catalog.find(arguments.meta_policy, arguments.meta_policy_version)
        require_readable(entry.theta, arguments.onnx_contract)
        quotas.require_session(connection, tenant, now)
        _require_room(connection, now, config.max_sessions)
        ttl = arguments.ttl or round(config.default_ttl * 1e6)
        session = SessionRecord(
            session_id=uuid.uuid4().hex,
            tenant=tenant,
            request_id=request_id,
            request_sha256=arguments.sha256,
            meta_policy=entry.message.name,
            meta_policy_version=entry.message.version,
            theta_id=entry.message.policy_id,
            step_size_scale=arguments.step_size_scale,
            closed=False,
            round=0,
            policy_id=entry.message.policy_id,
            create_time=now,
            expire_time=now + ttl,
            delete_time=now + ttl + round(config.keep_policies * 1e6),
            options=arguments.more_options,
            best_round=0,
            best_policy_id=entry.message.policy_id,
        )
        session = dataclasses.replace(session, policy_bytes=_policy_bytes(store, entry, session))
        session = dataclasses.replace(session, kept_bytes=row_bytes(sessions, dataclasses.asdict(session)))
        quotas.require_room(connection, tenant, size=session.kept_bytes)
        connection.execute(sessions.insert().values(dataclasses.asdict(session)))
        failpoints.reach("create.row")
    failpoints.reach("create.committed")
    if replaced is not None:
        audit.record_end(replaced)
    return session, UploadedBatch()


@retried
def get_session(
    store: Store, tenant: str, session_id: str
) -> tuple[SessionRecord, UploadedBatch, Sequence[service_pb.AdaptationReport]]:
    """Returns a session, the uploads of its current round, and its reports; only the last report has shares.

    Raises:
        NotFoundError: the session does not exist.
    """
    with store.reading() as connection:
        session, batch, _ = find_round(connection, tenant, session_id, store.now())
        query = (
            sa.select(policies.c.report)
            .where(policies.c.session_id == session_id, policies.c.round <= session.round)
            .order_by(policies.c.round)
        )
        reports = [service_pb.AdaptationReport.FromString(report) for report in connection.scalars(query)]
    for report in reports[:-1]:
        # The shares of many rounds would exceed the size of one message.
        report.ClearField("uploads")
    return session, batch, reports


@retried
def list_sessions(
    store: Store, tenant: str, page_size: int, page_token: str
) -> tuple[Sequence[SessionRecord], Mapping[str, UploadedBatch], str]:
    """Returns one page of a tenant's sessions, newest first.

    Args:
        store: the store.
        tenant: the tenant.
        page_size: maximum number of sessions; 0 for the default.
        page_token: token from the previous page; empty for the first page.

    Returns:
        The sessions, the uploads of their current rounds by session id, and the next page's token (empty after the last
        page).

    Raises:
        InvalidRequestError: the size is negative, or the token is not from this server.
    """
    if page_size < 0:
        raise InvalidRequestError("page_size", f"{page_size}; expected 0 to {_MAX_PAGE}")
    size = min(page_size or _DEFAULT_PAGE, _MAX_PAGE)
    query = sa.select(*SESSION_COLUMNS).where(sessions.c.tenant == tenant, is_readable(store.now()))
    if page_token:
        before = sa.tuple_(*(sa.literal(value) for value in read_token(page_token)))
        query = query.where(sa.tuple_(sessions.c.create_time, sessions.c.session_id) < before)
    query = query.order_by(sessions.c.create_time.desc(), sessions.c.session_id.desc()).limit(size + 1)
    with store.reading() as connection:
        rows = [SessionRecord(*row) for row in connection.execute(query)]
        page = rows[:size]
        batches = uploaded_batches(connection, page)
    return page, batches, _write_token(page[-1]) if len(rows) > size else ""


@retried
def close_session(store: Store, tenant: str, session_id: str) -> tuple[SessionRecord, UploadedBatch]:
    """Closes a session; a closed session stays closed.

    Raises:
        NotFoundError: the session does not exist.
    """
    with store.writing(tenant) as connection:
        session = find_session(connection, tenant, session_id, store.now())
        connection.execute(sessions.update().where(sessions.c.session_id == session_id).values(closed=True))
        return dataclasses.replace(session, closed=True), uploaded_batch(connection, session)


def _is_readable(session: SessionRecord, now: int) -> bool:
    return session.expire_time > now or (session.round > 0 and session.delete_time > now)


def _policy_bytes(store: Store, entry: CatalogEntry, session: SessionRecord) -> int:
    """Returns the bytes that a policy of a session will take: those of θ, which has the same template."""
    theta = policy_pb2.Policy()
    theta.CopyFrom(entry.theta)
    theta.ClearField("onnx")
    size = len(entry.theta.onnx)
    return expected_policy_bytes(session.session_id, theta.SerializeToString(), size, is_row=store.is_row(size))


def _require_trusted_clock(connection: sa.Connection, now: int, request_id: str) -> None:
    """Checks that the clock may delete the expired session of a request id."""
    if not may_delete_expired(connection, now):
        hours = seconds_since_sweep(connection, now) / 3600
        raise UnavailableError(
            f"the session of request_id {shown(request_id)} has expired by a clock that is {hours:.1f} hours ahead of "
            "the server's last sweep, and is kept until the clock is trusted; use another request_id, or retry later",
            retry_after=60.0,
        )


def _require_room(connection: sa.Connection, now: int, limit: int) -> None:
    is_open = (sessions.c.closed.is_(False), sessions.c.expire_time > now)
    count = connection.scalar(sa.select(sa.func.count()).select_from(sessions).where(*is_open)) or 0
    if count >= limit:
        raise QuotaError("TOO_MANY_SESSIONS", "open sessions", count + 1, limit)


def _write_token(last: SessionRecord) -> str:
    return base64.urlsafe_b64encode(f"{last.create_time}.{last.session_id}".encode()).decode()


def read_token(token: str) -> tuple[int, str]:
    """Returns creation time and id of the previous page's last session.

    Raises:
        InvalidRequestError: the token is not from this server.
    """
    try:
        time, _, session_id = base64.urlsafe_b64decode(token).decode().partition(".")
        # Packing refuses a time outside the 64-bit range of the column.
        return int.from_bytes(int(time).to_bytes(8, signed=True), signed=True), session_id
    except (binascii.Error, ValueError, OverflowError) as error:
        raise InvalidRequestError("page_token", f"{shown(token)} is not a next_page_token of this server") from error
