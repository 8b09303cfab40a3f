"""Failpoints: points where a test can kill the server, or make its disk full or read-only.

The code calls ``failpoints.reach("blob.synced")`` at a point where a crash must be survived. Unarmed, that costs one
look-up in an empty dictionary. The environment variable ``THETAPRIME_FAILPOINTS`` arms points, separated by commas:
``blob.synced=kill@3`` kills the process with SIGKILL when it reaches the point for the third time, so no handler runs
and nothing is flushed. Each worker counts its own visits, and a restarted worker has no point armed. Tests check that
`POINTS` lists every point of the code, and kill a server at each.
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
"""Every failpoint, named ``<operation>.<what has just happened>``."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_only() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


_ACTIONS: Final[Mapping[str, Callable[[], None]]] = {"kill": _kill, "full": _disk_full, "readonly": _read_only}


class _ArmedPoint:
    """An action at the n-th visit of a point, or at every visit."""

    def __init__(self, action: Callable[[], None], visit: int | None) -> None:
        self._action, self._visit = action, visit
        self._visits = 0
        self._lock = threading.Lock()

    def reach(self) -> None:
        with self._lock:
            self._visits += 1
            due = self._visit is None or self._visits == self._visit
        if due:
            self._action()


_armed: dict[str, _ArmedPoint] = {}


def reach(point: str) -> None:
    """Runs the action of a point, if the point is armed.

    Raises:
        OSError: the point is armed with ``full`` or ``readonly``.
    """
    if _armed and (armed := _armed.get(point)) is not None:
        armed.reach()


def arm(text: str) -> None:
    """Arms the given points, and disarms all others.

    Args:
        text: ``point=action`` (every visit) or ``point=action@n`` (the n-th visit), separated by commas. Actions:
            ``kill``, ``full`` and ``readonly``.

    Raises:
        ValueError: a part of the text is invalid.
    """
    found: dict[str, _ArmedPoint] = {}
    for part in filter(None, text.split(",")):
        point, _, rest = part.partition("=")
        action, at, visit = rest.partition("@")
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: unknown failpoint {point!r}; expected one of {', '.join(sorted(POINTS))}")
        if action not in _ACTIONS or (at and not (visit.isascii() and visit.isdigit() and int(visit))):
            raise ValueError(
                f"{VARIABLE}: {part!r}; expected point=action or point=action@n; actions: {', '.join(_ACTIONS)}"
            )
        found[point] = _ArmedPoint(_ACTIONS[action], int(visit) if at else None)
    _armed.clear()
    _armed.update(found)


def arm_from_environment() -> None:
    """Arms the points that `VARIABLE` names. For the start of a server process.

    Raises:
        ValueError: as in `arm`.
    """
    arm(os.environ.get(VARIABLE, ""))
