"""The tables of the database. Times are microseconds since 1970, digests are hexadecimal SHA-256."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    and_,
    event,
    or_,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

SCHEMA_VERSION: Final = 5

COUNTED_BYTES: Final = "counted_bytes"
"""Key in `Column.info` of the bytes that quotas count for a text that changes: about its longest."""
HAS_UPLOADS_OR_NO_POLICY: Final = text("(round = 0 OR kept_steps > 0)")
"""Condition of a session from which expiry deletes something. Every upload has steps: without steps, none is left."""

metadata = MetaData()

schema_info = Table("schema_info", metadata, Column("version", Integer, primary_key=True))

# One row: the time of the last sweep whose clock was trusted (`ClockGuard`).
clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("last_sweep", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    # The owner. Every query by a client's id names the tenant too.
    Column("tenant", String, nullable=False),
    Column("request_id", String, nullable=False),
    # Digest of the request's arguments: tells a repeated request from another one with its id.
    Column("request_sha256", String, nullable=False),
    Column("meta_policy", String, nullable=False),
    Column("meta_policy_version", BigInteger, nullable=False),
    # Policy id of θ: detects a catalog that offers another θ under the same name and version.
    Column("theta_id", String, nullable=False),
    Column("step_size_scale", Float),
    Column("closed", Boolean, nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("policy_id", String, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    # When the session begins to refuse uploads and steps; a session without policies is deleted then.
    Column("expire_time", BigInteger, nullable=False),
    # When the session's policies are deleted.
    Column("delete_time", BigInteger, nullable=False),
    # What it takes of the tenant's quotas (`store.usage`).
    Column("kept_bytes", BigInteger, nullable=False),
    Column("kept_steps", BigInteger, nullable=False),
    # Why the uploads of the current round are implausible together; NULL where they are not.
    Column("doubt", String, info={COUNTED_BYTES: 300}),
    # What its next policy will take: counted from the first upload of a round, so that `Adapt` never lacks the room.
    Column("policy_bytes", BigInteger, nullable=False, server_default="0"),
    # The options of its steps, as JSON (`SessionRecord.options`). NULL for the defaults.
    Column("options", String),
    # The best verified policy. NULL, in a store that is older than the columns, means θ.
    Column("best_round", BigInteger),
    Column("best_policy_id", String),
    UniqueConstraint("tenant", "request_id"),
    Index("sessions_newest", "tenant", "create_time", "session_id"),
    # A covering index: it holds every column of its query.
    Index("sessions_open", "closed", "expire_time", "tenant"),
    Index(
        "sessions_expiry",
        "expire_time",
        "tenant",
        sqlite_where=HAS_UPLOADS_OR_NO_POLICY,
        postgresql_where=HAS_UPLOADS_OR_NO_POLICY,
    ),
    Index("sessions_deletion", "delete_time"),
)

# The sums of `sessions` by tenant. Triggers maintain them.
usage = Table(
    "usage",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
)

_ADD_SESSION: Final = """
    INSERT INTO usage (tenant, sessions, bytes, steps) VALUES (NEW.tenant, 1, NEW.kept_bytes, NEW.kept_steps)
    ON CONFLICT (tenant) DO UPDATE SET sessions = usage.sessions + 1, bytes = usage.bytes + NEW.kept_bytes,
        steps = usage.steps + NEW.kept_steps;
"""
_CHANGE_SESSION: Final = """
    UPDATE usage SET bytes = bytes + NEW.kept_bytes - OLD.kept_bytes,
        steps = steps + NEW.kept_steps - OLD.kept_steps WHERE tenant = NEW.tenant;
"""
_DROP_SESSION: Final = """
    UPDATE usage SET sessions = sessions - 1, bytes = bytes - OLD.kept_bytes, steps = steps - OLD.kept_steps
        WHERE tenant = OLD.tenant;
    DELETE FROM usage WHERE tenant = OLD.tenant AND sessions = 0;
