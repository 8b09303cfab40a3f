"""Exports a store to one file, and imports the file into an empty store of any kind.

The file is a tar archive, read and written from its beginning to its end:

- ``manifest.json``: the format, the schema version, and when the export began.
- ``blobs/<digest>``: a payload or an ONNX file, once each, before the rows that name it.
- ``rows/<number>.json``: sessions with their uploads and policies, by table. Binary values are in base64.
- ``end.json``: how many rows and blobs there are, and the digest of all rows. An archive without it was cut off.

Sums and sizes are not exported: they depend on the kind of the store, and are counted again.
"""

import base64
import binascii
import dataclasses
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

import sqlalchemy as sa

from thetaprime.server.errors import CorruptDataError, StartupError
from thetaprime.server.store import tables
from thetaprime.server.store.locks import lock_blobs, lock_sessions
from thetaprime.server.store.store import Store
from thetaprime.server.store.usage import recount
from thetaprime.wire import sha256_hex

_FORMAT: Final = "thetaprime-store-1"
_MANIFEST, _END = "manifest.json", "end.json"
_BLOBS, _ROWS = "blobs/", "rows/"
_TABLES: Final = {table.name: table for table in (tables.sessions, tables.uploads, tables.policies)}
_CLOCK: Final = tables.clock.name
_SESSIONS_AT_ONCE: Final = 50


class BackupError(ValueError):
    """A file is no complete export of a store that this release can read."""


@dataclasses.dataclass
class BackupCounts:
    """What an export holds.

    Attributes:
        sessions: number of sessions.
        uploads: number of uploads.
        policies: number of policies.
        blobs: number of payloads and ONNX files.
        bytes: their bytes.
    """

    sessions: int = 0
    uploads: int = 0
    policies: int = 0
    blobs: int = 0
    bytes: int = 0

    def add_rows(self, rows: Mapping[str, Sequence[object]]) -> None:
        """Adds the rows of each table."""
        for name in _TABLES:
            setattr(self, name, getattr(self, name) + len(rows[name]))

    def add_blob(self, size: int) -> None:
        """Adds a blob of so many bytes."""
        self.blobs += 1
        self.bytes += size


def export_store(store: Store, file: IO[bytes]) -> BackupCounts:
    """Writes a store to a file: one snapshot of its rows, with the blobs that they name.

    Servers may run on the store meanwhile. A session that a sweep deletes during the export is left out.

    Raises:
        CorruptDataError: a blob is missing or damaged.
        ServiceError: the store failed.
        OSError: the file cannot be written.
    """
    counts, digest, written = BackupCounts(), hashlib.sha256(), set[str]()
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        manifest = {"format": _FORMAT, "schema_version": tables.SCHEMA_VERSION, "time": time.time()}
        with store.reading() as connection:
            clock = connection.execute(sa.select(tables.clock)).mappings().one_or_none()
            _add(archive, _MANIFEST, _json({**manifest, _CLOCK: None if clock is None else dict(clock)}))
            for number, rows in enumerate(_sessions_with_rows(connection)):
                for name in sorted(_named(rows) - written):
                    data = _read(store, connection, rows, name)
                    if data is not None:
                        _add(archive, _BLOBS + name, data)
                        written.add(name)
                        counts.add_blob(len(data))
                encoded = _json({name: [_encoded(name, row) for row in each] for name, each in rows.items()})
                _add(archive, f"{_ROWS}{number:08}.json", encoded)
                digest.update(encoded)
                counts.add_rows(rows)
        _add(archive, _END, _json({**dataclasses.asdict(counts), "rows_sha256": digest.hexdigest()}))
    return counts


def import_store(store: Store, file: IO[bytes]) -> BackupCounts:
    """Reads an export into an empty store, in one transaction: all of it, or nothing.

    Blobs outside the database are written before; where the import fails, the sweep of orphans deletes them.

    Args:
        store: an empty store, which no server uses.
        file: the export.

    Raises:
        StartupError: the store has sessions.
        BackupError: the file is not a complete export, or one of another release's schema.
        ServiceError: the store failed.
    """
    counts, digest, end = BackupCounts(), hashlib.sha256(), None
    with store.writing() as connection:
        lock_sessions(connection)
        if found := connection.scalar(sa.select(sa.func.count()).select_from(tables.sessions)):
            raise StartupError(f"the store has {found} sessions; an export is imported into an empty store")
        for name, data in _members(file):
            if name == _MANIFEST:
                _restore_clock(connection, _checked_manifest(data))
            elif name == _END:
                end = _object(name, data)
            elif name.startswith(_BLOBS):
                if sha256_hex(data) != name.removeprefix(_BLOBS):
                    raise BackupError(f"{name} is damaged: its bytes have another digest")
                lock_blobs(connection, [sha256_hex(data)])
                store.keep(connection, {sha256_hex(data): data})
                counts.add_blob(len(data))
            elif name.startswith(_ROWS):
                digest.update(data)
                rows = _decoded(name, data)
                for table, values in rows.items():
                    if values:
                        connection.execute(_TABLES[table].insert(), values)
                counts.add_rows(rows)
        if end != {**dataclasses.asdict(counts), "rows_sha256": digest.hexdigest()}:
            raise BackupError("the file is cut off or damaged: it does not end with the counts of what it holds")
        _count_again(connection, store)
    return counts


