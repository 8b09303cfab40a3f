"""Generates the synchronous client from the asynchronous one: ``python client/derive_sync.py FOLDER``.

``make sync-client`` writes the client's folder; ``make check`` writes another folder and compares.
"""

import subprocess
import sys
from pathlib import Path

import unasync

SOURCE = Path(__file__).parent / "thetaprime" / "client" / "_async"
WRITTEN_BY_HAND = {"__init__.py", "runtime.py"}
NOTICE = "# Generated from _async/{name} by `make sync-client`: edit that file.\n"


def main(target: Path) -> None:
    """Writes the modules of ``_sync`` into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    rule = unasync.Rule(f"{SOURCE}/", f"{target}/", additional_replacements={"_async": "_sync"})
    names = sorted({path.name for path in SOURCE.glob("*.py")} - WRITTEN_BY_HAND)
    unasync.unasync_files([str(SOURCE / name) for name in names], [rule])
    for name in names:
        path = target / name
        path.write_text(NOTICE.format(name=name) + path.read_text())
    files = [str(target / name) for name in names]
    # Removed words change line breaks and the order of imports.
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--select", "I", "--fix", *files], check=True)
    subprocess.run([*ruff, "format", "--quiet", *files], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
