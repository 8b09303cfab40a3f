"""Prints requirements for the lowest versions that pyproject.toml allows, with the tools that the client's tests need.

    python -m tests.dependencies.floors > requirements.txt

`make floors` installs these into an environment, and runs the client's tests there on a server of the lowest versions.
"""

import re
import sys
import tomllib
from typing import Final

from tests.dependencies.pin import CONSTRAINTS, ROOT, read_entries

# Not of the client or the server; at the versions of constraints.txt.
TOOLS: Final = ("gymnasium", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist")
_FLOOR: Final = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)$")


def main() -> None:
    """Prints the requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = read_entries(CONSTRAINTS.read_text())
    for requirement in project["dependencies"] + project["optional-dependencies"]["server"]:
        found = _FLOOR.match(requirement)
        if found is None:
            sys.exit(f"pyproject.toml: {requirement!r}; expected NAME>=VERSION")
        sys.stdout.write("{}=={}\n".format(*found.groups()))
    for name in TOOLS:
        sys.stdout.write(f"{name}=={pins[name][0]}\n")


if __name__ == "__main__":
    main()
