"""Stores of earlier schema versions, brought to this one in the transaction that opens them: whole or not at all."""

from typing import Final

import sqlalchemy as sa

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore

_KNOWN: Final = (1, 2, 3)
_KEPT: Final = 30 * 24 * 3600 * 10**6
_OLD: Final = "_before"


def migrate(connection: sa.Connection, blobs: BlobStore) -> None:
    """Brings a store of an earlier version that this code knows to `tables.SCHEMA_VERSION`.

    One that is new, of this version, or of one that is not known stays as it is.

    Args:
        connection: of a writing transaction.
        blobs: what its rows name.
    """
    if not sa.inspect(connection).has_table(tables.schema_info.name):
        return
    version = connection.scalar(sa.select(tables.schema_info.c.version))
    if version in _KNOWN:
        _rebuild(connection)
        if version < 3:
            _count_what_is_kept(connection, blobs)
        connection.execute(tables.schema_info.update().values(version=tables.SCHEMA_VERSION))


def _rebuild(connection: sa.Connection) -> None:
    """Makes every table again and moves the rows.

    Version 1 knew no tenants: its sessions become the default tenant's, "", which a server without tokens has. Up to
    version 2 every blob was a file, as large ones still are, and parameters were blobs beside their ONNX file. Up to
    version 3 policies went with their session.
    """
    # A request id was unique by itself, which SQLite cannot take back from a table. The tables that refer to the
    # sessions are made again with them: to drop sessions that are referred to would delete what refers to them.
    moved = [tables.sessions, tables.uploads, tables.policies]
    for table in moved:
        indexes = sa.inspect(connection).get_indexes(table.name)
        for name in sorted(str(index["name"]) for index in indexes):
            connection.exec_driver_sql(f"DROP INDEX {name}")
        connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO {table.name}{_OLD}")
    tables.metadata.create_all(connection)
    fresh = {"tenant": "''", "kept_bytes": "0", "kept_steps": "0", "delete_time": f"expire_time + {_KEPT}"}
    for table in moved:
        old = {column["name"] for column in sa.inspect(connection).get_columns(table.name + _OLD)}
        names = [column.name for column in table.columns]
        values = [name if name in old else fresh[name] for name in names]
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table.name}{_OLD}"  # noqa: S608
        )
    for table in reversed(moved):
        connection.exec_driver_sql(f"DROP TABLE {table.name}{_OLD}")


def _count_what_is_kept(connection: sa.Connection, blobs: BlobStore) -> None:
    kept: dict[str, list[int]] = {}
    connection.execute(tables.sessions.update().values(kept_bytes=0, kept_steps=0))
    for column in tables.BLOB_COLUMNS:
        for session_id, digest in connection.execute(sa.select(column.table.c.session_id, column)):
            kept.setdefault(session_id, [0, 0])[0] += blobs.size(digest)
    for session_id, steps in connection.execute(sa.select(tables.uploads.c.session_id, tables.uploads.c.steps)):
        kept[session_id][1] += steps
    for session_id, (size, steps) in kept.items():
        connection.execute(
            tables.sessions.update()
            .where(tables.sessions.c.session_id == session_id)
            .values(kept_bytes=size, kept_steps=steps)
        )
