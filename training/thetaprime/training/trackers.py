"""Trackers that show a run's measurements while it trains: TensorBoard or Weights & Biases."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from thetaprime.training.config import TrainConfig
from thetaprime.training.history import LOG_FOLDER

Log = Callable[[Mapping[str, float], int], None]
"""Records scalars by name, at an iteration."""


class TrackerError(ValueError):
    """A tracker is not installed or cannot start."""


@contextlib.contextmanager
def open_tracker(config: TrainConfig, directory: Path, *, first: int) -> Iterator[Log]:
    """Yields the function that records the measurements of an iteration.

    Args:
        config: names the tracker.
        directory: of the run; trackers write below it.
        first: the first iteration that will be recorded; a resumed run replaces what was recorded from there on.

    Raises:
        TrackerError: the tracker is not installed, or cannot start.
    """
    if config.tracker == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrackerError("tracker: tensorboard is not installed: pip install tensorboard") from error
        with SummaryWriter(directory / LOG_FOLDER, purge_step=first) as writer:

            def log(scalars: Mapping[str, float], iteration: int) -> None:
                for name, value in scalars.items():
                    writer.add_scalar(name, value, iteration)

            yield log
    elif config.tracker == "wandb":
        with _weights_and_biases(config, directory) as logged:
            yield logged
    else:
        yield lambda scalars, iteration: None


@contextlib.contextmanager
def _weights_and_biases(config: TrainConfig, directory: Path) -> Iterator[Log]:
    try:
        import wandb
    except ImportError as error:
        raise TrackerError("tracker: wandb is not installed: pip install wandb") from error
    try:
        run = wandb.init(
            project="thetaprime", name=directory.name, dir=directory, config=config.model_dump(mode="json")
        )
    except wandb.errors.Error as error:
        raise TrackerError(f"tracker: wandb cannot start: {error} (offline: set WANDB_MODE=offline)") from error
    try:
        yield lambda scalars, iteration: run.log(dict(scalars), step=iteration)
    finally:
        run.finish()
