"""`explain`: a step in words and as a picture, from a real server."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import thetaprime.client as tp
import thetaprime.training  # noqa: F401  # registers the environment
from tests.support.command import Command, last_json
from thetaprime.cli import explain
from thetaprime.training.evaluation.figures import style


@pytest.fixture(scope="module")
def sessions(address: str) -> dict[str, str]:
    """Closed sessions of two rounds, by meta-policy."""
    ids = {}
    with tp.Client(address) as client:
        for name, env_id in (("cart-pole", "CartPole-v1"), ("point-navigation", "thetaprime/PointNavigation-v0")):
            session = client.create_session(name)
            with gymnasium.make(env_id, disable_env_checker=True) as env:
                session.run(env, 2, 4, verify=0, seed=0, progress=False)
            session.close()
            ids[name] = session.id
    return ids


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the command draws, beside their files."""
    kept: list[Figure] = []
    write = style.save

    def keep(figure: Figure, path: Path) -> None:
        kept.append(figure)
        write(figure, path)

    monkeypatch.setattr(style, "save", keep)
    return kept


def drawn(figure: Figure, gid: str) -> list[Any]:
    return [each for axes in figure.axes for each in axes.get_children() if each.get_gid() == gid]


def test_a_step_is_explained_in_words(address: str, sessions: dict[str, str], thetaprime: Command) -> None:
    result = thetaprime("explain", sessions["cart-pole"], "--address", address, "--round", "0")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"session {sessions['cart-pole']} of cart-pole@1"
    assert lines[1].startswith("step from θ to θ′₁ (round 0): ")
    assert any(line.startswith("  return before") and line.endswith(" over 4 episodes") for line in lines)
    assert any(line.startswith("most ") and line.endswith(", 4 of 4:") for line in lines)
    last = thetaprime("explain", sessions["cart-pole"], "--address", address)
    assert "step from θ′₁ to θ′₂ (round 1): " in last.stdout


def test_the_numbers_are_those_of_the_server(address: str, sessions: dict[str, str], thetaprime: Command) -> None:
    found = last_json(thetaprime("explain", sessions["cart-pole"], "--address", address, "--json"))
    with tp.Client(address) as client:
        session = client.resume(sessions["cart-pole"])
    assert session.report is not None
    assert (found["round"], found["report"]["batch_sha256"]) == (1, session.report.batch_sha256)
    assert sorted(each["share"] for each in found["trajectories"]) == pytest.approx(sorted(session.report.shares))
    assert sorted(each["return"] for each in found["trajectories"]) == pytest.approx(sorted(session.report.returns))
    weights = [abs(each["share"]) for each in found["weighty_steps"]]
    assert 0 < len(weights) <= 8
    assert weights == sorted(weights, reverse=True)


def test_paths_are_colored_by_their_pushes(
    address: str, sessions: dict[str, str], tmp_path: Path, thetaprime: Command, figures: list[Figure]
) -> None:
    plot = tmp_path / "step.png"
    args = ("explain", sessions["point-navigation"], "--address", address, "--round", "0", "--plot", plot, "--json")
    found = last_json(thetaprime(*args))
    assert found["plot"] == str(plot)
    (paths,) = drawn(figures[0], "paths")
    # The pieces cover every path once. The colors of a path add up to its share.
    pushes = {tuple(line[0]): float(push) for line, push in zip(paths.get_segments(), paths.get_array(), strict=True)}
    with tp.Client(address) as client:
        explained = client.resume(sessions["point-navigation"]).explain(0)
    length = max(len(line) for line in paths.get_segments()) - 1
    covered = 0
    for each in explained.trajectories:
        starts = [tuple(each.observations[t].astype(float)) for t in range(length, len(each.pushes), length)]
        covered += len(starts) + 1
        expected = [float(each.pushes[t : t + length].sum()) for t in range(length, len(each.pushes), length)]
        assert [pushes[start] for start in starts] == pytest.approx(expected, abs=1e-6)
    assert covered == len(paths.get_segments())
    assert float(paths.get_array().sum()) == pytest.approx(1.0, abs=1e-5)
    assert len(drawn(figures[0], "mark")) == len(found["weighty_steps"])
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.size[0] == 1400


def test_another_environment_is_drawn_over_time(
    address: str, sessions: dict[str, str], tmp_path: Path, thetaprime: Command, figures: list[Figure]
) -> None:
    plot = tmp_path / "step.svg"
    found = last_json(
        thetaprime("explain", sessions["cart-pole"], "--address", address, "--round", "0", "--plot", plot, "--json")
    )
    (pushes,), (rewards,) = drawn(figures[0], "pushes"), drawn(figures[0], "rewards")
    shares = np.nansum(np.ma.filled(pushes.get_array(), np.nan), axis=1)
    np.testing.assert_allclose(shares, [each["share"] for each in found["trajectories"]], atol=1e-5)
    returns = np.nansum(np.ma.filled(rewards.get_array(), np.nan), axis=1)
    np.testing.assert_allclose(returns, [each["return"] for each in found["trajectories"]])
    assert figures[0].get_suptitle().startswith("cart-pole@1, step from θ")
    assert plot.read_text().startswith("<?xml")


