"""Bounded reads of regular files."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from thetaprime import wire
from thetaprime.client._errors import PolicyVerificationError

# A FIFO without a writer would keep an ordinary open waiting.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def read_policy_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a policy's file.

    Raises:
        PolicyVerificationError: the path leads to a FIFO, a device or a socket, or the file is larger than a policy
            may be.
        OSError: the file cannot be read.
    """
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise PolicyVerificationError(f"{Path(path)}: not a regular file; expected an ONNX file")
        if status.st_size > wire.MAX_ONNX_BYTES:
            raise PolicyVerificationError(
                f"{Path(path)}: {status.st_size} bytes; expected at most {wire.MAX_ONNX_BYTES}"
            )
        # A file may grow after its size was taken. The reader of the bytes refuses one byte too many.
        return file.read(wire.MAX_ONNX_BYTES + 1)
