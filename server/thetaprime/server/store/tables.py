"""The tables of the database. Times are microseconds since 1970, digests are hexadecimal SHA-256."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
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
    or_,
)

SCHEMA_VERSION: Final = 4

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
    # Size of its uploads and policies, for the tenant's quota.
    Column("kept_bytes", BigInteger, nullable=False),
    Column("kept_steps", BigInteger, nullable=False),
    # Why the uploads of the current round are implausible together; NULL where they are not.
    Column("doubt", String),
    UniqueConstraint("tenant", "request_id"),
    Index("sessions_newest", "tenant", "create_time", "session_id"),
    # Covering indexes: each holds every column of its query.
    Index("sessions_kept", "tenant", "delete_time", "expire_time", "round", "kept_bytes", "kept_steps"),
    Index("sessions_open", "closed", "expire_time", "tenant"),
    Index("sessions_expiry", "expire_time", "round", "kept_steps"),
    Index("sessions_deletion", "delete_time"),
)

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
    PrimaryKeyConstraint("session_id", "round"),
    Index("policies_onnx", "onnx_sha256"),
)

# Small blobs by their digest: they commit in one disk write with the rows that name them. Large blobs are files
# (`BlobStore`).
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
