"""Pictures of 2D navigation, for `PointNavigation.render`."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_SIDE: Final = 400  # pixels
_REACH: Final = 0.8  # half the side of the smallest square shown, in the environment's units
_OVERSAMPLING: Final = 2  # Pillow's lines are jagged: draw larger, then reduce
_GRID, _PATH, _POINT, _GOAL = (232, 232, 232), (0, 114, 178), (20, 20, 20), (213, 94, 0)
_SPACING: Final = 0.2  # of the grid's lines


def draw_point(path: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Draws the path, the point at its end, and the goal, from above.

    Args:
        path: [H + 1, 2].
        goal: [2].

    Returns:
        [400, 400, 3]. The square is centered on the origin and reaches ±0.8, or to the goal or the point if farther.
    """
    reach = max(_REACH, 1.15 * float(np.abs(goal).max()), 1.05 * float(np.abs(path[-1]).max()))
    side = _SIDE * _OVERSAMPLING
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)

    def pixels(positions: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
        placed = (positions * (1.0, -1.0) / reach + 1.0) / 2.0 * side
        return [(float(x), float(y)) for x, y in placed]

    lines = np.arange(-np.floor(reach / _SPACING), np.floor(reach / _SPACING) + 1) * _SPACING
    for at in lines:
        draw.line(pixels(np.array([(at, -reach), (at, reach)])), _GRID, _OVERSAMPLING)
        draw.line(pixels(np.array([(-reach, at), (reach, at)])), _GRID, _OVERSAMPLING)
    if len(path) > 1:
        draw.line(pixels(path), _PATH, 3 * _OVERSAMPLING, joint="curve")
    ((x, y),) = pixels(goal[None])
    draw.circle((x, y), 9 * _OVERSAMPLING, outline=_GOAL, width=3 * _OVERSAMPLING)
    ((x, y),) = pixels(path[-1:])
    draw.circle((x, y), 6 * _OVERSAMPLING, fill=_POINT)
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
