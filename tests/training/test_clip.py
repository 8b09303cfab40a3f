"""Clips, read back frame by frame; and the OpenGL backend that MuJoCo renders with."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence

from thetaprime.training.evaluation.figures import opengl
from thetaprime.training.evaluation.figures.clip import Film, clip_size, frames_per_second, side_by_side, write_clip
from thetaprime.training.tasks.environments.point_navigation import PointNavigation

GOAL = np.array([0.255, -0.255])


def film(caption: str, speed: float, horizon: int = 30) -> Film:
    """The point goes straight to its goal, or never arrives."""
    env = PointNavigation(goal=tuple(GOAL), render_mode="rgb_array")

    def act(position: Any) -> Any:
        return np.clip(GOAL - position, -speed, speed)

    return Film.shoot(caption, act, env, seed=0, horizon=horizon)


def read(path: Path) -> list[Any]:
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_has_the_start_and_every_step() -> None:
    arrived, slow = film("θ′", 0.1), film("θ", 0.01)
    assert (len(arrived.frames), len(slow.frames)) == (1 + 3, 1 + 25)
    assert arrived.lines[0] == "return so far 0.0 · step 0"
    assert arrived.lines[-1].endswith("step 3 · ended")
    assert "ended" not in arrived.lines[-2]
    cut = film("θ", 0.001, horizon=5)
    assert len(cut.frames) == 1 + 5 and "ended" not in cut.lines[-1]


def test_the_shorter_film_stays_at_its_end() -> None:
    films = [film("θ", 0.01), film("θ′", 0.1)]
    frames = [np.asarray(frame) for frame in side_by_side(films)]
    width, height = clip_size(films)
    assert len(frames) == 26 and frames[0].shape == (height, width, 3)
    assert (width % 2, height % 2) == (0, 0)
    left, right = [frame[:, :400] for frame in frames], [frame[:, 408:808] for frame in frames]
    assert all((a != b).any() for a, b in itertools.pairwise(left))
    assert all((a != b).any() for a, b in itertools.pairwise(right[:4]))
    assert all((a == b).all() for a, b in itertools.pairwise(right[3:]))
    # The captions differ, and the pictures below them begin alike.
    assert (left[0][52:452] == right[0][52:452]).all() and (left[0][:30] != right[0][:30]).any()


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_written_clip_reads_back(kind: str, tmp_path: Path) -> None:
    films = [film("θ", 0.01), film("θ′", 0.1)]
    counted = []
    path = tmp_path / f"clip.{kind}"
    write_clip(path, films, frames_per_second(PointNavigation()), lambda: counted.append(1))
    found, meant = read(path), [np.asarray(frame) for frame in side_by_side(films)]
    assert len(found) == len(meant) == len(counted) == 26
    assert found[0].shape == meant[0].shape
    # Both formats lose some color, never the picture's content.
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(found, meant, strict=True)) < 4.0
    assert np.abs(found[0].astype(int) - found[-1]).max() > 100
    if kind == "mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert float(stream.average_rate or 0) == 10.0
    else:
        with Image.open(path) as gif:
            assert gif.info["duration"] == 100


def test_an_unknown_file_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip.webm: ends with '.webm'; expected one of mp4, gif"):
        write_clip(tmp_path / "clip.webm", [film("θ", 0.1)], 10.0)


def test_a_clip_that_cannot_be_written_names_its_path(tmp_path: Path) -> None:
    for kind in ("mp4", "gif"):
        with pytest.raises(OSError, match="nowhere"):
            write_clip(tmp_path / "nowhere" / f"clip.{kind}", [film("θ", 0.1)], 10.0)


@pytest.mark.parametrize("variable", ["MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"])
def test_the_users_opengl_backend_is_kept(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(variable, "mine")
    monkeypatch.setattr(opengl, "_BACKENDS", ())  # any trial would fail
    opengl.choose_opengl()
    assert os.environ.get("MUJOCO_GL") == ("mine" if variable == "MUJOCO_GL" else None)


def test_without_a_backend_the_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(opengl, "_BACKENDS", ("no_such_backend",))
    with pytest.raises(RuntimeError, match=r"apt-get install libegl1, or libosmesa6\) \(no_such_backend: "):
        opengl.choose_opengl()
    assert "MUJOCO_GL" not in os.environ


def test_a_backend_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no_such_backend")
    monkeypatch.setattr(opengl, "_BACKENDS", ("no_such_backend",))
    with pytest.raises(RuntimeError, match="MUJOCO_GL: 'no_such_backend' does not work here; leave it unset, or"):
        opengl.choose_opengl()


_FILM_A_ROBOT = """
import os, sys
import gymnasium, numpy as np
import thetaprime.training
from thetaprime.training.evaluation.figures.clip import Film
from thetaprime.training.evaluation.figures.opengl import choose_opengl, follow_robot
try:
    choose_opengl()
except RuntimeError as problem:
    print(problem)
    sys.exit(77)
print(os.environ["MUJOCO_GL"])
for name in ("thetaprime/HalfCheetahVelocity-v0", "HalfCheetah-v5"):
    env = gymnasium.make(name, render_mode="rgb_array", width=160, height=120, max_episode_steps=100)
    follow_robot(env)
    rng = np.random.default_rng(0)
    film = Film.shoot("θ", lambda _: rng.uniform(0, 1, 6), env, 0, 0)
    assert len(film.frames) == 101 and film.shape == (120, 160, 3)
    assert len(set(film.frames)) == 101, "every frame is another"
    # The camera follows: the robot, which is brown on black and green, is in the first picture and in the last.
    for index in (0, 100):
        pixels = np.asarray(film.picture(index)).astype(int)[52:]
        brown = (pixels[..., 0] > pixels[..., 1] + 20) & (pixels[..., 1] > pixels[..., 2])
        assert brown.sum() > 100, (name, index, brown.sum())
    env.close()
"""


@pytest.mark.slow
def test_a_robot_is_filmed_without_a_display(tmp_path: Path) -> None:
    # In a separate process: the backend is chosen once.
    shown = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {name: value for name, value in os.environ.items() if name not in shown}
    result = subprocess.run(
        [sys.executable, "-c", _FILM_A_ROBOT],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ("egl", "osmesa")


def test_the_users_camera_is_kept() -> None:
    env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", camera_id=0)
    env.unwrapped.mujoco_renderer.camera_id = 7  # type: ignore[attr-defined]
    opengl.follow_robot(env)
    assert env.unwrapped.mujoco_renderer.camera_id == 7  # type: ignore[attr-defined]
    opengl.follow_robot(gymnasium.make("CartPole-v1"))  # has none
    env.close()