def _sessions_with_rows(connection: sa.Connection) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Yields all sessions, a few at a time, with their uploads and policies."""
    sessions, last = tables.sessions, ""
    page = sa.select(sessions).order_by(sessions.c.session_id).limit(_SESSIONS_AT_ONCE)
    while found := connection.execute(page.where(sessions.c.session_id > last)).mappings().all():
        last = found[-1]["session_id"]
        ids = [row["session_id"] for row in found]
        yield {
            name: [
                dict(row)
                for row in connection.execute(
                    sa.select(table).where(table.c.session_id.in_(ids)).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for name, table in _TABLES.items()
        }


def _named(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    """Returns the digests that rows name."""
    return {row[column.name] for column in tables.BLOB_COLUMNS for row in rows[column.table.name]}


def _read(store: Store, connection: sa.Connection, rows: dict[str, list[dict[str, Any]]], digest: str) -> bytes | None:
    """Returns a blob. Where a sweep has deleted it since the snapshot, drops the rows that name it, and returns None.

    Raises:
        CorruptDataError: the blob is missing or damaged, and still named.
    """
    try:
        return store.read_in(connection, digest)
    except CorruptDataError as error:
        with store.reading() as now:
            if any(now.scalar(sa.select(sa.exists().where(each == digest))) for each in tables.BLOB_COLUMNS):
                raise CorruptDataError(
                    "STORE_CORRUPTED", f"{error}; thetaprime store check says how many blobs are missing"
                ) from error
    # Uploads go at a session's expiry, policies with their session.
    gone = {row["session_id"] for row in rows["policies"] if row["onnx_sha256"] == digest}
    rows["uploads"] = [row for row in rows["uploads"] if row["payload_sha256"] != digest]
    for name in rows:
        rows[name] = [row for row in rows[name] if row["session_id"] not in gone]
    return None


def _count_again(connection: sa.Connection, store: Store) -> None:
    """Counts what the sessions take in this store; the triggers add the counts up by tenant."""
    sessions = tables.sessions
    update = sessions.update().where(sessions.c.session_id == sa.bindparam("session"))
    values = [
        {"session": session_id, "counted_bytes": usage.bytes, "counted_steps": usage.steps}
        for session_id, usage in recount(connection, store.blobs).items()
    ]
    if values:
        counted: dict[str, sa.BindParameter[int]] = {
            "kept_bytes": sa.bindparam("counted_bytes"),
            "kept_steps": sa.bindparam("counted_steps"),
        }
        connection.execute(update.values(counted), values)


def _restore_clock(connection: sa.Connection, manifest: Mapping[str, Any]) -> None:
    """Restores the time of the last trusted sweep: after a long pause, a clock is trusted an hour later."""
    if manifest[_CLOCK] is not None:
        connection.execute(tables.clock.delete())
        connection.execute(tables.clock.insert(), manifest[_CLOCK])


def _members(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of an archive's files; the manifest comes first.

    Raises:
        BackupError: the file is no such archive, or cut off.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for index, member in enumerate(archive):
                if index == 0 and member.name != _MANIFEST:
                    break
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name, content.read()
            else:
                return
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"the file is cut off, or no export of a store: {error}") from error
    raise BackupError(f"the file is no export of a store: it does not begin with {_MANIFEST}")


def _checked_manifest(data: bytes) -> dict[str, Any]:
    manifest = _object(_MANIFEST, data)
    if manifest.get("format") != _FORMAT:
        raise BackupError(f"{_MANIFEST}: format {manifest.get('format')!r}; expected {_FORMAT!r}")
    if manifest.get("schema_version") != tables.SCHEMA_VERSION:
        raise BackupError(
            f"{_MANIFEST}: schema version {manifest.get('schema_version')}; this release reads version "
            f"{tables.SCHEMA_VERSION}: import with the release that exported, and upgrade the store"
        )
    return {_CLOCK: None, **manifest}


def _decoded(name: str, data: bytes) -> dict[str, list[dict[str, Any]]]:
    found = _object(name, data)
    try:
        return {table: [_row(table, row) for row in found[table]] for table in _TABLES}
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise BackupError(f"{name}: not rows of this schema: {error!r}") from error


def _encoded(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    binary = _binary_columns(table)
    return {
        name: base64.b64encode(value).decode() if name in binary and value is not None else value
        for name, value in row.items()
    }


def _row(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    binary = _binary_columns(table)
    known = {column.name for column in _TABLES[table].columns}
    if unknown := row.keys() - known:
        raise KeyError(sorted(unknown)[0])
    return {
        name: base64.b64decode(value, validate=True) if name in binary and value is not None else value
        for name, value in row.items()
    }


def _binary_columns(table: str) -> set[str]:
    return {column.name for column in _TABLES[table].columns if isinstance(column.type, sa.LargeBinary)}


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise BackupError(f"{name}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BackupError(f"{name}: expected a JSON object")
    return found


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    archive.addfile(member, io.BytesIO(data))
