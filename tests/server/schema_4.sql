CREATE TABLE schema_info (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE clock (
    id INTEGER NOT NULL,
    last_sweep BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE sessions (
    session_id VARCHAR NOT NULL,
    tenant VARCHAR NOT NULL,
    request_id VARCHAR NOT NULL,
    request_sha256 VARCHAR NOT NULL,
    meta_policy VARCHAR NOT NULL,
    meta_policy_version BIGINT NOT NULL,
    theta_id VARCHAR NOT NULL,
    step_size_scale FLOAT,
    closed BOOLEAN NOT NULL,
    round BIGINT NOT NULL,
    policy_id VARCHAR NOT NULL,
    create_time BIGINT NOT NULL,
    expire_time BIGINT NOT NULL,
    delete_time BIGINT NOT NULL,
    kept_bytes BIGINT NOT NULL,
    kept_steps BIGINT NOT NULL,
    PRIMARY KEY (session_id),
    UNIQUE (tenant, request_id)
);
CREATE INDEX sessions_kept ON sessions (tenant, delete_time, expire_time, round, kept_bytes, kept_steps);
CREATE INDEX sessions_open ON sessions (closed, expire_time, tenant);
CREATE INDEX sessions_expiry ON sessions (expire_time, round, kept_steps);
CREATE INDEX sessions_deletion ON sessions (delete_time);
CREATE INDEX sessions_newest ON sessions (tenant, create_time, session_id);
CREATE TABLE blobs (
    sha256 VARCHAR NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (sha256)
);
CREATE TABLE uploads (
    session_id VARCHAR NOT NULL,
    upload_id VARCHAR NOT NULL,
    round BIGINT NOT NULL,
    payload_sha256 VARCHAR NOT NULL,
    trajectories BIGINT NOT NULL,
    steps BIGINT NOT NULL,
    acknowledgement BLOB NOT NULL,
    PRIMARY KEY (session_id, upload_id),
    FOREIGN KEY(session_id) REFERENCES sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX uploads_round ON uploads (session_id, round);
CREATE INDEX uploads_payload ON uploads (payload_sha256);
CREATE TABLE policies (
    session_id VARCHAR NOT NULL,
    round BIGINT NOT NULL,
    batch_sha256 VARCHAR NOT NULL,
    onnx_sha256 VARCHAR NOT NULL,
    policy BLOB NOT NULL,
    report BLOB NOT NULL,
    PRIMARY KEY (session_id, round),
    FOREIGN KEY(session_id) REFERENCES sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX policies_onnx ON policies (onnx_sha256);
