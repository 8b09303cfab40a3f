"""The tables. Times are microseconds since 1970, digests are hexadecimal SHA-256."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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
)

SCHEMA_VERSION: Final = 4

metadata = MetaData()

schema_info = Table("schema_info", metadata, Column("version", Integer, primary_key=True))

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    # Whose it is. Every query by an id from outside names the tenant beside it.
    Column("tenant", String, nullable=False),
    Column("request_id", String, nullable=False),
    # What the creator asked for, to tell a repeated call from another one under the same id.
    Column("request_sha256", String, nullable=False),
    Column("meta_policy", String, nullable=False),
    Column("meta_policy_version", BigInteger, nullable=False),
    # Policy id of θ: a catalog that comes to hold something else under the same name is found out.
    Column("theta_id", String, nullable=False),
    Column("step_size_scale", Float),
    Column("closed", Boolean, nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("policy_id", String, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    # From when on it takes nothing more; one that has made no policies goes then.
    Column("expire_time", BigInteger, nullable=False),
    # When the policies that it made go.
    Column("delete_time", BigInteger, nullable=False),
    # What its uploads and policies amount to, for the tenant's quota: they go when the session goes.
    Column("kept_bytes", BigInteger, nullable=False),
    Column("kept_steps", BigInteger, nullable=False),
    UniqueConstraint("tenant", "request_id"),
    Index("sessions_newest", "tenant", "create_time", "session_id"),
    # Each holds all that its query asks for.
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
    # The UploadTrajectoriesResponse that was sent, for an upload that comes again.
    Column("acknowledgement", LargeBinary, nullable=False),
    PrimaryKeyConstraint("session_id", "upload_id"),
    Index("uploads_round", "session_id", "round"),
    Index("uploads_payload", "payload_sha256"),
)

# θ_k for k >= 1; θ_0 is the meta-policy's own.
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

# Bytes by their digest, those that are small enough: they commit with the rows that name them, in one write to the
# disk. Larger ones are files (`BlobStore`).
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

BLOB_COLUMNS: Final = (uploads.c.payload_sha256, policies.c.onnx_sha256)
"""Every column that keeps a blob alive."""
