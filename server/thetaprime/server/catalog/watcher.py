"""Keeps the catalog of a running server in step with its folders."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from thetaprime.models import find_meta_policies
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry

# Name, size, time of change and inode of every file: what differs once a copy has gone on.
_Fingerprint: TypeAlias = frozenset[tuple[str, int, int, int]]
# A session whose version is gone for good must not have every call of its client read all folders.
_LOOK_SECONDS: Final = 1.0

_log = structlog.get_logger()


class CatalogWatch:
    """Adds what has come to the zoo folders, and withdraws what has left them.

    What is served is never reloaded: a version that is overwritten in its place stays as it was loaded, and is
    reported. An artifact that cannot be loaded is reported once, and tried again whenever its files have changed.

    Args:
        catalog: as it was loaded from these folders.
        zoo: the folders.
        on_scanned: called after each look with the number of versions offered, and at once.
    """

    def __init__(
        self, catalog: Catalog, zoo: Iterable[Path], on_scanned: Callable[[float], object] = lambda _: None
    ) -> None:
        self._catalog = catalog
        self._on_scanned = on_scanned
        self._scanning = threading.Lock()
        self._scanned = float("-inf")
        self._zoo = tuple(zoo)
        self._served = {entry.directory: entry for entry in catalog}
        self._seen = {directory: _fingerprint(directory) for directory in self._served}
        self._refused: set[Path] = set()
        self._lost: set[Path] = set()
        catalog.look = self._look
        on_scanned(len(catalog))

    def scan(self) -> None:
        """Looks once. Blocks."""
        with self._scanning:
            self._scan_all()
            self._scanned = time.monotonic()
        self._on_scanned(len(self._catalog))

    def _look(self) -> None:
        """Looks, unless that has just been done."""
        if time.monotonic() - self._scanned >= _LOOK_SECONDS:
            self.scan()

    def _scan_all(self) -> None:
        for folder in self._zoo:
            if not folder.is_dir():
                # A volume that is not mounted is no decision to withdraw all that it holds.
                if folder not in self._lost:
                    _log.error("zoo folder is gone", zoo=str(folder))
                self._lost.add(folder)
                continue
            self._lost.discard(folder)
            self._scan(folder)

    def _scan(self, folder: Path) -> None:
        there = find_meta_policies(folder)
        for directory in sorted({*self._seen, *self._refused} - {*there}):
            if directory.parent.parent == folder:
                self._forget(directory)
        for directory in there:
            # Taken before the files are read: what changes meanwhile is seen to differ the next time.
            fingerprint = _fingerprint(directory)
            if self._seen.get(directory) != fingerprint:
                self._seen[directory] = fingerprint
                self._try(directory)

    def _forget(self, directory: Path) -> None:
        self._seen.pop(directory, None)
        self._refused.discard(directory)
        entry = self._served.pop(directory, None)
        if entry is not None:
            self._catalog.withdraw(entry)
            _log.info("meta-policy withdrawn", meta_policy=entry.label)
            # One that was refused for having the same name and version may now come in.
            for refused in self._refused:
                self._seen.pop(refused, None)

    def _try(self, directory: Path) -> None:
        try:
            entry = CatalogEntry.load(directory)
            served = self._served.get(directory)
            if served is None:
                self._catalog.add(entry)
            elif served.meta_policy.manifest != entry.meta_policy.manifest:
                raise ValueError(f"{directory} was overwritten; {served.label} stays as it was loaded")
        # Whatever is wrong with a folder, the others are served.
        except Exception as error:
            if directory not in self._refused:
                _log.warning("meta-policy refused", directory=str(directory), problem=str(error))
            self._refused.add(directory)
            return
        self._refused.discard(directory)
        if served is None:
            self._served[directory] = entry
            _log.info("meta-policy added", meta_policy=entry.label)


def _fingerprint(directory: Path) -> _Fingerprint:
    """Of a folder that may be changing; empty where it cannot be read."""
    try:
        found = [(path.name, path.stat()) for path in directory.iterdir()]
    except OSError:
        return frozenset()
    return frozenset((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found)
