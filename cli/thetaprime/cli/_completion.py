"""Values that a shell completes. Nothing here imports torch, gymnasium or the client."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from thetaprime.cli._command import RAW_ARGUMENTS

MANIFEST: Final = "manifest.json"
PROFILES: Final = ("default", "epsilon", "unity-mlagents", "godot-rl", "rsl-rl", "leapp", "robot")
TASKS: Final = (
    *("point-navigation", "half-cheetah-velocity", "half-cheetah-direction", "ant-velocity", "ant-direction"),
    *("half-cheetah-body", "ant-leg", "ant-fourth-leg", "walker-body"),
)


def artifacts(zoo: Path | None = None) -> dict[str, Path]:
    """The artifacts of a folder by ``name@version``, by name and then by version.

    Args:
        zoo: the folder; None for the shipped zoo.
    """
    folder = _shipped_zoo() if zoo is None else zoo
    found = [path.parent for path in folder.glob(f"*/*/{MANIFEST}") if path.parent.name.isdigit()]
    found.sort(key=lambda path: (path.parent.name, int(path.name)))
    return {f"{path.parent.name}@{path.name}": path for path in found}


def meta_policy_names(zoo: Path | None = None) -> list[str]:
    """Every ``name`` and ``name@version`` in a folder of artifacts; names come first."""
    labels = list(artifacts(zoo))
    return [*dict.fromkeys(label.partition("@")[0] for label in labels), *labels]


def complete_meta_policy(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes META_POLICY from the folder of ``--zoo``, or from the shipped zoo."""
    zoo = context.params.get("zoo")
    names = meta_policy_names(None if zoo is None else Path(zoo))
    # Versions only once the name is written: most people want the newest.
    return [name for name in names if name.startswith(incomplete) and ("@" in incomplete or "@" not in name)]


def complete_tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of task distributions."""
    return [name for name in TASKS if name.startswith(incomplete)]


def complete_profile(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of the forms of a policy."""
    return [name for name in PROFILES if name.startswith(incomplete)]


def complete_environment(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the environment that the given META_POLICY was trained for, or those of every shipped one."""
    words = context.meta.get(RAW_ARGUMENTS, ())  # not parsed: an option in front of the cursor lacks its value
    found = {label: _environment_id(path / MANIFEST) for label, path in artifacts().items()}
    chosen = {each for label, each in found.items() if label in words or label.partition("@")[0] in words}
    return sorted(each for each in chosen or set(found.values()) if each.startswith(incomplete))


def _shipped_zoo() -> Path:
    # Found without importing the package: a client is installed without what the package needs.
    spec = importlib.util.find_spec("thetaprime.models")
    folders: Iterator[Any] = iter(spec.submodule_search_locations or ()) if spec else iter(())
    return Path(next(folders, ".")) / "zoo"


def _environment_id(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_text())["environment"]["environment_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
