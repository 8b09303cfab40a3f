"""The options of a session's steps."""

import dataclasses

from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.verdict import Caution


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """The options of a session.

    Attributes:
        step_size_scale: factor on the step sizes of the inner loop.
        caution: how far the session trusts a step that its verdict advises against.
        reward_scale: the task's rewards are reward_scale · r + reward_offset, where r has the units of meta-training;
            None where the user does not know it.
        reward_offset: as above; None where the user does not know it.
        max_kl: longest step, in nats; None for no limit.
    """

    step_size_scale: float = 1.0
    caution: Caution = Caution.HOLD
    reward_scale: float | None = None
    reward_offset: float | None = None
    max_kl: float | None = None

    def in_known_units(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """The batch with rewards in the units of meta-training, as far as the user gave them."""
        scale, offset = self.reward_scale or 1.0, self.reward_offset or 0.0
        if scale == 1.0 and offset == 0.0:
            return batch
        return dataclasses.replace(batch, rewards=((batch.rewards.double() - offset) / scale).float())
