"""Deletes the uploads of a session when it expires, and its policies at its delete time."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore

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


def sweep_some(connection: sa.Connection, blobs: BlobStore, now: int) -> list[SweptSession]:
    """Deletes the data of up to a few hundred expired sessions, in a writing transaction.

    Args:
        connection: the transaction's connection.
        blobs: the large blobs.
        now: microseconds since 1970.

    Returns:
        The sessions; empty where nothing is left to delete.
    """
    expired, kept = _sessions.c.expire_time <= now, _sessions.c.delete_time > now
    whole = [
        *_select(connection, "expired", expired & (_sessions.c.round == 0)),
        *_select(connection, "deleted", ~kept & expired & (_sessions.c.round > 0)),
    ]
    # Every upload has steps: without steps left, the session's uploads were deleted before.
    with_policies = _select(
        connection, "expired", expired & kept & (_sessions.c.round > 0) & (_sessions.c.kept_steps > 0)
    )
    delete_sessions(connection, blobs, whole)
    digests = _blobs_of(connection, with_policies, [_uploads.c.payload_sha256])
    connection.execute(_uploads.delete().where(_uploads.c.session_id.in_(_ids(with_policies))))
    for each in with_policies:
        policies = _blobs_of(connection, [each], [_policies.c.onnx_sha256])
        size = sum(_size(connection, blobs, digest) for digest in policies)
        is_session = _sessions.c.session_id == each.session_id
        connection.execute(_sessions.update().where(is_session).values(kept_bytes=size, kept_steps=0))
    failpoints.reach("sweep.rows")
    release(connection, blobs, digests)
    return [*whole, *with_policies]


def delete_sessions(connection: sa.Connection, blobs: BlobStore, swept: Sequence[SweptSession]) -> None:
    """Deletes sessions with their uploads and policies, in a writing transaction.

    Every deletion of a session comes through here: a session that is deleted alone leaves its blobs behind.
    """
    digests = _blobs_of(connection, swept, tables.BLOB_COLUMNS)
    connection.execute(_sessions.delete().where(_sessions.c.session_id.in_(_ids(swept))))
    failpoints.reach("sweep.rows")
    release(connection, blobs, digests)


def release(connection: sa.Connection, blobs: BlobStore, digests: Iterable[str]) -> None:
    """Deletes the blobs that no row names, in a writing transaction: its lock keeps new rows away."""
    for digest in digests:
        if not connection.scalar(_IS_NAMED, {"digest": digest}):
            connection.execute(_DELETE_BLOB, {"digest": digest})
            blobs.delete(digest)
            failpoints.reach("sweep.blob")


def unnamed_blob_rows(connection: sa.Connection) -> list[str]:
    """Returns the digests of the blobs in rows that no upload and no policy names."""
    return list(connection.scalars(_UNNAMED))


def named_blobs(connection: sa.Connection) -> set[str]:
    """Returns the digests that an upload or a policy names."""
    return {digest for column in tables.BLOB_COLUMNS for digest in connection.scalars(sa.select(column))}


def _select(
    connection: sa.Connection, action: Literal["expired", "deleted"], condition: sa.ColumnElement[bool]
) -> list[SweptSession]:
    columns = (_sessions.c.tenant, _sessions.c.session_id, _sessions.c.round, _sessions.c.policy_id)
    rows = connection.execute(sa.select(*columns).where(condition).limit(_BATCH))
    return [SweptSession(action, *row) for row in rows]


def _ids(swept: Sequence[SweptSession]) -> list[str]:
    return [each.session_id for each in swept]


def _blobs_of(
    connection: sa.Connection, swept: Sequence[SweptSession], columns: Sequence["sa.Column[str]"]
) -> set[str]:
    digests: set[str] = set()
    for column in columns:
        digests.update(connection.scalars(sa.select(column).where(column.table.c.session_id.in_(_ids(swept)))))
    return digests


def _size(connection: sa.Connection, blobs: BlobStore, digest: str) -> int:
    row = sa.select(sa.func.length(tables.blobs.c.data)).where(tables.blobs.c.sha256 == digest)
    return connection.scalar(row) or blobs.size(digest)
