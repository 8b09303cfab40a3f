"""The style of all figures: colors for every kind of color vision, sizes for print, file formats."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito (2008): distinct with every kind of color vision, and in gray by their lightness.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
GRAY: Final = "#767676"

WIDTH: Final = 7.0
"""Inches: the width of a paper's two columns."""
FORMATS: Final = ("png", "pdf", "svg")
"""File formats of `save`, by the path's ending."""
_RESOLUTION: Final = 200
_SETTINGS: Final[dict[Any, Any]] = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.fontsize": 7.5,
    "lines.markersize": 4.0,
    "pdf.fonttype": 42,  # text as letters, not outlines, as publishers require
    "svg.hashsalt": "thetaprime",  # ids by content: the same figure gives the same file
}

_SUBSCRIPTS: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Applies the style to figures drawn and saved in the block."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with automatic layout.

    Args:
        width: in inches.
        height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def policy_name(rounds: int) -> str:
    """θ, θ′₁, θ′₂, …, by the number of rounds."""
    return "θ" if rounds == 0 else f"θ′{rounds}".translate(_SUBSCRIPTS)


def number(value: float, form: str) -> str:
    """A number as in print: with a true minus sign, and none before zero.

    Args:
        value: the number.
        form: a format specification without the option ``z``.
    """
    return format(value, f"z{form}").replace("-", "−")


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    # Without the software's version, the same figure gives the same bytes.
    figure.savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, in the format of the path's ending.

    Raises:
        ValueError: the ending is not one of `FORMATS`.
        OSError: the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"{target}: ends with {target.suffix!r}; expected one of {', '.join(FORMATS)}")
    if kind == "png":
        target.write_bytes(png_bytes(figure))
        return
    with styled():
        # Without the date, the same figure gives the same file.
        figure.savefig(target, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {"Date": None})
