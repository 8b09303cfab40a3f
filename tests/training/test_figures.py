"""Figures show the numbers that they are drawn from."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from tests.support.training.evaluations import evaluation_by_hand
from thetaprime.training.evaluation.figures.adaptation import Behavior, adaptation_figure
from thetaprime.training.evaluation.figures.episodes import Episode
from thetaprime.training.evaluation.figures.evaluation import curves_figure
from thetaprime.training.evaluation.figures.gait import stretches
from thetaprime.training.evaluation.figures.paths import paths_figure
from thetaprime.training.evaluation.figures.returns import PolicyReturns, Step
from thetaprime.training.evaluation.figures.style import number, policy_name, save
from thetaprime.training.tasks.environments.point_navigation import PointNavigation

POLICIES = [
    PolicyReturns(0, -8.0, 1.0, np.array([-9.0, -7.0])),
    PolicyReturns(1, -3.0, 0.5),
    PolicyReturns(2, -1.0, 0.0, np.array([-1.0, -1.0])),
]
STEPS = [Step(0, 100.0, 2.0), Step(1, 0.5, 0.25)]


def panel(figure: Figure, label: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() == label]


def drawn(axes: Axes, gid: str) -> list[Any]:
    return [points(line) for line in axes.lines if line.get_gid() == gid]


def points(line: Line2D) -> Any:
    return np.asarray(line.get_xydata())


def corners(path: Any) -> Any:
    return np.asarray(path.vertices)


def episode(H: int, *, offset: float = 0.0, **more: Any) -> Episode:
    given = {"position": None, "velocity": None, "contacts": {}, "goal": {}, "seconds": 0.05, **more}
    return Episode(rewards=np.full(H, -1.0 + offset), **given)


def test_the_evaluation_shows_means_intervals_and_every_task() -> None:
    evaluation = evaluation_by_hand()
    (axes,) = curves_figure(evaluation).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    np.testing.assert_allclose(lines["meta-policy"], [-6.0, -4.0, -2.0])
    np.testing.assert_allclose(lines["pretrained"], [-6.0, -5.0, -5.0])
    np.testing.assert_allclose(lines["oracle, observes the task"], -1.0)
    for method, returns in evaluation.returns.items():
        (points,) = drawn(axes, f"tasks-{method}")
        np.testing.assert_allclose(points[:, 1].reshape(returns.shape), returns)
        assert (np.abs(points[:, 0].reshape(returns.shape) - np.arange(3)[:, None]) < 0.5).all()
    bands = [corners(band.get_paths()[0]) for band in axes.collections]
    low, high = evaluation.return_interval("maml")
    assert [bands[0][:, 1].min(), bands[0][:, 1].max()] == [low.min(), high.max()]
    assert "hand@1: 2 held-out tasks" in axes.get_title(loc="left")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("gradient steps (20 trajectories each)", "undiscounted return")


def test_the_rounds_show_every_trajectory_mean_and_deviation() -> None:
    figure = adaptation_figure("title", POLICIES, STEPS)
    (axes,) = panel(figure, "returns")
    (container,) = axes.containers
    line, caps, (bars,) = container
    np.testing.assert_allclose(np.asarray(line.get_ydata(), np.float64), [-8.0, -3.0, -1.0])
    ends = np.array([cap.get_ydata() for cap in caps], np.float64)
    np.testing.assert_allclose(ends, [[-9.0, -3.5, -1.0], [-7.0, -2.5, -1.0]])
    assert len(bars.get_segments()) == 3
    assert [text.get_text() for text in axes.get_xticklabels()] == ["θ", "θ′₁", "θ′₂"]
    (dots,) = drawn(axes, "trajectories-0")
    np.testing.assert_allclose(dots[:, 1], [-9.0, -7.0])
    assert not drawn(axes, "trajectories-1")  # another process collected them, so only mean and deviation are known
    (kl,), (gradient,) = panel(figure, "kl"), panel(figure, "gradient")
    np.testing.assert_allclose(points(kl.lines[0]), [[1, 100.0], [2, 0.5]])
    np.testing.assert_allclose(points(gradient.lines[0]), [[1, 2.0], [2, 0.25]])
    assert len(figure.axes) == 3  # no empty panel for missing data
    assert figure.get_suptitle() == "title"


def test_a_step_of_size_zero_is_drawn() -> None:
    figure = adaptation_figure("title", POLICIES[:2], [Step(0, 0.0, 0.0)])
    assert panel(figure, "kl")[0].get_yscale() == "linear"
    figure.draw_without_rendering()


def test_many_rounds_are_numbered() -> None:
    policies = [PolicyReturns(index, float(index), 0.1) for index in range(40)]
    figure = adaptation_figure("title", policies, [Step(index, 1.0, 1.0) for index in range(39)])
    figure.draw_without_rendering()
    ticks = [text.get_text() for text in panel(figure, "returns")[0].get_xticklabels()]
    assert len(ticks) < 15 and "θ" not in ticks


def test_paths_lie_beside_the_goal() -> None:
    path = np.array([[0.0, 0.0], [0.1, 0.05], [0.2, 0.1]])
    goal = {"goal_position": (0.4, 0.3)}
    behaviors = [
        Behavior(index, [episode(2, position=path * sign), episode(2, position=path * 2 * sign)],
                  episode(2, position=path * sign, goal=goal))
        for index, sign in ((0, -1.0), (2, 1.0))
    ]  # fmt: skip
    figure = adaptation_figure("title", POLICIES, STEPS, behaviors)
    before, after = panel(figure, "paths")
    for axes, sign in ((before, -1.0), (after, 1.0)):
        np.testing.assert_allclose(drawn(axes, "path"), [path * sign, path * 2 * sign])
        np.testing.assert_allclose(drawn(axes, "deterministic-path"), [path * sign])
        (star,) = (points(line) for line in axes.lines if line.get_label() == "goal")
        np.testing.assert_allclose(star, [[0.4, 0.3]])
        assert axes.get_xlim()[0] < -0.4 and axes.get_xlim()[1] > 0.4
        assert axes.get_aspect() == 1.0
    assert before.get_title(loc="left") == "θ, before\ndeterministic return −2"
    assert after.get_title(loc="left") == "θ′₂, after 2 rounds\ndeterministic return −2"


@pytest.mark.parametrize(
    ("goal", "line"),
    [({"goal_velocity": 1.5}, 1.5), ({"goal_direction": -1.0}, 0.0), ({"goal_direction": 1}, 0.0), ({}, None)],
)
def test_the_gait_is_velocity_over_time_and_contacts(goal: dict[str, float], line: float | None) -> None:
    velocity = np.array([0.0, 1.0, 2.0, 2.0])
    touching = np.array([True, True, False, True])
    feet = {"front": touching, "back": ~touching}
    played = episode(4, velocity=velocity, contacts=feet, goal=goal)
    # Of the episodes with exploration one ended early: the band continues with the other.
    explored = [episode(4, velocity=velocity + 1.0), episode(2, velocity=velocity[:2])]
    figure = adaptation_figure("title", POLICIES, STEPS, [Behavior(0, explored, played), Behavior(1, [], played)])
    before, _ = panel(figure, "velocity")
    ((xy),) = drawn(before, "velocity")
    np.testing.assert_allclose(xy, np.stack([[0.05, 0.1, 0.15, 0.2], velocity], axis=1))
    (band,) = (each for each in before.collections if each.get_gid() == "band")
    assert corners(band.get_paths()[0])[:, 0].max() == pytest.approx(0.2)
    asked = [np.asarray(each.get_ydata()) for each in before.lines if str(each.get_label()).startswith("goal")]
    assert [float(each[0]) for each in asked] == ([] if line is None else [line])
    contacts = panel(figure, "contacts")[0]
    bars = {each.get_gid(): [path.get_extents() for path in each.get_paths()] for each in contacts.collections}
    assert [[round(box.x0, 3), round(box.x1, 3)] for box in bars["contacts-0"]] == [[0.0, 0.1], [0.15, 0.2]]
    assert [[round(box.x0, 3), round(box.x1, 3)] for box in bars["contacts-1"]] == [[0.1, 0.15]]
    assert [text.get_text() for text in contacts.get_yticklabels()] == ["front", "back"]


@given(arrays(np.bool_, st.integers(0, 40)))
def test_stretches_cover_the_true_values(column: Any) -> None:
    again = np.zeros(len(column), np.bool_)
    for start, end in stretches(column):
        assert start < end and not again[start:end].any()
        again[start:end] = True
    np.testing.assert_array_equal(again, column)
    assert len(stretches(column)) == int(np.diff(column.astype(int), prepend=0).clip(0).sum())


def test_an_outlier_does_not_shrink_the_other_paths() -> None:
    near, far = np.zeros((300, 2)), np.array([[0.0, 0.0], [50.0, 0.0]])
    near[:, 0] = np.linspace(0, 1, 300)
    axes = paths_figure([("one", [near]), ("other", [far])], (0.5, 0.5)).axes[0]
    assert axes.get_xlim()[1] < 2.0


@pytest.mark.slow
def test_a_figure_is_the_same_file_each_time(tmp_path: Path) -> None:
    for kind, beginning in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        files = [tmp_path / f"{index}.{kind}" for index in range(2)]
        for file in files:
            save(adaptation_figure("title", POLICIES, STEPS), file)
        first, second = (file.read_bytes() for file in files)
        assert first == second and first.startswith(beginning)
    with Image.open(tmp_path / "0.png") as picture:
        assert picture.size[0] == 1400  # 7 inches at 200 dots an inch
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with pytest.raises(ValueError, match=r"f.jpg: ends with '.jpg'; expected one of png, pdf, svg"):
        save(adaptation_figure("title", POLICIES, STEPS), tmp_path / "f.jpg")


def test_names_and_numbers_follow_print_conventions() -> None:
    assert [policy_name(rounds) for rounds in (0, 1, 12)] == ["θ", "θ′₁", "θ′₁₂"]
    assert [number(value, ".1f") for value in (-1.25, -0.01, 2.0)] == ["−1.2", "0.0", "2.0"]


def test_the_point_can_be_rendered() -> None:
    env = gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.4, -0.3), render_mode="rgb_array")
    env.reset(seed=0)
    first = np.asarray(env.render())
    assert first.shape == (400, 400, 3) and first.dtype == np.uint8
    goal = first[275, 300 - 9]  # on the ring around it; ±0.8 on 400 pixels, y upwards
    assert goal[0] > 180 and goal[2] < 80
    assert (first[200, 200] < 60).all()  # the point, at the origin
    for _ in range(3):
        env.step(np.array([0.1, -0.1], np.float32))
    moved = np.asarray(env.render())
    assert (moved[275, 275] < 60).all() and moved[225, 225, 2] > 140 and moved[225, 225, 0] < 60  # the point, its path
    env.close()
    with pytest.raises(ValueError, match="render_mode: 'human'; expected 'rgb_array' or None"):
        PointNavigation(render_mode="human")
