"""The OpenGL backend that MuJoCo renders with when there is no display."""

import os
import subprocess
import sys
from typing import Any, Final

_BACKENDS: Final = ("egl", "osmesa")  # EGL may use the graphics card; OSMesa never does
_TRY: Final = "from mujoco.{0} import GLContext; context = GLContext(8, 8); context.make_current(); context.free()"
_INSTALL: Final = "install EGL or OSMesa (Debian, Ubuntu: apt-get install libegl1, or libosmesa6)"
_PATIENCE: Final = 60.0  # seconds for a trial


def choose_opengl() -> None:
    """Sets ``MUJOCO_GL`` to a backend that works, if it is not set and there is no display.

    Call it before anything is rendered.

    Raises:
        RuntimeError: neither EGL nor OSMesa works, or the backend that ``MUJOCO_GL`` names does not; the message names
            the package to install.
    """
    chosen, shown = os.environ.get("MUJOCO_GL"), os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if chosen in _BACKENDS and (problem := _problem_with(chosen)) is not None:
        raise RuntimeError(f"MUJOCO_GL: {chosen!r} does not work here; leave it unset, or {_INSTALL} ({problem})")
    if chosen or shown or sys.platform != "linux":
        return
    problems = []
    for backend in _BACKENDS:
        # In a separate process: PyOpenGL keeps the first backend that was tried, working or not.
        problem = _problem_with(backend)
        if problem is None:
            os.environ["MUJOCO_GL"] = backend
            return
        problems.append(f"{backend}: {problem}")
    raise RuntimeError(
        f"MuJoCo can draw neither with EGL nor with OSMesa, and there is no display: {_INSTALL} ({'; '.join(problems)})"
    )


def follow_robot(env: Any) -> None:
    """Makes the camera follow a MuJoCo robot, if its model has such a camera and none was chosen."""
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None and renderer.camera_id == -1:
        cameras = [renderer.model.camera(index).name for index in range(renderer.model.ncam)]
        renderer.camera_id = cameras.index("track") if "track" in cameras else -1


def _problem_with(backend: str) -> str | None:
    """The error of a backend in one line; None if it works."""
    environment = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _TRY.format(backend)],
            env={**environment, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PATIENCE:.0f} s"
    if result.returncode == 0:
        return None
    said = [line for line in result.stderr.splitlines() if line and not line.startswith((" ", "Exception ignored"))]
    return said[-1] if said else f"exit status {result.returncode}"
