"""The manifest of an artifact: specification and provenance of a meta-policy, and the digest of every file."""

import json
import re
from typing import Any, Final

import pydantic

from thetaprime.models.errors import ArtifactError
from thetaprime.models.parameters import digest_bytes
from thetaprime.models.spec import AdaptationSpec, EnvironmentContract, PolicySpec, Spec

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1 << 20
"""Largest manifest."""
_MAX_DEPTH: Final = 32
_MAX_FILES: Final = 1_000
_PLAIN_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")
_SHOWN: Final = 80


_TOO_DEEP: Final = f"nested too deeply; expected at most {_MAX_DEPTH} levels"


class Amendment(Spec):
    """A change of settings during a run."""

    iteration: int
    """The last iteration under the earlier settings."""
    before: dict[str, Any]
    """The earlier values of the changed settings."""


class Decision(Spec):
    """A setting that was measured or derived instead of given."""

    setting: str
    """Dotted name of the setting."""
    value: Any
    """Its value."""
    reason: str
    """The measurement or rule behind it, in one line."""


class ComparisonRun(Spec):
    """The training run of a comparison policy."""

    iterations: int
    """Outer-loop iterations taken."""
    environment_steps: int
    """Environment steps taken."""
    wall_seconds: float
    """Training time, over all resumed parts of the run."""
    config: dict[str, Any]
    """The whole training configuration."""
    amendments: list[Amendment] = pydantic.Field(default_factory=list)
    """Earlier settings of the run, oldest first."""
    warm_start: "ComparisonRun | None" = None
    """The run that gave the initial parameters, if they were not random. Its steps and its time count here, too."""


class Provenance(Spec):
    """The origin of the parameters."""

    distribution: str
    """The task distribution, as given to ``thetaprime train``."""
    config: dict[str, Any]
    """The whole training configuration."""
    amendments: list[Amendment] = pydantic.Field(default_factory=list)
    """Earlier settings of the run, oldest first."""
    recipe: tuple[Decision, ...] = ()
    """The settings that the recipe decided, with its reasons; empty if all were given."""
    warm_start: ComparisonRun | None = None
    """The run that gave the initial parameters, if they were not random."""
    exploration_std_factor: float = 1.0
    """Factor that was applied to the standard deviation of the run's policy."""
    seed: int
    """Seed of the run."""
    iterations: int
    """Outer-loop iterations taken."""
    environment_steps: int
    """Environment steps taken in meta-training, including those of `warm_start`."""
    wall_seconds: float
    """Training time, over all resumed parts of the run."""
    created: str
    """Time of the export, in UTC (ISO 8601)."""
    machine: str
    """Processor count and architecture."""
    versions: dict[str, str]
    """Versions of Python and the packages that computed the parameters."""
    comparisons: dict[str, ComparisonRun] = pydantic.Field(default_factory=dict)
    """The runs of the comparison policies, by method."""

    @classmethod
    def untrained(cls, distribution: str = "") -> "Provenance":
        """The provenance of parameters without a training run, for tests and trials."""
        return cls(
            distribution=distribution,
            config={},
            seed=0,
            iterations=0,
            environment_steps=0,
            wall_seconds=0.0,
            created="",
            machine="",
            versions={},
        )


class Manifest(Spec):
    """``manifest.json``."""

    schema_version: int = SCHEMA_VERSION
    """Version of this schema."""
    name: str = pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=128)
    """Name of the meta-policy."""
    version: int = pydantic.Field(ge=1, le=2**31 - 1)
    """Version, counted from 1."""
    description: str
    """One line for people."""
    environment: EnvironmentContract
    """The contract of the environment."""
    policy: PolicySpec
    """The network."""
    adaptation: AdaptationSpec
    """The inner loop it was meta-trained for."""
    provenance: Provenance
    """The origin of θ."""
    files: dict[str, str] = pydantic.Field(max_length=_MAX_FILES)
    """SHA-256 (hex) of every other file of the artifact, by name."""
    digest: str = ""
    """SHA-256 (hex) of this manifest with the field itself empty."""

    @pydantic.field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not _PLAIN_NAME.fullmatch(name) or name in (".", "..", MANIFEST_NAME):
                raise ValueError(f"{name[:_SHOWN]!r} is not the plain name of a file beside the manifest")
        return files

    def complete(self) -> "Manifest":
        """This manifest with every default set explicitly, so that a later default cannot change its meaning."""
        return Manifest.model_validate_json(self.model_dump_json())

    def sealed(self) -> "Manifest":
        """This manifest with its digest filled in."""
        blank = self.model_copy(update={"digest": ""})
        return self.model_copy(update={"digest": digest_bytes(blank.to_bytes())})

    def to_bytes(self) -> bytes:
        """The manifest as JSON, indented, fields in order; equal manifests give equal bytes.

        Fields that were never set are omitted, so a manifest of an earlier version keeps its bytes and digest.
        """
        return (self.model_dump_json(indent=2, exclude_unset=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Reads and checks a manifest.

        Raises:
            ArtifactError: not JSON, a newer schema, an invalid field, or a digest mismatch.
        """
        try:
            raw = json.loads(data)
        except ValueError as error:
            raise ArtifactError(MANIFEST_NAME, f"not JSON: {error}") from error
        except RecursionError as error:
            raise ArtifactError(MANIFEST_NAME, _TOO_DEEP) from error
        _check_depth(raw)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            hint = "; a newer thetaprime wrote it: upgrade to read it" if newer else ""
            raise ArtifactError(
                MANIFEST_NAME, f"schema_version {version!r}; this thetaprime reads {SCHEMA_VERSION}{hint}"
            )
        try:
            manifest = cls.model_validate_json(data)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(MANIFEST_NAME, f"{field[:_SHOWN]}: {first['msg']}") from error
        if manifest.sealed().to_bytes() != data:
            raise ArtifactError(MANIFEST_NAME, "its digest does not fit its content")
        return manifest


def _check_depth(value: Any) -> None:
    # A level at a time: a function that calls itself has limits of the interpreter's.
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ArtifactError(MANIFEST_NAME, _TOO_DEEP)
