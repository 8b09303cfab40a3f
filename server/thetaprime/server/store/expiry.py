"""Deletes the uploads of a session when it expires, and its policies at its delete time."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import Blobs
from thetaprime.server.store.locks import lock_blobs
from thetaprime.server.store.usage import recount

# Sessions of one transaction: other writers wait for it.
_BATCH: Final = 200
_sessions, _uploads, _policies = tables.sessions, tables.uploads, tables.policies

# Built once: building a statement takes as long as running it.
_IS_NAMED: Final = sa.select(
    sa.or_(*(sa.exists().where(column == sa.bindparam("digest")) for column in tables.BLOB_COLUMNS))
)
_DELETE_BLOB: Final = tables.blobs.delete().where(tables.blobs.c.sha256 == sa.bindparam("digest"))
_UNNAMED: Final = sa.select(tables.blobs.c.sha256).where(
    *(~sa.exists().where(column == tables.blobs.c.sha256) for column in tables.BLOB_COLUMNS)
)


@dataclasses.dataclass(frozen=True)
class SweptSession:
    """A session of which a sweep deleted something.

    Attributes:
        action: ``expired``: its uploads were deleted, and the session too where it had no policies. ``deleted``: its
            policies and the session were deleted.
        tenant: its tenant.
        session_id: its id.
        round: number of its policies.
        policy_id: policy id of the last one.
    """

    action: Literal["expired", "deleted"]
    tenant: str
    session_id: str
    round: int
    policy_id: str


def sweep_some(connection: sa.Connection, blobs: Blobs, now: int, tenants: Collection[str]) -> list[SweptSession]:
    """Deletes the data of up to a few hundred expired sessions, in a writing transaction.

    Args:
        connection: the transaction's connection.
        blobs: the large blobs.
        now: microseconds since 1970.
        tenants: whose sessions.

    Returns:
        The sessions; empty where nothing is left to delete.
    """
    deleted = _select(connection, _sessions.c.delete_time <= now, tenants)
    # A session without policies ends when it expires.
    deleted = [each if each.round else dataclasses.replace(each, action="expired") for each in deleted]
    gone = set(_ids(deleted))
    expired = [
        dataclasses.replace(each, action="expired")
        for each in _select(connection, _has_expired(now), tenants)
        if each.session_id not in gone
    ]
    with_policies = [each for each in expired if each.round]
    whole = [*(each for each in expired if not each.round), *deleted]
    delete_sessions(connection, blobs, whole)
    digests = _blobs_of(connection, with_policies, [_uploads.c.payload_sha256])
    connection.execute(_uploads.delete().where(_uploads.c.session_id.in_(_ids(with_policies))))
    for session_id, usage in recount(connection, blobs, _ids(with_policies)).items():
        kept = {"kept_bytes": usage.bytes, "kept_steps": usage.steps}
        connection.execute(_sessions.update().where(_sessions.c.session_id == session_id).values(kept))
    failpoints.reach("sweep.rows")
    release(connection, blobs, digests)
    return [*whole, *with_policies]


def may_sweep(connection: sa.Connection, now: int, tenant: str) -> bool:
    """Returns whether a tenant has a session from which `sweep_some` would delete something."""
    return any(_select(connection, each, [tenant]) for each in (_sessions.c.delete_time <= now, _has_expired(now)))


def tenants_to_sweep(connection: sa.Connection, now: int) -> list[str]:
    """Returns up to a few hundred tenants that have sessions from which `sweep_some` would delete something."""
    conditions = (_sessions.c.delete_time <= now, _has_expired(now))
    queries = [sa.select(_sessions.c.tenant).where(each).limit(_BATCH) for each in conditions]
    return sorted({tenant for query in queries for tenant in connection.scalars(query)})


def delete_sessions(connection: sa.Connection, blobs: Blobs, swept: Sequence[SweptSession]) -> None:
    """Deletes sessions with their uploads and policies, in a writing transaction.

    Every deletion of a session comes through here: a session that is deleted alone leaves its blobs behind.
    """
    digests = _blobs_of(connection, swept, tables.BLOB_COLUMNS)
    connection.execute(_sessions.delete().where(_sessions.c.session_id.in_(_ids(swept))))
    failpoints.reach("sweep.rows")
    release(connection, blobs, digests)


def release(connection: sa.Connection, blobs: Blobs, digests: Iterable[str]) -> None:
    """Deletes the blobs that no row names, in a writing transaction: its locks keep new rows away."""
    digests = list(digests)
    lock_blobs(connection, digests)
    for digest in digests:
        if not is_named(connection, digest):
            connection.execute(_DELETE_BLOB, {"digest": digest})
            blobs.delete(digest)
            failpoints.reach("sweep.blob")


def is_named(connection: sa.Connection, digest: str) -> bool:
    """Returns whether an upload or a policy names a blob."""
    return bool(connection.scalar(_IS_NAMED, {"digest": digest}))


def unnamed_blob_rows(connection: sa.Connection) -> list[str]:
    """Returns the digests of the blobs in rows that no upload and no policy names."""
    return list(connection.scalars(_UNNAMED))


def named_blobs(connection: sa.Connection) -> set[str]:
    """Returns the digests that an upload or a policy names."""
    return {digest for column in tables.BLOB_COLUMNS for digest in connection.scalars(sa.select(column))}


def _has_expired(now: int) -> sa.ColumnElement[bool]:
    return sa.and_(_sessions.c.expire_time <= now, tables.HAS_UPLOADS_OR_NO_POLICY)


def _select(
    connection: sa.Connection, condition: sa.ColumnElement[bool], tenants: Collection[str]
) -> list[SweptSession]:
    columns = (_sessions.c.tenant, _sessions.c.session_id, _sessions.c.round, _sessions.c.policy_id)
    query = sa.select(*columns).where(condition, _sessions.c.tenant.in_(tenants)).limit(_BATCH)
    return [SweptSession("deleted", *row) for row in connection.execute(query)]


def _ids(swept: Sequence[SweptSession]) -> list[str]:
    return [each.session_id for each in swept]


def _blobs_of(
    connection: sa.Connection, swept: Sequence[SweptSession], columns: Sequence["sa.Column[str]"]
) -> set[str]:
    digests: set[str] = set()
    for column in columns:
        digests.update(connection.scalars(sa.select(column).where(column.table.c.session_id.in_(_ids(swept)))))
    return digests
