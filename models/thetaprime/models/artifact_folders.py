"""Finds artifacts in folders: ``<folder>/<name>/<version>/``."""

import itertools
import os
import re
from importlib import resources
from pathlib import Path
from typing import Final

from thetaprime.models.errors import ArtifactError
from thetaprime.models.manifest import MANIFEST_NAME

_MAX_ENTRIES: Final = 10_000
_VERSION: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


def zoo_directory() -> Path:
    """The folder of the shipped meta-policies."""
    return Path(str(resources.files("thetaprime.models"))) / "zoo"


def find_meta_policies(root: Path) -> list[Path]:
    """The artifacts in a folder, sorted by name and then by version.

    Returns:
        Every ``<root>/<name>/<version>`` with a manifest.

    Raises:
        ArtifactError: a folder has more than 10,000 entries, or cannot be read.
    """
    found, problems = scan_meta_policies(root)
    if problems:
        raise problems[0]
    return found


def scan_meta_policies(root: Path) -> tuple[list[Path], list[ArtifactError]]:
    """The artifacts in a folder, sorted by name and then by version, and the folders that could not be scanned.

    A folder that cannot be read, or has more than 10,000 entries, does not keep the others from being found.
    """
    found: list[tuple[str, int, Path]] = []
    problems: list[ArtifactError] = []

    def list_folder(folder: Path) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                names = [each.name for each in itertools.islice(entries, _MAX_ENTRIES + 1)]
        except NotADirectoryError:
            return []
        except OSError as error:
            problems.append(ArtifactError(str(folder), f"cannot be read: {error.strerror}"))
            return []
        if len(names) > _MAX_ENTRIES:
            problems.append(ArtifactError(str(folder), f"more than {_MAX_ENTRIES} entries; none of them is used"))
            return []
        return names

    for name in list_folder(root):
        if not (root / name).is_dir():
            continue
        for version in list_folder(root / name):
            directory = root / name / version
            # A manifest that is no file is refused with its name, when it is read.
            if _VERSION.fullmatch(version) and os.path.lexists(directory / MANIFEST_NAME):
                found.append((name, int(version), directory))
    return [directory for _, _, directory in sorted(found)], problems


def resolve_meta_policy(reference: str, root: Path | None = None) -> Path:
    """The artifact that a reference names.

    Args:
        reference: the path of an artifact, or ``name`` (its newest version) or ``name@version`` in `root`.
        root: a folder of artifacts; None for the shipped zoo.

    Raises:
        ArtifactError: no artifact has that name, or the folder cannot be scanned.
    """
    path = Path(reference)
    if (path / MANIFEST_NAME).is_file():
        return path
    folder = zoo_directory() if root is None else root
    name, _, version = reference.partition("@")
    known = find_meta_policies(folder)
    matching = [each for each in known if each.parent.name == name and version in ("", each.name)]
    if not matching:
        names = ", ".join(f"{each.parent.name}@{each.name}" for each in known) or "none"
        raise ArtifactError(
            reference, f"no such artifact; not a folder with a {MANIFEST_NAME}, and the zoo has: {names}"
        )
    return matching[-1]
