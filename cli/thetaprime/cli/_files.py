"""Files that a command is asked to write."""

from pathlib import Path
from typing import Any, Final

import click

FIGURE_FORMATS: Final = ("png", "pdf", "svg")
CLIP_FORMATS: Final = ("mp4", "gif")


class NewFile(click.ParamType[Path]):
    """A file of one of several formats, told by its ending; refused before any work is done.

    Args:
        formats: the endings, without a dot.
    """

    name = "FILE"

    def __init__(self, formats: tuple[str, ...]) -> None:
        self._formats = formats

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Checks the ending and the folder."""
        path = Path(value)
        if path.suffix.removeprefix(".").lower() not in self._formats:
            self.fail(f"{path}; expected a file that ends with .{' or .'.join(self._formats)}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist", param, ctx)
        return path
