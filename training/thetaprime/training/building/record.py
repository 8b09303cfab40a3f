"""What a build has finished, in a file: the same command goes on from it."""

import hashlib
import inspect
import sys
from pathlib import Path
from typing import Any, Final

import pydantic

from thetaprime.training.tasks.protocol import TaskDistribution

RECORD_NAME: Final = "build.json"


class BuildError(ValueError):
    """A build cannot begin or go on; the message says what to change."""


class ContractError(BuildError):
    """The task distribution breaks its contract."""


class Exported(pydantic.BaseModel):
    """An artifact that a build wrote, or was writing.

    Attributes:
        folder: of the artifact.
        comparisons: whether it has comparisons.
        complete: whether it was finished.
    """

    folder: str
    comparisons: bool
    complete: bool = False


class BuildRecord(pydantic.BaseModel):
    """The state of a build.

    Attributes:
        tasks: the reference of the task distribution.
        seed: of the build.
        settings: the configuration that was given, without measurements; empty for none.
        source: digest of the distribution's module when the contract test passed.
        taken: seconds of each finished stage.
        exported: the artifact.
    """

    tasks: str
    seed: int
    settings: dict[str, Any] = {}
    source: str = ""
    taken: dict[str, float] = {}
    exported: Exported | None = None

    def save(self, runs: Path) -> None:
        """Writes the record. A crash leaves the previous one in place."""
        runs.mkdir(parents=True, exist_ok=True)
        written = runs / f"{RECORD_NAME}.new"
        written.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        written.replace(runs / RECORD_NAME)


def open_record(runs: Path, begun: BuildRecord) -> BuildRecord:
    """Reads the record of a folder, or begins one.

    Args:
        runs: folder of the build.
        begun: a new record.

    Raises:
        BuildError: the record is damaged, or is of another build.
    """
    path = runs / RECORD_NAME
    if not path.is_file():
        return begun
    try:
        found = BuildRecord.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise BuildError(f"{path}: not the record of a build; choose another folder with --runs") from error
    for name in ("tasks", "seed", "settings"):
        before, now = getattr(found, name), getattr(begun, name)
        if before != now:
            raise BuildError(
                f"{path}: {name} is {now!r}; the build in this folder began with {before!r}: choose another folder "
                "with --runs"
            )
    return found


def source_digest(distribution: TaskDistribution) -> str:
    """Digest of the module that defines a distribution; empty where it has no file."""
    module = sys.modules.get(type(distribution).__module__)
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest() if module else ""
    except (OSError, TypeError):
        return ""
