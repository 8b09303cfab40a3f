"""Watches the zoo folders, and updates the catalog of a running server."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from thetaprime.models import ArtifactLimits, scan_meta_policies
from thetaprime.server.catalog.catalog import Catalog, CatalogEntry

# Name, size, modification time and inode of every file: they change while a folder is being copied.
_Fingerprint: TypeAlias = frozenset[tuple[str, int, int, int]]
# A session whose version was deleted must not make each of its calls scan all folders.
_RESCAN_SECONDS: Final = 1.0
_FINGERPRINT_ENTRIES: Final = 4096

_log = structlog.get_logger()


class CatalogWatch:
    """Adds artifacts that appear in the zoo folders to the catalog, and withdraws artifacts that disappear.

    A served version is never reloaded: if its files are overwritten, the loaded version stays and a warning is logged.
    An artifact that cannot be loaded is logged once, and retried whenever its files change.

    Args:
        catalog: the catalog, loaded from these folders.
        zoo: the folders.
        on_scanned: called with the number of offered versions, now and after each scan.
        limits: the sizes that an artifact may have; None for the defaults.
    """

    def __init__(
        self,
        catalog: Catalog,
        zoo: Iterable[Path],
        on_scanned: Callable[[float], object] = lambda _: None,
        limits: ArtifactLimits | None = None,
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
        self._unscanned: set[Path] = set()
        self._limits = limits or ArtifactLimits()
        catalog.rescan = self._rescan
        on_scanned(len(catalog))

    def scan(self) -> None:
        """Scans all folders once. Blocks."""
        with self._scanning:
            self._scan_all()
            self._scanned = time.monotonic()
        self._on_scanned(len(self._catalog))

    def _rescan(self) -> None:
        """Scans, unless the last scan was within a second."""
        if time.monotonic() - self._scanned >= _RESCAN_SECONDS:
            self.scan()

    def _scan_all(self) -> None:
        for folder in self._zoo:
            if not folder.is_dir():
                # An unmounted volume does not withdraw its versions.
                if folder not in self._lost:
                    _log.error("zoo folder is missing", zoo=str(folder))
                self._lost.add(folder)
                continue
            self._lost.discard(folder)
            self._scan(folder)

    def _scan(self, folder: Path) -> None:
        present, problems = scan_meta_policies(folder)
        unscanned = {Path(error.file) for error in problems}
        for error in problems:
            if Path(error.file) not in self._unscanned:
                _log.error("zoo folder not scanned", zoo=error.file, problem=error.problem)
        self._unscanned = {each for each in self._unscanned if folder not in (each, each.parent)} | unscanned
        for directory in sorted({*self._seen, *self._refused} - {*present}):
            # The versions of a folder that cannot be scanned stay as they are.
            if directory.parent.parent == folder and not unscanned & {folder, directory.parent}:
                self._forget(directory)
        for directory in present:
            # Taken before the files are read, so the next scan notices a change during the read.
            fingerprint = _fingerprint(directory)
            if self._seen.get(directory) != fingerprint:
                self._seen[directory] = fingerprint
                self._try_to_load(directory)

    def _forget(self, directory: Path) -> None:
        self._seen.pop(directory, None)
        self._refused.discard(directory)
        entry = self._served.pop(directory, None)
        if entry is not None:
            self._catalog.withdraw(entry)
            _log.info("meta-policy withdrawn", meta_policy=entry.label)
            # Retry refused artifacts: one may have had the same name and version.
            for refused in self._refused:
                self._seen.pop(refused, None)

    def _try_to_load(self, directory: Path) -> None:
        try:
            entry = CatalogEntry.load(directory, self._limits)
            served = self._served.get(directory)
            if served is None:
                self._catalog.add(entry)
            elif served.meta_policy.manifest != entry.meta_policy.manifest:
                raise ValueError(f"{directory} was overwritten; {served.label} stays as loaded")
        # A broken folder must not keep the others from being served.
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
    """Returns the fingerprint of a folder, by its first entries; empty where the folder cannot be read."""
    try:
        with os.scandir(directory) as entries:
            files = [(entry.name, _status(entry)) for entry in itertools.islice(entries, _FINGERPRINT_ENTRIES)]
    except OSError:
        return frozenset()
    return frozenset((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in files)


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    """Returns the status of a file, of a dangling link its own."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