"""
USAGE_TRIGGERS: Final = (
    ("usage_insert", "INSERT", _ADD_SESSION),
    ("usage_update", "UPDATE OF kept_bytes, kept_steps", _CHANGE_SESSION),
    ("usage_delete", "DELETE", _DROP_SESSION),
)
"""Name, event and statements of each trigger of `sessions`."""


def trigger_statements(dialect: str) -> list[str]:
    """Returns the statements that create the triggers of `sessions`, in the words of a dialect."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {name} AFTER {cause} ON sessions BEGIN {body} END" for name, cause, body in USAGE_TRIGGERS
        ]
    return [
        statement
        for name, cause, body in USAGE_TRIGGERS
        for statement in (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$",
            f"CREATE TRIGGER {name} AFTER {cause} ON sessions FOR EACH ROW EXECUTE FUNCTION {name}()",
        )
    ]


@event.listens_for(usage, "after_create")
def _create_triggers(_target: Table, connection: Connection, **_more: object) -> None:
    for statement in trigger_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


uploads = Table(
    "uploads",
    metadata,
    Column("session_id", ForeignKey(sessions.c.session_id, ondelete="CASCADE"), nullable=False),
    Column("upload_id", String, nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("payload_sha256", String, nullable=False),
    Column("trajectories", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
    # The UploadTrajectoriesResponse, to send again for a repeated upload.
    Column("acknowledgement", LargeBinary, nullable=False),
    # Whether the step uses it: not where another upload of the round has the same content, or it was discarded.
    # NULL, in a store that is older than the column, means that it does.
    Column("counted", Boolean),
    # What the on-policy test keeps of it (`UploadEvidence`). NULL in a store that is older than the column.
    Column("evidence", LargeBinary),
    PrimaryKeyConstraint("session_id", "upload_id"),
    Index("uploads_round", "session_id", "round"),
    Index("uploads_payload", "payload_sha256"),
)

# θ_k for k >= 1; the catalog has θ_0.
policies = Table(
    "policies",
    metadata,
    Column("session_id", ForeignKey(sessions.c.session_id, ondelete="CASCADE"), nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("batch_sha256", String, nullable=False),
    Column("onnx_sha256", String, nullable=False),
    # The Policy message without its `onnx`, and the AdaptationReport of the step that made it.
    Column("policy", LargeBinary, nullable=False),
    Column("report", LargeBinary, nullable=False),
    # What later steps need to know of the round (`models.RoundMemory`). NULL in a store that is older than the column.
    Column("memory", LargeBinary),
    PrimaryKeyConstraint("session_id", "round"),
    Index("policies_onnx", "onnx_sha256"),
)

# Small blobs by their digest: they commit in one disk write with the rows that name them. Large blobs are files
# (`Blobs`).
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

BLOB_COLUMNS: Final = (uploads.c.payload_sha256, policies.c.onnx_sha256)
"""Every column that keeps a blob alive."""


def is_readable(now: "int | BindParameter[int]") -> ColumnElement[bool]:
    """Returns the condition that a session has not expired, or has policies that are not deleted yet.

    Args:
        now: microseconds since 1970.
    """
    return and_(sessions.c.delete_time > now, or_(sessions.c.expire_time > now, sessions.c.round > 0))


class byte_length(FunctionElement[int]):  # noqa: N801  # named as SQL functions are
    """Length of a text or a binary value in bytes, in either dialect."""

    type = BigInteger()
    inherit_cache = True


@compiles(byte_length)
def _byte_length(element: "byte_length", compiler: SQLCompiler, **options: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **options)})"


@compiles(byte_length, "sqlite")
def _byte_length_in_sqlite(element: "byte_length", compiler: SQLCompiler, **options: Any) -> str:
    # `octet_length` came with SQLite 3.43.
    return f"length(CAST({compiler.process(element.clauses, **options)} AS BLOB))"
