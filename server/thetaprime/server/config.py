"""How a server is set up."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from thetaprime.server.address import is_unix_socket, split_address
from thetaprime.server.config_file import ConfigFile
from thetaprime.server.store import RECENT_BYTES, ROW_BYTES

_MIB = 1 << 20


def _shipped_zoo() -> tuple[Path]:
    """`thetaprime.models.zoo_directory`, found without torch, which comes with that package.

    Neither ``--help`` nor the process that watches over others has any other use for it.
    """
    package = importlib.util.find_spec("thetaprime.models")
    assert package is not None and package.submodule_search_locations  # noqa: S101  # it is of this distribution
    return (Path(package.submodule_search_locations[0]) / "zoo",)


def _cores_of_one_process(settings: dict[str, Any]) -> int:
    return max(1, (os.cpu_count() or 1) // int(settings.get("workers", 1)))


class ServerConfig(BaseSettings):
    """The settings of a server.

    Each can be given as an argument, as an environment variable under the prefix ``THETAPRIME_SERVER_``, or in a
    TOML file; the first of these that names it decides. A secret is a `pydantic.SecretStr`: it is never printed.

    Raises:
        pydantic.ValidationError: a setting that is out of range, or unknown.
        ConfigFileError: the file cannot be read.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="THETAPRIME_SERVER_", use_attribute_docstrings=True
    )

    config: Path | None = None
    """TOML file of these settings. The environment overrides it; options override both."""
    address: str = "127.0.0.1:50051"
    """Host and port to listen on; port 0 takes any free one."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate and its chain; with it and its key, the server speaks TLS."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key."""
    tls_client_authority: Path | None = None
    """PEM file of authorities; clients without a certificate of one of them are turned away (mutual TLS)."""
    allow_plaintext: bool = False
    """Serve without TLS on an address that other machines can reach."""
    tokens: Path | None = None
    """TOML file of tokens and tenants; with it, every call needs a token. Read again whenever it changes."""
    store: Path = Path("thetaprime-store")
    """Folder of everything the server remembers. Made if it does not exist."""
    row_bytes: pydantic.NonNegativeInt = ROW_BYTES
    """A payload or policy of up to so many bytes lies in the store's database; a larger one is a file beside it."""
    recent_bytes: pydantic.PositiveInt = RECENT_BYTES
    """Memory for what was lately read from the store or made of it, for the next call of its session."""
    zoo: tuple[Path, ...] = pydantic.Field(default_factory=_shipped_zoo)
    """Folders of meta-policies, each laid out as <name>/<version>/manifest.json."""
    catalog_seconds: pydantic.PositiveFloat = 10.0
    """Seconds between two looks into the zoo folders for meta-policies that came or went."""
    metrics_address: str = ""
    """Host and port of the Prometheus metrics; none are served where this is empty."""
    probe_seconds: pydantic.PositiveFloat = 5.0
    """Seconds between two test writes to the store; while one fails, the health service says NOT_SERVING."""
    tracing: bool = False
    """Record OpenTelemetry spans; OTEL_EXPORTER_OTLP_ENDPOINT says where to send them."""
    workers: pydantic.PositiveInt = 1
    """Server processes that share the address and the store; limits that are no store's are each process's own."""
    adaptation_threads: pydantic.PositiveInt = pydantic.Field(default_factory=_cores_of_one_process)
    """Adaptation steps that one process takes at once, each on one thread; by default the workers share the cores."""
    queue: pydantic.NonNegativeInt = 64
    """Adaptation steps of one tenant that may wait for a thread; beyond these, calls are asked to come again."""
    max_sessions: pydantic.PositiveInt = 10_000
    """Sessions that may be open at once."""
    max_tenant_sessions: pydantic.PositiveInt | None = None
    """Sessions that each tenant may have open at once; the tokens file may give one another number, here as below."""
    max_tenant_bytes: pydantic.PositiveInt | None = None
    """Bytes of payloads and policies that each tenant may have stored."""
    max_tenant_steps: pydantic.PositiveInt | None = None
    """Environment steps that each tenant may have stored."""
    max_tenant_adaptations_per_second: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """Adaptation steps that each tenant may take a second, in the mean."""
    max_upload_bytes: pydantic.PositiveInt = 16 * _MIB
    """Payload bytes of one upload."""
    max_inflight_bytes: pydantic.PositiveInt = 256 * _MIB
    """Payload bytes of all uploads that are arriving at once."""
    max_upload_trajectories: pydantic.PositiveInt = 1_000
    """Trajectories in one upload."""
    max_upload_steps: pydantic.PositiveInt = 200_000
    """Environment steps in one upload."""
    max_round_uploads: pydantic.PositiveInt = 1_000
    """Uploads in one round."""
    max_round_trajectories: pydantic.PositiveInt = 1_000
    """Trajectories in one round."""
    max_round_steps: pydantic.PositiveInt = 500_000
    """Environment steps in one round: what an adaptation step may have to hold in memory."""
    upload_idle: pydantic.PositiveFloat = 60.0
    """Seconds that an upload may pause between two messages."""
    upload_seconds: pydantic.PositiveFloat = 600.0
    """Seconds that an upload may take to arrive: its memory is set aside from its first message to its last."""
    default_ttl: pydantic.PositiveFloat = 24 * 3600.0
    """Seconds until a session expires, where its creator names no time."""
    max_ttl: pydantic.PositiveFloat = 30 * 24 * 3600.0
    """Longest time to live, in seconds, that a session may ask for."""
    keep_policies: pydantic.NonNegativeFloat = 30 * 24 * 3600.0
    """Seconds for which the policies that a session made can still be read after it has expired; what was uploaded goes
    at once."""
    drain_notice: pydantic.NonNegativeFloat = 0.0
    """Seconds from saying NOT_SERVING to refusing calls, for load balancers to notice."""
    grace: pydantic.NonNegativeFloat = 30.0
    """Seconds that running calls are given to finish when the server is told to stop."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file that either of them names."""
        file = {**env_settings(), **init_settings()}.get("config")
        sources = (init_settings, env_settings)
        return sources if file is None else (*sources, ConfigFile(settings_cls, Path(file)))

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
    def _one_upload_fits(self) -> Self:
        if self.max_inflight_bytes < self.max_upload_bytes:
            raise ValueError(
                f"max_inflight_bytes = {self.max_inflight_bytes} is below max_upload_bytes = {self.max_upload_bytes}"
            )
        return self
