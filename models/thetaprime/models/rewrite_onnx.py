"""Writes the ONNX files of artifacts again, from their parameters.

Run ``python -m thetaprime.models.rewrite_onnx [FOLDER ...]`` after a change of the ONNX form. Only policy.onnx and its
digest in manifest.json change. Without a folder, every artifact of the zoo is rewritten.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from thetaprime.models.artifact import ONNX_NAME, load_meta_policy
from thetaprime.models.artifact_folders import find_meta_policies, zoo_directory
from thetaprime.models.manifest import MANIFEST_NAME


def main(folders: Sequence[str]) -> None:
    """Rewrites some artifacts."""
    for directory in map(Path, folders) if folders else find_meta_policies(zoo_directory()):
        changed = rewrite_onnx(directory)
        sys.stdout.write(f"{directory}: {'rewritten' if changed else 'unchanged'}\n")


def rewrite_onnx(directory: Path) -> bool:
    """Writes an artifact's ONNX file and manifest again.

    Returns:
        Whether the ONNX file changed.

    Raises:
        ArtifactError: the artifact is damaged.
    """
    meta_policy = load_meta_policy(directory)
    manifest = meta_policy.manifest
    exported = meta_policy.export(meta_policy.parameters)
    files = {**manifest.files, ONNX_NAME: exported.onnx_sha256}
    (directory / ONNX_NAME).write_bytes(exported.onnx)
    (directory / MANIFEST_NAME).write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())
    return files != manifest.files


if __name__ == "__main__":
    main(sys.argv[1:])
