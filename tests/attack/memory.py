"""Measures the memory of a server's processes, and bounds it: by a cgroup where one can be made, or by a kill."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.faults.connections import resident_kib

_SAMPLE_SECONDS: Final = 0.02
_CGROUP: Final = Path("/sys/fs/cgroup")


def processes(pid: int) -> list[int]:
    """Returns a process and its descendants; none if it has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in processes(int(child)))]


def resident_mib(pid: int) -> float:
    """Returns the resident memory of a process and its descendants, in MiB."""
    total = 0
    for each in processes(pid):
        with contextlib.suppress(OSError):
            total += resident_kib(each)
    return total / 1024


class MemoryWatch:
    """Watches the resident memory of a process and its descendants, for the duration of the context.

    Args:
        pid: the process.
        limit: MiB above which the process is killed, as the kernel would.

    Attributes:
        peak: the most that was seen since it was last set, in MiB.
    """

    def __init__(self, pid: int, limit: float) -> None:
        self._pid, self._limit = pid, limit
        self.peak = 0.0
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_event.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop_event.wait(_SAMPLE_SECONDS):
            found = resident_mib(self._pid)
            self.peak = max(self.peak, found)
            if found > self._limit:
                for each in processes(self._pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)


@contextlib.contextmanager
def memory_cgroup(pid: int, limit: float) -> Iterator[bool]:
    """Moves a process into a cgroup with a limit of memory, in MiB; yields whether that was possible.

    Child processes that start later are in the cgroup too.
    """
    version_1 = _CGROUP / "memory"
    parent, name = (version_1, "memory.limit_in_bytes") if version_1.is_dir() else (_CGROUP, "memory.max")
    group = parent / f"thetaprime-attack-{pid}"
    try:
        group.mkdir()
    except OSError:
        yield False
        return
    try:
        try:
            (group / name).write_text(str(int(limit * (1 << 20))))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            yield False
            return
        yield True
    finally:
        # It can be removed once its processes have ended.
        with contextlib.suppress(OSError):
            group.rmdir()
