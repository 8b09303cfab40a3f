"""Draws the figure and the clip of `adapt`: the policy's behavior before and after."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import click
import gymnasium
import numpy as np
from rich.console import Console

from thetaprime.cli._progress import work_progress
from thetaprime.client import Progress, Session, collect
from thetaprime.training.evaluation.figures.adaptation import Behavior, adaptation_figure
from thetaprime.training.evaluation.figures.clip import Film, frames_per_second, write_clip
from thetaprime.training.evaluation.figures.episodes import EpisodeRecorder, play
from thetaprime.training.evaluation.figures.opengl import choose_opengl, follow_robot
from thetaprime.training.evaluation.figures.returns import PolicyReturns, Step
from thetaprime.training.evaluation.figures.style import save

_EVALUATION: Final = 0xE7A1  # spawn key: these episodes differ from those of adaptation
_RGB: Final = "rgb_array"

Env = gymnasium.Env[Any, Any]
Make = Callable[[dict[str, Any]], Env]
"""Makes an environment from its arguments."""


class Pictures:
    """Records an adaptation, and draws it at the end.

    Args:
        env: the environment.
        camera: a second, rendered environment; None without a clip.
        plot: file of the figure; None for no figure.
        video: file of the clip; None for no clip.
        seed: seed of the episodes that are played for the pictures; None draws one.
        console: shows progress.
    """

    def __init__(
        self, env: Env, camera: Env | None, plot: Path | None, video: Path | None, seed: int | None, console: Console
    ) -> None:
        self.env: Final = EpisodeRecorder(env)
        self._camera = camera
        self._plot = plot
        self._video = video
        self._seed = _evaluation_seed(seed)
        self._console = console
        self._returns: dict[int, list[float]] = {}

    @classmethod
    @contextmanager
    def prepare(
        cls,
        env: Env,
        make: Make,
        arguments: dict[str, Any],
        plot: Path | None,
        video: Path | None,
        seed: int | None,
        console: Console,
    ) -> Iterator[Self]:
        """Yields the recorder, once the pictures are known to be possible. Nothing is adapted before.

        Raises:
            click.BadParameter: the environment does not render.
            RuntimeError: MuJoCo finds no OpenGL to draw with.
        """
        if video is None:
            yield cls(env, None, plot, None, seed, console)
        else:
            with closing(_camera(env, make, arguments)) as camera:
                yield cls(env, camera, plot, video, seed, console)

    def recording(self, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Returns the ``progress`` of `Session.run`: it calls `show` and records the returns of each round."""

        def keep(progress: Progress) -> None:
            show(progress)
            if progress.report is not None:
                self._returns[progress.round] = [each.undiscounted_return for each in self.env.take()]

        return keep

    def draw(self, session: Session, round_index: int, task: str) -> dict[str, Any]:
        """Plays the missing episodes, and writes the files.

        Args:
            session: with at least one round taken.
            round_index: k, for the policy θ_k that the session hands out: the last one, or a better one before.
            task: the task in words, for the title.

        Returns:
            Entries of the object that `adapt --json` prints.
        """
        drawn: dict[str, Any] = {}
        if self._plot is not None:
            drawn = {"evaluation": self._draw_figure(self._plot, session, round_index, task), "plot": str(self._plot)}
            self._console.print(f"wrote {self._plot}")
        if self._camera is not None and self._video is not None:
            self._film(self._video, self._camera, session, round_index)
            drawn["video"] = str(self._video)
            self._console.print(f"wrote {self._video}")
        return drawn

    def _draw_figure(self, path: Path, session: Session, round_index: int, task: str) -> dict[str, Any]:
        N = session.reports[-1].trajectories
        with work_progress(self._console, "playing for the figure", 2 * N) as advance:
            last = self._behavior(session, session.round, N, advance)
            after = last if round_index == session.round else self._behavior(session, round_index, N, advance)
            behaviors = []
            if after.deterministic.drawable:
                behaviors = [self._behavior(session, 0, N, advance), after]
        returns = np.array([each.undiscounted_return for each in last.explored])
        policies = [
            PolicyReturns(each.round, each.mean_return, each.std_return, np.array(self._returns.get(each.round, ())))
            for each in session.reports
        ]
        policies.append(PolicyReturns(session.round, float(returns.mean()), float(returns.std()), returns))
        steps = [Step(each.round, each.kl_divergence, each.gradient_norm) for each in session.reports]
        save(adaptation_figure(f"{session.meta_policy.label} on {task}", policies, steps, behaviors), path)
        return {
            "trajectories": N,
            "mean_return": policies[-1].mean,
            "std_return": policies[-1].std,
            "deterministic_return": after.deterministic.undiscounted_return,
        }

    def _behavior(self, session: Session, round_index: int, episodes: int, advance: Callable[[], None]) -> Behavior:
        """Plays fresh episodes with θ_k. Every policy begins in the same states."""
        policy = session.policy_at(round_index)
        self.env.take()
        collect(policy, self.env, episodes, seed=self._seed, progress=lambda _: advance())
        explored = self.env.take()
        for _ in play(policy.act, self.env, self._seed, policy.contract.horizon):
            pass
        (deterministic,) = self.env.take()
        return Behavior(round_index, explored, deterministic)

    def _film(self, path: Path, camera: Env, session: Session, round_index: int) -> None:
        policies = {
            "θ, before": session.policy_at(0),
            f"θ′, after {round_index} round{'s'[: round_index != 1]}": session.policy_at(round_index),
        }
        horizon = session.policy.contract.horizon
        with work_progress(self._console, "rendering", 2 * (horizon + 1) if horizon else None) as advance:
            films = [
                Film.shoot(name, each.act, camera, self._seed, horizon, advance) for name, each in policies.items()
            ]
        with work_progress(self._console, f"writing {path.name}", max(len(film.frames) for film in films)) as advance:
            write_clip(path, films, frames_per_second(camera), advance)


def _camera(env: Env, make: Make, arguments: dict[str, Any]) -> Env:
    """Makes the environment again, for rendering, and renders a frame as a check."""
    modes = list(env.metadata.get("render_modes") or ())
    if _RGB not in modes:
        raise click.BadParameter(f"the environment renders {modes}; expected {_RGB!r} among them", param_hint="--video")
    if hasattr(env.unwrapped, "mujoco_renderer"):
        choose_opengl()
    camera = make({**arguments, "render_mode": _RGB})
    try:
        follow_robot(camera)
        camera.reset(seed=0)
        camera.render()
    except BaseException:
        camera.close()
        raise
    return camera


def _evaluation_seed(seed: int | None) -> int:
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    return int(np.random.SeedSequence(entropy, spawn_key=(_EVALUATION,)).generate_state(1)[0])
