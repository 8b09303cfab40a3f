"""The schema version of a database: creates the tables, migrates those of earlier versions, refuses others."""

from typing import Final

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.errors import StartupError
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import Blobs
from thetaprime.server.store.usage import recount

_OLDEST: Final = 4


def ensure_schema(connection: sa.Connection, blobs: Blobs) -> None:
    """Creates the tables of a new store, or brings those of an existing one to this version.

    Args:
        connection: a writing transaction.
        blobs: the store's large blobs.

    Raises:
        StartupError: the version is newer, or too old to be migrated; or the tables are another application's.
    """
    version = _version(connection)
    if version is None:
        tables.metadata.create_all(connection)
        failpoints.reach("start.schema")
        connection.execute(tables.schema_info.insert().values(version=tables.SCHEMA_VERSION))
        return
    for migrate in _MIGRATIONS[version - _OLDEST :]:
        migrate(connection, blobs)
    _add_what_is_missing(connection)
    if version != tables.SCHEMA_VERSION:
        connection.execute(tables.schema_info.update().values(version=tables.SCHEMA_VERSION))


def require_schema(connection: sa.Connection) -> None:
    """Checks that the tables of a store are those of this version, and changes nothing.

    Raises:
        StartupError: they are missing, of another version, or another application's.
    """
    version = _version(connection)
    if version is None:
        raise StartupError("the database is empty; create the tables with: thetaprime store upgrade --store URL")
    if version != tables.SCHEMA_VERSION or _missing_columns(connection):
        raise StartupError(
            f"the tables are those of an earlier release (schema version {version}; this server reads version "
            f"{tables.SCHEMA_VERSION}); stop the servers and run: thetaprime store upgrade --store URL"
        )


def _version(connection: sa.Connection) -> int | None:
    """Returns the schema version; None for an empty database."""
    present = set(sa.inspect(connection).get_table_names())
    if tables.schema_info.name not in present:
        if others := present.intersection(tables.metadata.tables):
            raise StartupError(
                f"the database has tables of another application ({', '.join(sorted(others))}); use another database, "
                "or another schema of it"
            )
        return None
    version = connection.scalar(sa.select(tables.schema_info.c.version)) or 0
    if not _OLDEST <= version <= tables.SCHEMA_VERSION:
        remedy = "upgrade thetaprime" if version > tables.SCHEMA_VERSION else "use another folder"
        raise StartupError(f"schema version {version}; this server reads version {tables.SCHEMA_VERSION}: {remedy}")
    return version


def _add_what_is_missing(connection: sa.Connection) -> None:
    """Adds what a store lacks that a change within its version added: tables, and columns that may be NULL."""
    tables.metadata.create_all(connection)
    for column in _missing_columns(connection):
        kind = column.type.compile(connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}")


def _missing_columns(connection: sa.Connection) -> list["sa.Column[object]"]:
    """Returns the columns that the tables lack; all those of a table that is missing."""
    inspector = sa.inspect(connection)
    present = {name: {column["name"] for column in inspector.get_columns(name)} for name in inspector.get_table_names()}
    every = [column for table in tables.metadata.sorted_tables for column in table.columns]
    return [column for column in every if column.name not in present.get(column.table.name, ())]


def _count_usage(connection: sa.Connection, blobs: Blobs) -> None:
    """From version 4 to 5: sessions count what they take on the disk, and their sums by tenant are kept."""
    sessions = tables.sessions
    for statement in (
        "ALTER TABLE sessions ADD COLUMN policy_bytes BIGINT DEFAULT '0' NOT NULL",
        "DROP INDEX sessions_kept",
        "DROP INDEX sessions_expiry",
    ):
        connection.exec_driver_sql(statement)
    # The counts depend on every column. This creates the table of the sums too, with its triggers.
    _add_what_is_missing(connection)
    next(index for index in sessions.indexes if index.name == "sessions_expiry").create(connection)
    counts: dict[str, sa.BindParameter[int]] = {
        "kept_bytes": sa.bindparam("counted_bytes"),
        "kept_steps": sa.bindparam("counted_steps"),
    }
    update = sessions.update().where(sessions.c.session_id == sa.bindparam("session")).values(counts)
    values = [
        {"session": session_id, "counted_bytes": usage.bytes, "counted_steps": usage.steps}
        for session_id, usage in recount(connection, blobs).items()
    ]
    if values:
        connection.execute(update, values)
    sums = sa.select(
        sessions.c.tenant, sa.func.count(), sa.func.sum(sessions.c.kept_bytes), sa.func.sum(sessions.c.kept_steps)
    ).group_by(sessions.c.tenant)
    connection.execute(tables.usage.insert().from_select(["tenant", "sessions", "bytes", "steps"], sums))


_MIGRATIONS: Final = (_count_usage,)
