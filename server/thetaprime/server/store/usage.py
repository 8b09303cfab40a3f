"""What a tenant costs: the bytes that its rows, their index entries and their blobs take on the disk.

The counts are upper bounds of the database's size, so that no choice of ids, sizes or order of calls stores more than a
quota allows:

- SQLite keeps the pages of a table or an index at least a third full, so a small row counts three times, and at most a
  page. See https://www.sqlite.org/fileformat2.html#b_tree_pages for the sizes.
- A large value fills whole pages.
- A file fills whole blocks.

A session counts from its creation until the sweep deletes it, in every state. Triggers add its counts up by tenant
(`tables.usage`): no code that inserts, changes or deletes a session can forget them.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import Blobs

_PAGE: Final = 4096
_OVERFLOW: Final = _PAGE - 4
# Payload bytes of a row that stay in the tree of its table; the rest fills overflow pages.
_MAX_LOCAL, _MIN_LOCAL = _PAGE - 35, 489
_EMPTIEST: Final = 3
# Of a row or an index entry: its pointer, its length, the length of its header, and its row id.
_CELL: Final = 16
# Of a value: its type and length in the header. Numbers, and NULL, have at most eight bytes.
_TYPE, _NUMBER = 3, 8
# Entry of a blob in its folder, and its inode.
_FILE: Final = 512

# Of a step's report: what it has in any case, for each upload, and for each trajectory.
_REPORT, _REPORT_UPLOAD, _REPORT_TRAJECTORY = 3072, 96, 32
# Of what later steps need to know of a round.
_MEMORY: Final = 512

_DIGEST: Final = "0" * 64


@dataclasses.dataclass(frozen=True)
class Usage:
    """What is stored.

    Attributes:
        sessions: number of sessions, in any state.
        bytes: bytes on the disk.
        steps: environment steps of the uploads.
    """

    sessions: int = 0
    bytes: int = 0
    steps: int = 0


def row_bytes(table: sa.Table, row: Mapping[str, object]) -> int:
    """Returns the bytes that a row and its index entries take.

    Args:
        table: its table.
        row: values by column; a missing value counts as NULL.
    """
    lengths = {column: _length(row.get(column)) for column in _COLUMNS[table.name]}
    return _row_bytes(table, {**lengths, **_FIXED[table.name]})


def blob_bytes(size: int, *, is_row: bool) -> int:
    """Returns the bytes that a blob of so many bytes takes, in a row or in a file."""
    if is_row:
        return _row_bytes(tables.blobs, {"sha256": len(_DIGEST), "data": size})
    return -(-size // _PAGE) * _PAGE + _FILE


def upload_bytes(row: Mapping[str, object]) -> int:
    """Returns the bytes of an upload's row, with those that it will add to the report of the round's step."""
    trajectories = row["trajectories"]
    assert isinstance(trajectories, int)  # noqa: S101  # by the table
    return row_bytes(tables.uploads, row) + _REPORT_UPLOAD + _REPORT_TRAJECTORY * trajectories


def expected_policy_bytes(session_id: str, policy: bytes, onnx: int, *, is_row: bool) -> int:
    """Returns the bytes that a session's next policy will take, without its uploads' parts of the report.

    Args:
        session_id: the session.
        policy: the Policy message of θ, without its file: that of θ′ has about the same size.
        onnx: size of the ONNX file.
        is_row: whether the file is stored in a row.
    """
    row: dict[str, object] = {
        "session_id": session_id,
        "batch_sha256": _DIGEST,
        "onnx_sha256": _DIGEST,
        "policy": policy,
    }
    row |= {"report": bytes(_REPORT), "memory": bytes(_MEMORY)}
    return row_bytes(tables.policies, row) + blob_bytes(onnx, is_row=is_row)


def tenant_usage(connection: sa.Connection, tenant: str) -> Usage:
    """Returns what a tenant has stored, as the triggers have added it up."""
    row = connection.execute(_TENANT, {"tenant": tenant}).one_or_none()
    return Usage() if row is None else Usage(*row)


def recount(connection: sa.Connection, blobs: Blobs, session_ids: Sequence[str] | None = None) -> dict[str, Usage]:
    """Counts again, from the rows and the blobs, what sessions have stored.

    Args:
        connection: a transaction.
        blobs: the large blobs.
        session_ids: the sessions; None for all.

    Returns:
        The usage of each session, by session id.
    """
    sessions, uploads, policies = tables.sessions, tables.uploads, tables.policies
    wanted = sa.true() if session_ids is None else sessions.c.session_id.in_(session_ids)
    sizes: dict[str, int] = {}
    steps: dict[str, int] = defaultdict(int)
    rounds: dict[str, int] = {}
    reserved: dict[str, int] = {}
    for row in connection.execute(sa.select(sessions, *_lengths(sessions)).where(wanted)).mappings():
        session_id = row["session_id"]
        sizes[session_id] = _row_bytes(sessions, _lengths_of(sessions, row))
        rounds[session_id], reserved[session_id] = row["round"], row["policy_bytes"]
    for row in connection.execute(_with_blobs(uploads, uploads.c.payload_sha256, wanted)).mappings():
        session_id = row["session_id"]
        sizes[session_id] += _row_bytes(uploads, _lengths_of(uploads, row)) + _measured_blob(blobs, row)
        sizes[session_id] += _REPORT_UPLOAD + _REPORT_TRAJECTORY * row["trajectories"]
        steps[session_id] += row["steps"]
        if row["round"] == rounds[session_id]:
            sizes[session_id] += reserved.pop(session_id, 0)
    for row in connection.execute(_with_blobs(policies, policies.c.onnx_sha256, wanted)).mappings():
        sizes[row["session_id"]] += _row_bytes(policies, _lengths_of(policies, row)) + _measured_blob(blobs, row)
    return {session_id: Usage(1, size, steps[session_id]) for session_id, size in sizes.items()}


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    return len(value) if isinstance(value, bytes) else _NUMBER


def _entries(table: sa.Table) -> list[list[str]]:
    """Returns the columns of each index of a table, those of its constraints included."""
    constraints = [each.columns for each in table.constraints if isinstance(each, sa.UniqueConstraint)]
    columns = [table.primary_key.columns, *constraints, *(index.columns for index in table.indexes)]
    return [[column.name for column in each] for each in columns]


def _row_bytes(table: sa.Table, lengths: Mapping[str, int]) -> int:
    entries = _ENTRIES[table.name]
    indexed = sum(lengths[column] + _TYPE for entry in entries for column in entry) + _CELL * len(entries)
    payload = sum(lengths.values()) + _TYPE * len(lengths)
    if payload <= _MAX_LOCAL:
        local, overflow = payload, 0
    else:
        local = _MIN_LOCAL + (payload - _MIN_LOCAL) % _OVERFLOW
        local = _MIN_LOCAL if local > _MAX_LOCAL else local
        overflow = -(-(payload - local) // _OVERFLOW)
    return min(_EMPTIEST * (local + _CELL), _PAGE) + overflow * _PAGE + _EMPTIEST * indexed


def _has_length(column: "sa.Column[object]") -> bool:
    return isinstance(column.type, (sa.String, sa.LargeBinary))


def _lengths(table: sa.Table) -> list[sa.ColumnElement[int]]:
    """Returns the length in bytes of each text and blob of a table."""
    return [
        tables.byte_length(column).label(f"length_{column.name}") for column in table.columns if _has_length(column)
    ]


def _lengths_of(table: sa.Table, row: sa.RowMapping) -> dict[str, int]:
    measured = {column.name: row[f"length_{column.name}"] for column in table.columns if _has_length(column)}
    lengths = {column: measured.get(column) for column in _COLUMNS[table.name]}
    known = {column: _NUMBER if length is None else length for column, length in lengths.items()}
    return {**known, **_FIXED[table.name]}


def _with_blobs(table: sa.Table, digest: "sa.Column[str]", wanted: sa.ColumnElement[bool]) -> sa.Select[tuple[object]]:
    """Returns a query of a table's rows with their lengths, and the digests and the lengths of their blobs' rows."""
    numbers = [column for column in table.columns if not _has_length(column)]
    size = tables.byte_length(tables.blobs.c.data).label("blob_size")
    return (
        sa.select(table.c.session_id, *numbers, *_lengths(table), digest.label("digest"), size)
        .join(tables.sessions, tables.sessions.c.session_id == table.c.session_id)
        .join(tables.blobs, tables.blobs.c.sha256 == digest, isouter=True)
        .where(wanted)
    )


def _measured_blob(blobs: Blobs, row: sa.RowMapping) -> int:
    size = row["blob_size"]
    return blob_bytes(blobs.size(row["digest"]) if size is None else size, is_row=size is not None)


_TABLES: Final = (tables.sessions, tables.uploads, tables.policies, tables.blobs)
_ENTRIES: Final = {table.name: _entries(table) for table in _TABLES}
_COLUMNS: Final = {table.name: [column.name for column in table.columns] for table in _TABLES}
_FIXED: Final = {
    table.name: {
        column.name: column.info[tables.COUNTED_BYTES]
        for column in table.columns
        if tables.COUNTED_BYTES in column.info
    }
    for table in _TABLES
}
_TENANT: Final = sa.select(tables.usage.c.sessions, tables.usage.c.bytes, tables.usage.c.steps).where(
    tables.usage.c.tenant == sa.bindparam("tenant")
)