def test_a_mistake_is_one_line(address: str, sessions: dict[str, str], tmp_path: Path, thetaprime: Command) -> None:
    with tp.Client(address) as client:
        fresh = client.create_session("cart-pole").id
    for args, problem in (
        (("no-such-session",), "there is no session"),
        ((sessions["cart-pole"], "--round", "3"), "round"),
        ((sessions["cart-pole"], "--round", "-1"), "--round"),
        ((fresh,), "has taken no step yet"),
        ((sessions["cart-pole"], "--plot", str(tmp_path / "step.txt")), "expected a file that ends with"),
        # The round that follows the last step has no episodes.
        ((sessions["cart-pole"], "--round", "2", "--plot", str(tmp_path / "step.png")), "no uploads"),
    ):
        result = thetaprime("explain", *args, "--address", address)
        assert result.exit_code != 0
        (line,) = result.stderr.strip().splitlines()
        assert problem in line
    assert not list(tmp_path.iterdir())


def test_a_server_without_episodes_still_has_its_verdict(
    address: str, sessions: dict[str, str], thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: tp.Session, *args: Any, **options: Any) -> None:
        raise tp.PreconditionError("round 0 of the session has no uploads", reason="NO_UPLOADS")

    verdict = tp.Verdict(
        decision=tp.Decision.HELD,
        reasons=(tp.Reason(tp.ReasonCode.NO_SIGNAL, 0.5, 1.6, "The rewards tell nothing. Check them."),),
        task_p_value=0.25,
        predicted_gain=tp.Estimate(3.0, -1.0, 7.0),
        effective_sample_size=0.0,
        episodes_needed=70,
        realized_gain=tp.Estimate(-3.0, -4.0, -2.0),
        best_round=0,
        weighty_steps=(),
    )
    monkeypatch.setattr(tp.Session, "explain", gone)
    with tp.Client(address) as client:
        reports = [dataclasses.replace(each, verdict=verdict) for each in client.resume(sessions["cart-pole"]).reports]
    monkeypatch.setattr(tp.Session, "reports", reports)
    lines = [
        line.strip() for line in thetaprime("explain", sessions["cart-pole"], "--address", address).stdout.splitlines()
    ]
    assert lines[1] == "step from θ′₁ to θ′₂ (round 1): HELD"
    for expected in (
        "p-value 0.25 (conformal test against held-out training tasks; small is unfamiliar)",
        "+3 (-1 to +7) (calibrated on held-out training tasks)",
        "-3 (-4 to -2) (of the step before, measured by this round's episodes)",
        "70, by the noise of the gradient; the round had 4",
        "best so far      θ",
        "NO_SIGNAL: The rewards tell nothing. Check them. (0.5, limit 1.6)",
    ):
        assert any(line.endswith(expected) for line in lines), (expected, lines)
    assert lines[-1].startswith("the server does not have the episodes of this round")


def test_influence_ranks_the_episodes_where_the_server_tells_it() -> None:
    def trajectory(number: int, share: float) -> tp.ExplainedTrajectory:
        zeros = np.zeros(3, np.float32)
        return tp.ExplainedTrajectory("ab" * 32, number, share, zeros, zeros, np.zeros((4, 2), np.float32))

    upload = tp.UploadShare("ab" * 32, (1.0, 2.0), (0.9, 0.1), (0.05, 0.8))
    report = tp.AdaptationReport(0, 2, 6, 1.5, 0.5, 1.0, 1.0, 1.0, 0.1, "cd", (upload,))
    found = tp.RoundExplanation(report, (trajectory(0, 0.9), trajectory(1, 0.1)), 2)
    table = list(explain._episodes(report, found))
    assert table[0] == "most influential episodes, by the step that the inner loop asks for, 2 of 2:"
    assert table[2].split() == ["ababab·1", "0", "+0.100", "0.800"]
    # Without influences, as of an old server, the shares do.
    plain = tp.AdaptationReport(0, 2, 6, 1.5, 0.5, 1.0, 1.0, 1.0, 0.1, "cd")
    assert list(explain._episodes(plain, found))[2].split() == ["ababab·0", "0", "+0.900"]
    assert json.dumps(explain._facts(found.trajectories[1], report))
