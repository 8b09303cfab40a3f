"""What goes when a session has expired: at once what was uploaded, and at its end what it made."""

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore

# Of one transaction: others wait while it lasts.
_SESSIONS: Final = 200
_sessions, _uploads, _policies = tables.sessions, tables.uploads, tables.policies


@dataclasses.dataclass(frozen=True)
class SweptSession:
    """What became of a session.

    Attributes:
        what: ``expired``: it is gone, or its uploads are and its policies are kept. ``deleted``: they went too.
        tenant: whose it was.
        session_id: its name.
        round: how many policies it had made.
        policy_id: of the last one.
    """

    what: Literal["expired", "deleted"]
    tenant: str
    session_id: str
    round: int
    policy_id: str


def sweep_some(connection: sa.Connection, blobs: BlobStore, now: int) -> list[SweptSession]:
    """Clears out some of what nobody can ask for any more, within a writing transaction.

    Args:
        connection: of the transaction.
        blobs: the large ones.
        now: microseconds since 1970.

    Returns:
        Whose it was; empty where nothing is left to clear out.
    """
    expired, kept = _sessions.c.expire_time <= now, _sessions.c.delete_time > now
    gone = [
        *_found(connection, "expired", expired & (_sessions.c.round == 0)),
        *_found(connection, "deleted", ~kept & expired & (_sessions.c.round > 0)),
    ]
    # An upload has steps: a session that has none left has been here before.
    ended = _found(connection, "expired", expired & kept & (_sessions.c.round > 0) & (_sessions.c.kept_steps > 0))
    digests = _blobs_of(connection, gone, tables.BLOB_COLUMNS) | _blobs_of(
        connection, ended, [_uploads.c.payload_sha256]
    )
    connection.execute(_sessions.delete().where(_sessions.c.session_id.in_(_names(gone))))
    connection.execute(_uploads.delete().where(_uploads.c.session_id.in_(_names(ended))))
    for each in ended:
        size = sum(
            _size(connection, blobs, digest) for digest in _blobs_of(connection, [each], [_policies.c.onnx_sha256])
        )
        own = _sessions.c.session_id == each.session_id
        connection.execute(_sessions.update().where(own).values(kept_bytes=size, kept_steps=0))
    failpoints.reach("sweep.rows")
    release(connection, blobs, digests)
    return [*gone, *ended]


def release(connection: sa.Connection, blobs: BlobStore, digests: set[str]) -> None:
    """Deletes those of the blobs that no row names; the write lock keeps new rows away meanwhile."""
    for digest in digests:
        named = [sa.exists().where(column == digest) for column in tables.BLOB_COLUMNS]
        if not connection.scalar(sa.select(sa.or_(*named))):
            connection.execute(tables.blobs.delete().where(tables.blobs.c.sha256 == digest))
            blobs.delete(digest)
            failpoints.reach("sweep.blob")


def _found(
    connection: sa.Connection, what: Literal["expired", "deleted"], which: sa.ColumnElement[bool]
) -> list[SweptSession]:
    columns = (_sessions.c.tenant, _sessions.c.session_id, _sessions.c.round, _sessions.c.policy_id)
    return [SweptSession(what, *row) for row in connection.execute(sa.select(*columns).where(which).limit(_SESSIONS))]


def _names(gone: list[SweptSession]) -> list[str]:
    return [each.session_id for each in gone]


def _blobs_of(connection: sa.Connection, gone: list[SweptSession], columns: Sequence["sa.Column[str]"]) -> set[str]:
    found: set[str] = set()
    for column in columns:
        found.update(connection.scalars(sa.select(column).where(column.table.c.session_id.in_(_names(gone)))))
    return found


def _size(connection: sa.Connection, blobs: BlobStore, digest: str) -> int:
    row = sa.select(sa.func.length(tables.blobs.c.data)).where(tables.blobs.c.sha256 == digest)
    return connection.scalar(row) or blobs.size(digest)
