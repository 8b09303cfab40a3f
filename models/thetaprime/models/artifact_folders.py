"""Finds artifacts in folders: ``<folder>/<name>/<version>/``."""

from importlib import resources
from pathlib import Path

from thetaprime.models.errors import ArtifactError
from thetaprime.models.manifest import MANIFEST_NAME


def zoo_directory() -> Path:
    """The folder of the shipped meta-policies."""
    return Path(str(resources.files("thetaprime.models"))) / "zoo"


def find_meta_policies(root: Path) -> list[Path]:
    """The artifacts in a folder, sorted by name and then by version.

    Returns:
        Every ``<root>/<name>/<version>`` with a manifest.
    """
    found = [path.parent for path in root.glob(f"*/*/{MANIFEST_NAME}") if path.parent.name.isdigit()]
    return sorted(found, key=lambda path: (path.parent.name, int(path.name)))


def resolve_meta_policy(reference: str, root: Path | None = None) -> Path:
    """The artifact that a reference names.

    Args:
        reference: the path of an artifact, or ``name`` (its newest version) or ``name@version`` in `root`.
        root: a folder of artifacts; None for the shipped zoo.

    Raises:
        ArtifactError: no artifact has that name.
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
