"""Measures the gains of held-out tasks, which calibrate the prediction of a session's first step."""

from collections.abc import Sequence

import torch

from thetaprime.models import MetaPolicy, Parameters
from thetaprime.models.verdict.predicted import FEATURES_NAME, GAINS_NAME, gain_features
from thetaprime.training.export.simulated_rounds import TaskRounds


class GainMeasurer:
    """Measures what the first step gains on every held-out task, and the features that predict it.

    Args:
        meta_policy: θ and its inner loop.
        pilot: not needed.
    """

    def __init__(self, meta_policy: MetaPolicy, pilot: Sequence[TaskRounds]) -> None:
        del pilot
        self._parameters = meta_policy.parameters

    def observe(self, rounds: TaskRounds) -> Parameters:
        """The features [F] and the gain [] of one task, from episodes that its step does not depend on."""
        return {
            FEATURES_NAME: gain_features(rounds.first, self._parameters, rounds.step.parameters, 1.0).float(),
            GAINS_NAME: (rounds.second.returns.mean() - rounds.fresh.returns.mean()).float(),
        }

    def finish(self, observed: Parameters) -> Parameters:
        """The tensors to store: the measured ones."""
        return {name: torch.as_tensor(value) for name, value in observed.items()}
