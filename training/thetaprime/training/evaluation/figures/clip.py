"""Videos of several policies in the same environment, side by side."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

import av
import gymnasium
import matplotlib.font_manager
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from thetaprime.training.evaluation.figures.episodes import play, step_seconds
from thetaprime.training.evaluation.figures.style import number

FORMATS: Final = ("mp4", "gif")
"""File formats of `write_clip`, by the path's ending."""
_DEFAULT_FPS: Final = 30.0
_BAR: Final = 52  # pixels above each picture, for two lines of text
_GAP: Final = 8
_PALETTE_FRAMES: Final = 5
_TITLE, _TEXT = 20, 15  # heights of letters, in pixels
_INK, _FAINT = (20, 20, 20), (105, 105, 105)


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """One episode as frames: the start, and after each step.

    Attributes:
        caption: text above the pictures.
        shape: (height, width, 3).
        frames: H + 1 compressed frames.
        lines: H + 1 lines of text below the caption.
    """

    caption: str
    shape: tuple[int, ...]
    frames: list[bytes]
    lines: list[str]

    @classmethod
    def shoot(
        cls,
        caption: str,
        act: Callable[[Any], Any],
        env: gymnasium.Env[Any, Any],
        seed: int,
        horizon: int,
        on_frame: Callable[[], None] = lambda: None,
    ) -> Self:
        """Plays and records one episode.

        Args:
            caption: text above the pictures.
            act: observation -> action.
            env: has the render mode ``rgb_array``; is reset and not closed.
            seed: of the reset.
            horizon: the largest number of steps; 0 for no limit.
            on_frame: called after each frame.
        """
        frames: list[bytes] = []
        lines: list[str] = []
        shape: tuple[int, ...] = ()
        undiscounted_return = 0.0
        for reward, terminated, info in play(act, env, seed, horizon):
            undiscounted_return += reward
            pixels = np.ascontiguousarray(env.render(), np.uint8)
            shape = pixels.shape
            lines.append(_line(len(frames), undiscounted_return, info, env) + (" · ended" if terminated else ""))
            frames.append(zlib.compress(pixels.tobytes(), 1))  # takes a tenth of the memory
            on_frame()
        return cls(caption, shape, frames, lines)

    def picture(self, index: int) -> Image.Image:
        """A frame with its text; after the episode's end, the last frame."""
        index = min(index, len(self.frames) - 1)
        height, width, _ = self.shape
        picture = Image.new("RGB", (width, height + _BAR), "white")
        pixels = np.frombuffer(zlib.decompress(self.frames[index]), np.uint8).reshape(self.shape)
        picture.paste(Image.fromarray(pixels), (0, _BAR))
        draw = ImageDraw.Draw(picture)
        draw.text((6, 3), self.caption, _INK, _font(_TITLE))
        draw.text((6, 29), self.lines[index], _FAINT, _font(_TEXT))
        return picture


def clip_size(films: Sequence[Film]) -> tuple[int, int]:
    """Width and height of films side by side with their text: even numbers, as video needs."""
    heights, widths = zip(*(film.shape[:2] for film in films), strict=True)
    return _even(sum(widths) + _GAP * (len(films) - 1)), _even(max(heights) + _BAR)


def side_by_side(films: Sequence[Film]) -> Iterator[Image.Image]:
    """The frames of a clip, as many as the longest film has."""
    for index in range(max(len(film.frames) for film in films)):
        yield _frame(films, index)


def _frame(films: Sequence[Film], index: int) -> Image.Image:
    whole = Image.new("RGB", clip_size(films), "white")
    left = 0
    for film in films:
        whole.paste(film.picture(index), (left, 0))
        left += film.shape[1] + _GAP
    return whole


def write_clip(path: Path, films: Sequence[Film], fps: float, on_frame: Callable[[], None] = lambda: None) -> None:
    """Writes films side by side, in the format of the path's ending.

    Args:
        path: ends with one of `FORMATS`.
        films: at least one.
        fps: frames per second.
        on_frame: called after each frame.

    Raises:
        ValueError: the ending is not one of `FORMATS`.
        OSError: the file cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"{path}: ends with {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    (_write_gif if kind == "gif" else _write_mp4)(path, films, fps, on_frame)


def _write_mp4(path: Path, films: Sequence[Film], fps: float, on_frame: Callable[[], None]) -> None:
    with path.open("wb") as file, av.open(file, "w", format="mp4") as container:
        # H.264 with color at half the resolution plays in every browser and presentation.
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "20"})
        stream.width, stream.height = clip_size(films)
        stream.pix_fmt = "yuv420p"
        for frame in side_by_side(films):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame))))
            on_frame()
        container.mux(stream.encode())


def _write_gif(path: Path, films: Sequence[Film], fps: float, on_frame: Callable[[], None]) -> None:
    palette = _palette(films)

    def indexed() -> Iterator[Image.Image]:
        for frame in side_by_side(films):
            on_frame()
            yield frame.quantize(palette=palette, dither=Image.Dither.NONE)

    frames = indexed()
    duration = 10 * round(100 / fps)  # GIF counts in hundredths of a second
    next(frames).save(path, "GIF", save_all=True, append_images=frames, duration=duration, loop=0, optimize=False)


def _palette(films: Sequence[Film]) -> Image.Image:
    """256 colors for all frames, from a sample of them: a palette for each frame would flicker."""
    width, height = clip_size(films)
    count = max(len(film.frames) for film in films)
    some = sorted({round(index * (count - 1) / (_PALETTE_FRAMES - 1)) for index in range(_PALETTE_FRAMES)})
    together = Image.new("RGB", (width, height * len(some)))
    for row, index in enumerate(some):
        together.paste(_frame(films, index), (0, row * height))
    return together.quantize(256)


def frames_per_second(env: gymnasium.Env[Any, Any]) -> float:
    """The frames per second that play an environment in real time."""
    return float(env.metadata.get("render_fps") or _DEFAULT_FPS)


def _line(step: int, undiscounted_return: float, info: dict[str, Any], env: gymnasium.Env[Any, Any]) -> str:
    parts = [f"return so far {number(undiscounted_return, '.1f')}"]
    seconds = step_seconds(env)
    parts.append(f"step {step}" if seconds is None else f"{step * seconds:.2f} s")
    if "x_velocity" in info:
        parts.append(f"{number(float(info['x_velocity']), '.2f')} m/s")
    if "goal_velocity" in info:
        parts.append(f"goal {number(float(info['goal_velocity']), '.2f')} m/s")
    return " · ".join(parts)


def _even(number: int) -> int:
    return number + number % 2


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib ships this font, and it has Greek letters.
    return ImageFont.truetype(matplotlib.font_manager.findfont("DejaVu Sans"), size)
