"""A module of a user's own, which worker processes import by its name."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from thetaprime.training.tasks.worker_pool import worker_pool


@contextlib.contextmanager
def importable(folder: Path, name: str, source: str) -> Iterator[None]:
    """Makes a module importable from a folder, and closes the workers afterwards."""
    (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        worker_pool(0).close()
