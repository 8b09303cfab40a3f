"""Trains by a recipe: an attempt that does not learn is replaced by another one, where its budget allows."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from thetaprime.models import Decision
from thetaprime.training.budget import Spent
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.config import changed_config
from thetaprime.training.recipe.settings import Recipe, write_config
from thetaprime.training.recipe.watch import FEWEST_ITERATIONS, Judgment, judge
from thetaprime.training.run import Progress, train

ATTEMPTS_FOLDER: Final = "attempts"
"""Folder, in the run's, of the attempts that were replaced."""
_ATTEMPT_SHARE: Final = 0.25
_WINDOW: Final = 5


class _Watch:
    """The returns of an attempt, and whether it is to end because it does not learn."""

    def __init__(self, alternatives_left: bool) -> None:
        self._may_end, self._begun = alternatives_left, 0.0
        self.pre: list[float] = []
        self.post: list[float] = []
        self.judgment: Judgment | None = None
        self.ended = False

    def add(self, progress: Progress) -> Judgment | None:
        """Returns the judgment, once: after a quarter of the run's budget, and enough iterations."""
        if not self.post:
            self._begun = progress.spent
        self.pre.append(progress.pre_return)
        self.post.append(progress.post_return)
        due = len(self.post) >= FEWEST_ITERATIONS and progress.spent - self._begun >= _ATTEMPT_SHARE
        if not due or self.judgment is not None or progress.spent >= 1.0:
            return None
        self.judgment = judge(self.pre, self.post)
        self.ended = not self.judgment.learns and self._may_end and progress.spent <= 1.0 - 1.5 * _ATTEMPT_SHARE
        return self.judgment

    @property
    def last_return(self) -> float:
        """Mean return after adaptation of the last iterations."""
        window = self.post[-_WINDOW:]
        return sum(window) / len(window) if window else float("-inf")


def train_recipe(
    recipe: Recipe,
    directory: Path,
    *,
    on_iteration: Callable[[Progress], None] = lambda progress: None,
    on_message: Callable[[str], None] = lambda message: None,
    stop: Callable[[], bool] = lambda: False,
    warm_start: Path | None = None,
) -> RunState:
    """Trains by a recipe, and watches.

    After a quarter of the budget it judges whether the run learns. One that does not is moved to ``attempts/`` and
    replaced, while time is left: by another outer loop, by steps that do not follow the return's gap to a target, by
    discounts that look further ahead, by another seed. Only settings that the recipe decided change, and the seed.
    Time and environment steps of all attempts count. The attempt that ended with the highest return after adaptation
    stays in the run's folder.

    Args:
        recipe: from `settle_recipe`.
        directory: of the run; ``config.toml`` in it repeats the attempt that stays.
        on_iteration: called after each iteration.
        on_message: called with a sentence when the run is judged or begins again.
        stop: called after each iteration; if it returns true, the run is saved and can be resumed.
        warm_start: as in `train`.

    Raises:
        CheckpointError, NotEnoughMemoryError, TrackerError: as `train`.
    """
    config, decisions, spent = recipe.config, recipe.decisions, recipe.spent
    can_repeat = config.minutes is not None or config.environment_steps is not None
    left = alternatives(recipe) if can_repeat and config.method == "maml" else []
    ended: list[tuple[float, Path]] = []
    while True:
        watch = _Watch(bool(left))

        def observe(progress: Progress, watch: _Watch = watch) -> None:
            on_iteration(progress)
            judgment = watch.add(progress)
            if judgment is not None:
                on_message(_message(judgment))

        def stopped(watch: _Watch = watch) -> bool:
            return stop() or watch.ended

        write_config(config, decisions, directory)
        state = train(
            config,
            directory,
            decisions=decisions,
            spent=spent,
            on_iteration=observe,
            stop=stopped,
            warm_start=warm_start,
        )
        if not watch.ended or stop():
            break
        reason, changes = left.pop(0)
        folder = directory / ATTEMPTS_FOLDER / str(len(ended) + 1)
        _move(directory, folder)
        ended.append((watch.last_return, folder))
        on_message(f"trying {reason} ({_listed(changes)}); the attempt so far is in {folder}")
        config = changed_config(config, changes)
        because = f"attempt {len(ended)} did not learn in {state.iteration} iterations"
        decisions = (
            *(each for each in decisions if each.setting not in changes),
            *(Decision(setting=name, value=value, reason=because) for name, value in changes.items()),
        )
        spent = Spent(0, state.environment_steps, state.wall_seconds)
    best = max(ended, default=(float("-inf"), directory), key=lambda each: each[0])
    if best[0] > watch.last_return:
        on_message(f"attempt {best[1].name} had ended with a higher return after adaptation: it is the run's again")
        _move(directory, directory / ATTEMPTS_FOLDER / str(len(ended) + 1))
        for each in list(best[1].iterdir()):
            shutil.move(each, directory / each.name)
        best[1].rmdir()
        state = load_checkpoint(directory)
    return state


def _message(judgment: Judgment) -> str:
    said = "learning" if judgment.learns else "not learning"
    return f"{said}: {judgment.text}" + (f"; {judgment.advice}" if judgment.advice else "")


def _listed(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())


def alternatives(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """What to try next, in order: a few words, and the changed settings."""
    config, free = recipe.config, {each.setting for each in recipe.decisions}
    given = {name for name in ("outer_epochs", "outer_lr") if name in config.model_fields_set}
    found: list[tuple[str, dict[str, Any]]] = []
    if "outer_loop" in free:
        other = {"outer_loop": "promp", "outer_epochs": 10, "outer_lr": 1e-3}
        found.append(("another outer loop", {name: each for name, each in other.items() if name not in given}))
    if "adaptation.target_return" in free:
        found.append(("steps of one length", {"adaptation.target_return": None}))
    further = {"adaptation.discount": config.adaptation.discount, "outer_discount": config.outer_discount}
    changes = {name: _further(discount) for name, discount in further.items() if name in free}
    if any(changes[name] != further[name] for name in changes):
        found.append(("discounts that look further ahead", changes))
    found.append(("another seed", {"seed": config.seed + 1}))
    return found


def _further(discount: float) -> float:
    """The discount that looks three times as far, up to 0.99."""
    return min(0.99, round(1.0 - (1.0 - discount) / 3.0, 3)) if discount < 0.99 else discount


def _move(directory: Path, folder: Path) -> None:
    """Moves the files of an attempt out of the run's folder."""
    folder.mkdir(parents=True)
    for each in list(directory.iterdir()):
        if each.name != ATTEMPTS_FOLDER:
            shutil.move(each, folder / each.name)
