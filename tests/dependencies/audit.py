"""Looks every version of constraints.txt up in databases of advisories.

    python -m tests.dependencies.audit

Exit status: 0 if no version has a known vulnerability, 1 if one has, 2 if a version could not be looked up, because no
database was reached or none knows the package. pip-audit alone ends with 0 there.
"""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.dependencies.pin import CONSTRAINTS, read_entries

SOURCES: Final = ("osv", "pypi")
"""pip-audit's names of the databases, in the order in which they are asked."""
_TIMEOUT_SECONDS: Final = "15"

Source = Callable[[Mapping[str, str]], dict[str, list[str] | None]]
"""Versions by package -> by package the ids of its advisories, or None if the database could not look it up."""


def main() -> int:
    """Audits the file; returns the exit status."""
    pins = {name: version for name, (version, _, _) in read_entries(CONSTRAINTS.read_text()).items()}
    return audit(pins, {name: functools.partial(ask, name) for name in SOURCES})


def audit(pins: Mapping[str, str], sources: Mapping[str, Source]) -> int:
    """Asks one database after the other for what is not known yet, prints the findings, and returns the exit status."""
    unknown, vulnerable = dict(pins), 0
    for source, look_up in sources.items():
        if not unknown:
            break
        try:
            found = look_up(dict(unknown))
        except OSError as error:
            sys.stdout.write(f"{source}: not reached: {error}\n")
            continue
        for name, advisories in found.items():
            if advisories is None:
                continue
            version = unknown.pop(name)
            if advisories:
                vulnerable += 1
                sys.stdout.write(f"{name} {version}: {', '.join(advisories)} ({source})\n")
    sys.stdout.write(f"{len(pins) - len(unknown)} of {len(pins)} versions looked up, {vulnerable} with advisories\n")
    if unknown:
        sys.stdout.write(f"NOT AUDITED, no database was reached that knows them: {', '.join(sorted(unknown))}\n")
    return 1 if vulnerable else 2 if unknown else 0


def ask(source: str, pins: Mapping[str, str]) -> dict[str, list[str] | None]:
    """Asks one database through pip-audit.

    Raises:
        ConnectionError: the database did not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip"),
                *("--vulnerability-service", source, "--timeout", _TIMEOUT_SECONDS),
                *("--format", "json", "--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
        )
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError as error:
        lines = done.stderr.strip().splitlines() or ["pip-audit printed nothing"]
        raise ConnectionError(lines[-1][:200]) from error
    return {
        each["name"]: None if "skip_reason" in each else [advisory["id"] for advisory in each["vulns"]]
        for each in dependencies
    }


if __name__ == "__main__":
    sys.exit(main())
