"""Writes constraints.txt: the versions that are installed for development, with the SHA-256 of every file of each.

    python -m tests.dependencies.pin

A version that constraints.txt has stays; to change one, edit it there and run this again. uv resolves for every
platform and Python that pyproject.toml allows, without installing anything.

torch is resolved as its CPU build: without the CUDA libraries that its build on the index asks for on Linux. pip adds
them where it installs that build.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONSTRAINTS: Final = ROOT / "constraints.txt"
SECTIONS: Final = {
    "run": ("server", "training"),
    "develop": ("dev",),
    "measure": ("bench",),
    "fuzz": ("fuzz",),
    "maintain": ("maintain",),
}
"""The sections of the file, and the extras of each. A section has what the sections above it lack."""
_HEADER: Final = """\
# Versions that were tested together, and the SHA-256 of the files of each. `make pin` writes this file; ranges are in
# pyproject.toml. The Makefile installs its sections, and pip refuses every file with another digest.
"""
_ENTRY: Final = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<marker>[^\\\n]*)(?P<hashes>(?:\\\n +--hash=\S+ ?)*)",
    re.MULTILINE,
)
_HASH: Final = re.compile(r"--hash=(\S+)")
# The lowest that every pinned version takes.
_PYTHON: Final = "3.11.5"
_CUDA: Final = ("cuda-", "nvidia-", "triton")


def main() -> None:
    """Writes the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["build-system"]["requires"]
    old = read_entries(CONSTRAINTS.read_text())
    everything = compile_extras([extra for extras in SECTIONS.values() for extra in extras], build, old)
    lines, seen = [_HEADER], {"torch"}
    for section, extras in SECTIONS.items():
        lines.append(f"\n# section: {section}\n")
        for name, entry in compile_extras(extras, build, everything).items():
            if name not in seen:
                seen.add(name)
                lines.append(format_entry(name, *entry))
    version, marker, hashes = everything["torch"]
    lines.append("\n# section: torch\n")
    lines.append(format_entry("torch", version, marker, hashes | hashes_of_other_builds(version, old)))
    CONSTRAINTS.write_text("".join(lines))
    sys.stdout.write(f"{CONSTRAINTS.name}: {len(seen)} packages\n")


Entry = tuple[str, str, frozenset[str]]
"""Version, marker and hashes of a package."""


def read_entries(text: str) -> dict[str, Entry]:
    """The packages of a requirements file, by normalized name."""
    return {
        normalize(found["name"]): (
            found["version"],
            found["marker"].strip(),
            frozenset(_HASH.findall(found["hashes"])),
        )
        for found in _ENTRY.finditer(text)
    }


def normalize(name: str) -> str:
    """The form in which package names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def format_entry(name: str, version: str, marker: str, hashes: Iterable[str]) -> str:
    """The lines of one package."""
    return (
        " \\\n    ".join(
            [f"{name}=={version}{f' {marker}' if marker else ''}", *(f"--hash={each}" for each in sorted(hashes))]
        )
        + "\n"
    )


def compile_extras(extras: Iterable[str], build: Iterable[str], pins: Mapping[str, Entry]) -> dict[str, Entry]:
    """The packages that extras and the build need, on every platform, in the versions of `pins` where it has them."""
    torch = [each for each in importlib.metadata.requires("torch") or () if "extra ==" not in each]
    with tempfile.TemporaryDirectory() as folder:
        constraints, settings, more = Path(folder, "constraints.txt"), Path(folder, "uv.toml"), Path(folder, "build.in")
        constraints.write_text("".join(f"{name}=={version}\n" for name, (version, _, _) in pins.items()))
        more.write_text("\n".join(build))
        metadata = {
            "name": "torch",
            "requires-dist": [each for each in torch if not each.startswith(_CUDA)],
        }
        settings.write_text(
            "[[dependency-metadata]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in metadata.items())
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", _PYTHON),
                *("--generate-hashes", "--no-annotate", "--no-header", "--config-file", str(settings)),
                *("--constraint", str(constraints), "pyproject.toml", str(more)),
                *(argument for extra in extras for argument in ("--extra", extra)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(done.stderr)
    return {name: entry for name, entry in read_entries(done.stdout).items() if not name.startswith("thetaprime")}


def hashes_of_other_builds(version: str, old: Mapping[str, Entry]) -> frozenset[str]:
    """The hashes of torch's builds that the index does not have: those of before, and of this machine's."""
    before = old.get("torch")
    kept = before[2] if before is not None and before[0] == version else frozenset()
    return kept | {hash_on_this_machine(f"torch=={version}")}


def hash_on_this_machine(requirement: str) -> str:
    """The hash of the file that pip installs here."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        download = (*pip, "download", "--quiet", "--no-deps", "--dest", folder, requirement)
        subprocess.run(download, check=True, capture_output=True)
        (file,) = Path(folder).iterdir()
        done = subprocess.run((*pip, "hash", str(file)), check=True, capture_output=True, text=True)
    found: list[str] = _HASH.findall(done.stdout)
    return found[0]


if __name__ == "__main__":
    main()
