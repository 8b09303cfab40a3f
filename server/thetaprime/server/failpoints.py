"""Places where a test can make the server fail: killed at once, out of disk, or on a read-only disk.

The code says ``failpoints.reach("blob.synced")`` where a crash would be worth surviving. Unless the environment
variable ``THETAPRIME_FAILPOINTS`` arms it, that is one look at an empty dictionary. Armed as ``blob.synced=kill@3`` the
third time it is reached ends the process as ``kill -9`` does: no handler runs and nothing is flushed. Several are
separated by commas. Of several workers each counts for itself, and one that is started again has none armed. `POINTS`
lists them all: a test holds it to what the code reaches, and kills a server at each.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Final

VARIABLE: Final = "THETAPRIME_FAILPOINTS"

POINTS: Final = frozenset(
    {
        "start.schema",
        "start.serving",
        "create.row",
        "create.committed",
        "blob.opened",
        "blob.half",
        "blob.synced",
        "blob.renamed",
        "blob.durable",
        "upload.received",
        "upload.verified",
        "upload.row",
        "upload.committed",
        "adapt.begun",
        "adapt.computed",
        "adapt.blobs",
        "adapt.rows",
        "adapt.committed",
        "sweep.rows",
        "sweep.blob",
        "sweep.committed",
    }
)
"""Every name, as ``<what is going on>.<what has just happened>``."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_only() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


_ACTIONS: Final[Mapping[str, Callable[[], None]]] = {"kill": _kill, "full": _disk_full, "readonly": _read_only}


class _Armed:
    """What happens at one point, and when: on its n-th visit, or on every one."""

    def __init__(self, action: Callable[[], None], visit: int | None) -> None:
        self._action, self._visit = action, visit
        self._seen = 0
        self._lock = threading.Lock()

    def reach(self) -> None:
        with self._lock:
            self._seen += 1
            due = self._visit is None or self._seen == self._visit
        if due:
            self._action()


_armed: dict[str, _Armed] = {}


def reach(point: str) -> None:
    """Passes a point; fails there if it is armed.

    Raises:
        OSError: the point is armed to run out of disk, or to find it read-only.
    """
    if _armed and (armed := _armed.get(point)) is not None:
        armed.reach()


def arm(text: str) -> None:
    """Arms the points that a text names, and disarms all others.

    Args:
        text: ``point=action`` (at every visit) or ``point=action@n`` (at the n-th), separated by commas; empty for
            none. The actions are ``kill``, ``full`` and ``readonly``.

    Raises:
        ValueError: the text does not read like that; says which part.
    """
    found: dict[str, _Armed] = {}
    for part in filter(None, text.split(",")):
        point, _, rest = part.partition("=")
        action, at, visit = rest.partition("@")
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: no failpoint {point!r}; expected one of {', '.join(sorted(POINTS))}")
        if action not in _ACTIONS or (at and not (visit.isascii() and visit.isdigit() and int(visit))):
            raise ValueError(f"{VARIABLE}: {part!r}; expected point=action or point=action@n, of {', '.join(_ACTIONS)}")
        found[point] = _Armed(_ACTIONS[action], int(visit) if at else None)
    _armed.clear()
    _armed.update(found)


def arm_from_environment() -> None:
    """Arms what the environment asks for. For the start of a server process.

    Raises:
        ValueError: as in `arm`.
    """
    arm(os.environ.get(VARIABLE, ""))
