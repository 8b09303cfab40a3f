"""Files and folders that a command writes: checked before any work begins."""

import os
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from thetaprime.cli._command import option

FIGURE_FORMATS: Final = ("png", "pdf", "svg")
CLIP_FORMATS: Final = ("mp4", "gif")

# Eager: the files are checked while they are parsed, and must know.
force_option = option("--force", section="Output", is_flag=True, is_eager=True, help="Overwrite files that exist.")


class NewFile(click.ParamType[Path]):
    """A file to write. Refused where it exists without ``--force``, or cannot be written.

    Args:
        formats: the endings that are accepted, without a dot; empty accepts every name.
    """

    name = "FILE"

    def __init__(self, formats: tuple[str, ...] = ()) -> None:
        self._formats = formats

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Checks the ending, the folder and the file."""
        path = Path(value)
        if self._formats and path.suffix.removeprefix(".").lower() not in self._formats:
            self.fail(f"{path}; expected a file that ends with .{' or .'.join(self._formats)}", param, ctx)
        problem = problem_of_file(path, force=ctx is not None and bool(ctx.params.get("force")))
        if problem:
            self.fail(problem, param, ctx)
        return path


class NewFolder(click.ParamType[Path]):
    """A folder to write into, created where it does not exist. Refused where it cannot be written."""

    name = "FOLDER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Checks the folder, or the nearest folder above it that exists."""
        path = Path(value)
        if problem := problem_of_folder(path):
            self.fail(problem, param, ctx)
        return path


def problem_of_file(path: Path, *, force: bool) -> str:
    """Says why a file cannot be written; empty where it can."""
    if path.is_dir():
        return f"{path} is a folder; expected a file"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not path.exists():
        return _problem_of_writing_into(path.parent)
    if not force:
        return f"{path} exists; choose another name, or overwrite it with --force"
    return "" if os.access(path, os.W_OK) else f"{path} cannot be written: permission denied"


def problem_of_folder(path: Path) -> str:
    """Says why files cannot be written into a folder, which may not exist yet; empty where they can."""
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    return _problem_of_writing_into(nearest) if nearest.is_dir() else f"{nearest} is not a folder"


def require_new_file(path: Path, hint: str, *, force: bool, parents: bool = True) -> None:
    """Checks a file whose name is known only when the command runs.

    Args:
        path: the file.
        hint: the option to blame.
        force: whether an existing file is overwritten.
        parents: whether the command creates the file's folder where it does not exist.

    Raises:
        click.BadParameter: the file exists, or cannot be written.
    """
    if path.parent.exists() or not parents:
        problem = problem_of_file(path, force=force)
    else:
        problem = problem_of_folder(path.parent)
    if problem:
        raise click.BadParameter(problem, param_hint=hint)


def _problem_of_writing_into(folder: Path) -> str:
    # A file system that is read-only or full refuses root too, whom permissions do not stop.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"the folder {folder} cannot be written: {error.strerror}"
