"""The type of the fixture that makes batches of trajectories."""

from collections.abc import Callable

from thetaprime.models import TrajectoryBatch

MakeBatch = Callable[..., TrajectoryBatch]
