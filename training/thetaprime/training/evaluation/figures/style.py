"""What all figures share: colors that can be told apart by everybody, sizes for print, files."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito (2008): told apart with every kind of color vision, and by their lightness in gray.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
GRAY: Final = "#767676"

WIDTH: Final = 7.0
"""Inches: both columns of a paper's page."""
FORMATS: Final = ("png", "pdf", "svg")
"""What `save` writes, by the file's ending."""
_RESOLUTION: Final = 200
_SETTINGS: Final[dict[Any, Any]] = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.fontsize": 7.5,
    "lines.markersize": 4.0,
    "pdf.fonttype": 42,  # letters, not outlines: publishers ask for it
    "svg.hashsalt": "thetaprime",  # ids by content, so that the same figure is the same file
}

_SUBSCRIPTS: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved in the body look alike."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that arranges its panels itself.

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
    """A number as in print: with a minus sign, and no minus before zero.

    Args:
        value: the number.
        form: as `format` takes it, without the option ``z``.
    """
    return format(value, f"z{form}").replace("-", "−")


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    # Without the software's name, the same figure has the same bytes whatever version drew it.
    figure.savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, as what the path's ending says: one of `FORMATS`.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    target = Path(path)
    kind = target.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"{target}: ends with {target.suffix!r}; expected one of {', '.join(FORMATS)}")
    if kind == "png":
        target.write_bytes(png_bytes(figure))
        return
    with styled():
        # Without the date: drawn again, the file is the same.
        figure.savefig(target, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {"Date": None})
