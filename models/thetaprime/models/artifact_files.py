"""Bounded reads of an artifact's files.

A folder can hold what no artifact has: a FIFO or a device, whose reader waits or reads without end, a link to a file
elsewhere, a file that grows. Only regular files are read, of a size that was checked before, and only inside the
artifact's folder or its zoo. Links inside these are followed: volumes of containers consist of them.
"""

import dataclasses
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from thetaprime.models.errors import ArtifactError

_READ: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
# Without waiting for the writer of a FIFO, and without following a link that has just replaced the file.
_READ_FILE: Final = _READ | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ_FOLDER: Final = _READ | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_OPENS_IN_FOLDERS: Final = os.open in os.supports_dir_fd
_CHUNK_BYTES: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class ArtifactLimits:
    """The sizes that an artifact may have; checked before memory is taken.

    Attributes:
        file_bytes: of each file.
        total_bytes: of all files together.
        parameters: numbers in θ.
    """

    file_bytes: int = 256 << 20
    total_bytes: int = 1 << 30
    parameters: int = 1 << 23


class ArtifactFiles:
    """The files of one artifact.

    Args:
        directory: the artifact's folder.
        zoo: a folder of artifacts that the files may also lie in; None for no other folder.
        limits: the sizes that they may have.
    """

    def __init__(self, directory: Path, zoo: Path | None = None, limits: ArtifactLimits | None = None) -> None:
        self.directory = directory
        self.limits = limits or ArtifactLimits()
        self._roots = [each for each in (directory, zoo) if each is not None]
        self._sizes: dict[str, int] = {}

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Reads a file.

        Args:
            name: of the file.
            limit: most bytes; None for the limit of every file.

        Raises:
            ArtifactError: the file is missing, not regular, outside the folders, too large, or changes meanwhile.
        """
        with self._open(name, limit) as (file, size):
            # One byte more than there should be.
            data = file.read(size + 1)
        self._check_length(name, size, len(data))
        return data

    def digest(self, name: str) -> str:
        """Returns the SHA-256 (hex) of a file, with the memory of a part of it.

        Raises:
            ArtifactError: as `read`.
        """
        digest, length = hashlib.sha256(), 0
        with self._open(name, None) as (file, size):
            while length <= size and (chunk := file.read(min(_CHUNK_BYTES, size + 1 - length))):
                digest.update(chunk)
                length += len(chunk)
        self._check_length(name, size, length)
        return digest.hexdigest()

    @staticmethod
    def _check_length(name: str, expected: int, found: int) -> None:
        if found != expected:
            raise ArtifactError(name, f"changed while it was read: {found} bytes of {expected}")

    @contextmanager
    def _open(self, name: str, limit: int | None) -> Iterator[tuple[IO[bytes], int]]:
        """Opens a regular file; yields it with its size."""
        try:
            descriptor = self._open_inside(name)
        except ArtifactError:
            raise
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
            raise ArtifactError(name, f"cannot be read: {problem}") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_regular(name, status)
            most = self.limits.file_bytes if limit is None else min(limit, self.limits.file_bytes)
            if status.st_size > most:
                raise ArtifactError(name, f"{status.st_size} bytes; expected at most {most}")
            self._sizes[name] = status.st_size
            if (total := sum(self._sizes.values())) > self.limits.total_bytes:
                raise ArtifactError(
                    name, f"with it the artifact has {total} bytes; expected at most {self.limits.total_bytes}"
                )
            yield file, status.st_size

    def _open_inside(self, name: str) -> int:
        target = os.path.realpath(self.directory / name, strict=True)
        roots = [os.path.realpath(each, strict=True) for each in self._roots]
        root = next((each for each in roots if os.path.commonpath((each, target)) == each), None)
        if root is None:
            raise ArtifactError(name, f"a link to {target}, outside {' and '.join(roots)}")
        if not _OPENS_IN_FOLDERS:
            _check_regular(name, Path(target).lstat())
            return os.open(target, _READ_FILE)
        # Folder by folder: none of them can be replaced by a link meanwhile.
        *folders, file = Path(target).relative_to(root).parts or ("",)
        parent = os.open(root, _READ_FOLDER)
        try:
            for folder in folders:
                child = os.open(folder, _READ_FOLDER, dir_fd=parent)
                os.close(parent)
                parent = child
            # Before it is opened: opening a device may already do something.
            _check_regular(name, os.stat(file, dir_fd=parent, follow_symlinks=False))
            return os.open(file, _READ_FILE, dir_fd=parent)
        finally:
            os.close(parent)


def _check_regular(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for test, kind in _KINDS.items() if test(status.st_mode)), "a special file")
        raise ArtifactError(name, f"cannot be read: {kind}; expected a regular file")


_KINDS: Final = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISLNK: os.strerror(errno.ELOOP).lower(),
}
