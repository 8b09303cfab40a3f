"""The settings of a server, from options, environment variables and a TOML file."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Final, Literal, Self

import pydantic
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from thetaprime.server.address import is_unix_socket, split_address
from thetaprime.server.config_file import ConfigFileSource
from thetaprime.server.places import Place

_MIB: Final = 1 << 20
ROW_BYTES: Final = _MIB
"""Default of `ServerConfig.row_bytes`."""
RECENT_BYTES: Final = 256 * _MIB
"""Default of `ServerConfig.recent_bytes`."""
STORE_CONNECTIONS: Final = 16
"""Default of `ServerConfig.store_connections`."""


def _shipped_zoo() -> tuple[Path]:
    """Returns `thetaprime.models.zoo_directory()`, without torch: neither ``--help`` nor the supervisor needs it."""
    package = importlib.util.find_spec("thetaprime.models")
    assert package is not None and package.submodule_search_locations  # noqa: S101  # part of this distribution
    return (Path(package.submodule_search_locations[0]) / "zoo",)


def _cores_per_process(settings: dict[str, Any]) -> int:
    return max(1, (os.cpu_count() or 1) // int(settings.get("workers", 1)))


class ServerConfig(BaseSettings):
    """The settings of a server.

    Arguments override environment variables with the prefix ``THETAPRIME_SERVER_``, and these override the TOML file.
    A secret has the type `pydantic.SecretStr`, so that it is never printed.

    Raises:
        pydantic.ValidationError: a setting is invalid or unknown.
        ConfigFileError: the file is invalid.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="THETAPRIME_SERVER_", use_attribute_docstrings=True
    )

    config: Path | None = None
    """TOML file of these settings. Environment variables override the file; options override both."""
    address: str = "127.0.0.1:50051"
    """Host and port to listen on, as host:port, or unix:PATH for a Unix socket. Port 0 takes any free port."""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate and its chain. With its private key, the server speaks TLS."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key, without a passphrase."""
    tls_client_authority: Path | None = None
    """PEM file of certificate authorities. Clients need a certificate signed by one of them (mutual TLS)."""
    allow_plaintext: bool = False
    """Serve without TLS on an address that other machines can reach."""
    tokens: Path | None = None
    """TOML file of tokens and tenants. With it, every call needs a token. The file is read again when it changes."""
    max_connections: pydantic.PositiveInt = 2_000
    """Maximum of open connections of each process. Further ones are closed when they arrive. If the process may open
    fewer files (ulimit -n), that many fewer."""
    max_address_connections: pydantic.PositiveInt = 500
    """Maximum of open connections from one IPv4 address or IPv6 network of 64 bits, in each process. Linux only."""
    handshake_seconds: pydantic.PositiveFloat = 10.0
    """Seconds that a new connection may take for its handshakes of TLS and HTTP/2."""
    connection_idle: pydantic.PositiveFloat = 1800.0
    """Seconds without a call after which a connection is closed. Clients connect again at their next call."""
    connection_age: pydantic.PositiveFloat | None = None
    """Seconds after which a connection takes no new calls, within a tenth. Running calls go on, and its client connects
    again: behind a balancer, perhaps to another replica. By default, connections have no such age."""
    block_seconds: pydantic.NonNegativeFloat = 10.0
    """Seconds for which new connections of an address are refused, after 200 of its calls in one second were refused or
    canceled on one connection, or 400 on all, its connections came and left without a call, or exceeded their limit, or
    sent many bytes of no call. Calls with a token do not count. 0: never. Linux only."""
    store: Place = Path("thetaprime-store")
    """Place of sessions, uploads and policies: a folder, which is created if it does not exist, or the URL of a
    PostgreSQL (postgresql://user@host/database), which servers on several machines may share."""
    blobs: Place | None = None
    """Place of large payloads and policies: a folder, or the URL of an object store (s3://bucket/prefix, gs://…,
    az://…). By default, a folder in the store's; in PostgreSQL, the database itself."""
    store_connections: pydantic.PositiveInt = STORE_CONNECTIONS
    """Maximum of connections of each process to a PostgreSQL. A transaction takes one, and waits up to 10 seconds where
    all are in use."""
    row_bytes: pydantic.NonNegativeInt = ROW_BYTES
    """Payloads and policies up to this size are stored in the database; larger ones go to the place of blobs."""
    recent_bytes: pydantic.PositiveInt = RECENT_BYTES
    """Memory for cached payloads and policies of recently used sessions."""
    zoo: tuple[Path, ...] = pydantic.Field(default_factory=_shipped_zoo)
    """Folders of meta-policies, each with files <name>/<version>/manifest.json."""
    catalog_seconds: pydantic.PositiveFloat = 10.0
    """Seconds between scans of the zoo folders for new and removed meta-policies."""
    max_artifact_file_bytes: pydantic.PositiveInt = 256 * _MIB
    """Maximum of bytes of each file of a meta-policy."""
    max_artifact_bytes: pydantic.PositiveInt = 1024 * _MIB
    """Maximum of bytes of all files of a meta-policy."""
    max_parameters: pydantic.PositiveInt = 1 << 23
    """Maximum of parameters of a meta-policy. Checked, as the sizes of files are, before memory is taken for them."""
    metrics_address: str = ""
    """Host and port for Prometheus metrics, as host:port. Without it, no metrics are served."""
    probe_seconds: pydantic.PositiveFloat = 1.0
    """Seconds between test writes to the store. While they fail or hang, health checks answer NOT_SERVING."""
    reflection: bool = True
    """Serve gRPC reflection, with which tools list the services. It needs no token."""
    log_level: Literal["info", "warning", "error"] = "info"
    """Lowest level of the lines that are logged. The audit log is always complete."""
    tracing: bool = False
    """Record OpenTelemetry spans and send them to OTEL_EXPORTER_OTLP_ENDPOINT."""
    workers: pydantic.PositiveInt = 1
    """Server processes that share the address and the store. Each has separate threads, queues, memory and rates."""
    adaptation_threads: pydantic.PositiveInt = pydantic.Field(default_factory=_cores_per_process)
    """Adaptation steps and upload verifications that each process runs in parallel. By default, the workers divide the
    CPU cores."""
    queue: pydantic.NonNegativeInt = 64
    """Maximum of one tenant's adaptation steps that wait for a thread. Further calls are refused, to be retried."""
    max_sessions: pydantic.PositiveInt = 10_000
    """Maximum of open sessions, over all tenants."""
    max_tenant_sessions: pydantic.PositiveInt | None = None
    """Maximum of open sessions of each tenant. The tokens file can override a tenant's limits."""
    max_tenant_bytes: pydantic.PositiveInt | None = None
    """Maximum of bytes that each tenant has on the disk: sessions, uploads and policies, with their rows."""
    max_tenant_steps: pydantic.PositiveInt | None = None
    """Maximum of stored environment steps of each tenant."""
    max_tenant_adaptations_per_second: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """Maximum mean rate of each tenant's adaptation steps. The steps of one second may come in a burst."""
    max_tenant_requests_per_second: float | None = pydantic.Field(default=1000.0, gt=0, allow_inf_nan=False)
    """Maximum mean rate of each tenant's calls, of all kinds; of callers without a token, of each address. The calls of
    one second may come in a burst."""
    max_upload_bytes: pydantic.PositiveInt = 16 * _MIB
    """Maximum of payload bytes of one upload."""
    max_inflight_bytes: pydantic.PositiveInt = 256 * _MIB
    """Maximum of bytes of all uploads in progress; with other requests and unread replies, a quarter more."""
    max_address_bytes: pydantic.PositiveInt = 16 * _MIB
    """The same maximum for the calls without a token from one address; half of it for those of one connection."""
    max_address_calls: pydantic.PositiveInt = 256
    """Maximum of calls in progress from one IPv4 address or IPv6 network of 64 bits."""
    max_connection_calls: pydantic.PositiveInt = 100
    """Maximum of calls in progress on one connection. A client lets further calls wait."""
    request_seconds: pydantic.PositiveFloat = 20.0
    """Seconds that the request of a call, or the first message of an upload, may take to arrive."""
    reply_seconds: pydantic.PositiveFloat = 60.0
    """Seconds that a client may take to read a reply. Then its connection is closed."""
    max_upload_trajectories: pydantic.PositiveInt = 1_000
    """Maximum of trajectories in one upload."""
    max_upload_steps: pydantic.PositiveInt = 200_000
    """Maximum of environment steps in one upload."""
    max_round_uploads: pydantic.PositiveInt = 1_000
    """Maximum of uploads in one round."""
    max_round_trajectories: pydantic.PositiveInt = 1_000
    """Maximum of trajectories in one round."""
    max_round_steps: pydantic.PositiveInt = 500_000
    """Maximum of environment steps in one round; bounds the memory of an adaptation step."""
    upload_idle: pydantic.PositiveFloat = 60.0
    """Seconds that an upload may pause between two messages."""
    upload_seconds: pydantic.PositiveFloat = 600.0
    """Seconds that an upload may take, from its first message to its last. Its memory is reserved meanwhile."""
    default_ttl: pydantic.PositiveFloat = 24 * 3600.0
    """Seconds until a session expires, if its creator sets no time to live."""
    max_ttl: pydantic.PositiveFloat = 30 * 24 * 3600.0
    """Longest time to live of a session, in seconds."""
    keep_policies: pydantic.NonNegativeFloat = 30 * 24 * 3600.0
    """Seconds that the policies of an expired session can still be read. Its uploads are deleted at expiry."""
    drain_notice: pydantic.NonNegativeFloat = 0.0
    """Seconds between NOT_SERVING and the refusal of calls, so that load balancers can turn away."""
    grace: pydantic.NonNegativeFloat = 30.0
    """Seconds that running calls have to finish when the server stops."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources by priority: arguments, the environment, the file that one of them names."""
        file = {**env_settings(), **init_settings()}.get("config")
        sources = (init_settings, env_settings)
        return sources if file is None else (*sources, ConfigFileSource(settings_cls, Path(file)))

    @property
    def drain_seconds(self) -> float:
        """Seconds from SIGTERM until running calls are cut."""
        return self.drain_notice + self.grace

    @pydantic.field_validator("address", "metrics_address")
    @classmethod
    def _check_address(cls, address: str, info: pydantic.ValidationInfo) -> str:
        unbound = info.field_name == "metrics_address" and not address
        if not unbound and not (info.field_name == "address" and is_unix_socket(address)):
            try:
                split_address(address)
            except ValueError as error:
                raise PydanticCustomError("address", "{problem}", {"problem": str(error)}) from error
        return address

    @pydantic.model_validator(mode="after")
    def _check_upload_fits(self) -> Self:
        if self.max_inflight_bytes < self.max_upload_bytes:
            raise ValueError(
                f"max_inflight_bytes = {self.max_inflight_bytes} is below max_upload_bytes = {self.max_upload_bytes}"
            )
        return self
