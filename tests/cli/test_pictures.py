"""``thetaprime adapt --plot`` and ``--video``, ``evaluate --plot``: the pictures show the measured values."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
from click.testing import Result
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

import thetaprime.client as tp
from tests.support.command import last_json
from thetaprime.cli import _files, _pictures
from thetaprime.models import zoo_directory
from thetaprime.server import ServerConfig, running_server
from thetaprime.training.evaluation.figures import clip, style

Command = Callable[..., Result]
POINT = ("--env", "thetaprime/PointNavigation-v0", "--env-args", "goal=[0.3, -0.2]")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that the test wrote."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        kept.append(figure)
        style.save(figure, path)

    monkeypatch.setattr(_pictures, "save", keep)
    return kept


def panel(figure: Figure, label: str) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_label() == label]


def mean_line(figure: Figure) -> Any:
    (container,) = panel(figure, "returns")[0].containers
    return np.asarray(container[0].get_ydata(), np.float64)


def dots(figure: Figure) -> dict[str, Any]:
    lines = panel(figure, "returns")[0].lines
    return {gid: line.get_ydata() for line in lines if (gid := str(line.get_gid())).startswith("trajectories")}


def test_a_plot_has_the_returns_that_the_json_has(
    address: str, tmp_path: Path, thetaprime: Command, figures: list[Figure]
) -> None:
    plot = tmp_path / "adaptation.png"
    args = ("adapt", "cart-pole", "--address", address, "--env", "CartPole-v1", "--rounds", "2", "--seed", "0")
    report = last_json(thetaprime(*args, "--caution", "off", "--output", tmp_path / "p.onnx", "--plot", plot, "--json"))
    (figure,) = figures
    means = [each["mean_return"] for each in report["rounds"]] + [report["evaluation"]["mean_return"]]
    np.testing.assert_allclose(mean_line(figure), means)
    found = dots(figure)
    assert [len(found[f"trajectories-{index}"]) for index in range(3)] == [3, 3, 3]
    np.testing.assert_allclose([found[f"trajectories-{index}"].mean() for index in range(3)], means, rtol=1e-6)
    (kl,) = panel(figure, "kl")
    np.testing.assert_allclose(kl.lines[0].get_ydata(), [each["kl_divergence"] for each in report["rounds"]])
    assert figure.get_suptitle() == "cart-pole@1 on CartPole-v1"
    assert {axes.get_label() for axes in figure.axes} == {"returns", "kl", "gradient"}  # nothing else can be drawn
    assert report["plot"] == str(plot)
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.size[0] == 1400


def test_paths_before_and_after_begin_together(
    address: str, tmp_path: Path, thetaprime: Command, figures: list[Figure]
) -> None:
    plot = tmp_path / "adaptation.svg"
    args = (
        "adapt",
        "point-navigation",
        "--address",
        address,
        *POINT,
        "--rounds",
        "1",
        "--trajectories",
        "4",
        "--verify",
        "0",
    )
    report = last_json(
        thetaprime(*args, "--seed", "3", "--verify", "0", "--output", tmp_path / "p.onnx", "--plot", plot, "--json")
    )  # fmt: skip
    before, after = panel(figures[0], "paths")
    paths = [[line.get_xydata() for line in axes.lines if line.get_gid() == "path"] for axes in (before, after)]
    assert [len(each) for each in paths] == [4, 4]
    # The written file follows the path that is drawn of θ′.
    policy = tp.AdaptedPolicy.load(tmp_path / "p.onnx", sha256=report["sha256"])
    with gymnasium.make(POINT[1], goal=[0.3, -0.2], disable_env_checker=True) as env:
        position, _ = env.reset()
        (drawn,) = (line.get_xydata() for line in after.lines if line.get_gid() == "deterministic-path")
        undiscounted_return = 0.0
        for row in drawn:
            np.testing.assert_allclose(row, position, atol=1e-6)
            position, reward, *_ = env.step(policy.act(position))
            undiscounted_return += float(reward) if row is not drawn[-1] else 0.0
    assert f"deterministic return {report['evaluation']['deterministic_return']:.4g}".replace("-", "−") in (
        after.get_title(loc="left")
    )
    assert "goal = [0.3, -0.2]" in figures[0].get_suptitle()
    assert plot.read_text().startswith("<?xml")


def test_a_session_of_an_earlier_process_is_drawn(
    address: str, tmp_path: Path, thetaprime: Command, figures: list[Figure]
) -> None:
    args = ("adapt", "--address", address, "--env", "CartPole-v1", "--output", tmp_path / "p.onnx", "--verify", "0")
    first = last_json(thetaprime(*args[:1], "cart-pole", *args[1:], "--rounds", "1", "--json"))
    with tp.Client(address) as client:
        session = client.create_session("cart-pole")
        with gymnasium.make("CartPole-v1") as env:
            session.run(env, 1, verify=0, progress=False)
        earlier = session.reports[0].mean_return
    # The second round runs here. Only mean and deviation are known of the first.
    going_on = ("--resume", session.id, "--rounds", "2", "--plot", tmp_path / "both.png", "--force", "--json")
    report = last_json(thetaprime(*args, *going_on))
    np.testing.assert_allclose(
        mean_line(figures[0]), [earlier, report["rounds"][1]["mean_return"], report["evaluation"]["mean_return"]]
    )
    assert list(dots(figures[0])) == ["trajectories-1", "trajectories-2"]
    # Another process took every round and closed the session.
    done = ("--resume", first["session"], "--rounds", "1", "--plot", tmp_path / "done.png", "--force", "--json")
    again = last_json(thetaprime(*args, *done))
    assert again["rounds"] == first["rounds"] and again["policy_id"] == first["policy_id"]
    np.testing.assert_allclose(
        mean_line(figures[1]), [first["rounds"][0]["mean_return"], again["evaluation"]["mean_return"]]
    )


@pytest.mark.slow
def test_a_video_shows_before_and_after(address: str, tmp_path: Path, thetaprime: Command) -> None:
    video = tmp_path / "adaptation.gif"
    args = ("adapt", "point-navigation", "--address", address, *POINT, "--rounds", "1", "--seed", "0")
    report = last_json(thetaprime(*args, "--output", tmp_path / "p.onnx", "--video", video, "--json"))
    assert report["video"] == str(video) and "plot" not in report
    with Image.open(video) as gif:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == 101 and frames[0].shape == (452, 808, 3)
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    left, right = frames[-1][52:452, :400], frames[-1][52:452, 408:]
    assert np.abs(left - right).max() > 100  # θ and θ′ went elsewhere
    assert np.abs(frames[0][52:452, :400] - frames[0][52:452, 408:]).max() < 10  # from the same start


class Unseen(gymnasium.Env[Any, Any]):
    """An environment that does not render."""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--plot", "x.jpg"), "x.jpg; expected a file that ends with .png or .pdf or .svg"),
        (("--plot", "nowhere/x.png"), "the folder nowhere does not exist"),
        (("--video", "x.avi"), "x.avi; expected a file that ends with .mp4 or .gif"),
        (("--video", "x.gif", "--env-args", 'render_mode="human"'), "render_mode is chosen by --video"),
        (("--video", "x.gif", "--env", "Silent-v0"), "the environment renders []; expected 'rgb_array' among them"),
    ],
)
def test_impossible_pictures_are_refused_before_adaptation(
    arguments: tuple[str, ...], problem: str, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "Silent-v0" not in gymnasium.registry:
        gymnasium.register("Silent-v0", entry_point=lambda **_: Unseen())
    # No server listens there: a later check would fail with that error.
    result = thetaprime("adapt", "point-navigation", "--address", "127.0.0.1:9", *POINT[:2], *arguments)
    assert result.exit_code != 0
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert problem in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["av", "matplotlib"])
def test_a_missing_package_is_named_with_what_to_install(
    package: str, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("thetaprime.cli._pictures", "thetaprime.training.evaluation.figures")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    args = ("adapt", "cart-pole", "--address", "127.0.0.1:9", "--env", "CartPole-v1", "--plot", tmp_path / "x.png")
    result = thetaprime(*args)
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line == "thetaprime adapt needs the training extra: pip install 'thetaprime[training]'"


def test_the_accepted_formats_can_be_written() -> None:
    assert (_files.FIGURE_FORMATS, _files.CLIP_FORMATS) == (style.FORMATS, clip.FORMATS)


def test_an_evaluation_is_drawn_into_the_file_of_plot(
    tmp_path: Path, zoo: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    args = ("evaluate", "point-navigation", "--zoo", zoo, "--tasks", 2, "--gradient-steps", 1, "--trajectories", 2)
    seeds = ("--seed", 1, "--seed", 2)
    shown = thetaprime(*args, *seeds, "--output", tmp_path / "found", "--plot", tmp_path / "curves.pdf", "--json")
    result = last_json(shown)
    assert "R_k < R_0" in shown.stderr and "over seeds" in shown.stderr
    assert "…" not in shown.stderr  # the tables fit into 80 columns
    assert result["figure"] == str(tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert [each.name for each in (tmp_path / "found").iterdir()] == ["evaluation.json"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped meta-policies."""
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"), zoo=(zoo_directory(),))
    with running_server(config) as host_and_port:
        yield host_and_port


@pytest.mark.slow
def test_a_robot_is_filmed_and_its_gait_drawn_without_a_display(shipped: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    result = subprocess.run(
        [sys.executable, "-m", "thetaprime.cli", "adapt", "half-cheetah-velocity", "--address", shipped, "--seed", "0",
         "--env", "thetaprime/HalfCheetahVelocity-v0", "--env-args", "goal=1.7", "--env-args", "width=96",
         "--env-args", "height=64", "--rounds", "1", "--trajectories", "4", "--video", "clip.mp4", "--plot", "gait.png",
         "--json"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    if "MuJoCo can draw neither with EGL nor with OSMesa" in result.stderr:
        assert not (tmp_path / "policy.onnx").exists()
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 20  # as fast as the robot is
    assert len(frames) == 201 and frames[0].shape == (64 + 52, 2 * 96 + 8, 3)
    after = [frame[52:, 104:] for frame in frames]
    assert np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(after)]) > 1.0  # it runs
    with Image.open(tmp_path / "gait.png") as picture:
        assert picture.size[0] == 1400 and picture.size[1] > 700  # taller than returns alone
    assert report["evaluation"]["mean_return"] > report["rounds"][0]["mean_return"] + 100
