"""The gain that a step will bring, before it is taken.

The first step of a shipped meta-policy changes the policy by thousands of nats, so episodes of θ say nothing about θ_1
by themselves. But the same step was taken on held-out meta-training tasks. A Gaussian process regresses their gains on
the mean return and on the change of the context (Rasmussen & Williams 2006, section 2.7, with a linear mean). It is
fitted to one half of the tasks. Its interval is scaled so that it covers nine of ten in the other half
(split-conformal; Lei et al. 2018, section 5.2): for a new task of meta-training it covers the gain with 90 %, however
wrong the process is. Nothing calibrates it for other tasks: a body may move in another way at the same return. An
unfamiliar task's step may do the opposite of what it would do on a training task, so its interval extends at least
from −gain to 3 · gain. This is a convention, and no step of an unfamiliar task is predicted to help or to hurt for
sure.
"""

import math
import weakref
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.artifact import REFERENCE_NAME, MetaPolicy
from thetaprime.models.errors import ArtifactError
from thetaprime.models.parameters import Parameters
from thetaprime.models.spec import CONTEXT
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.gain import COVERAGE
from thetaprime.models.verdict.verdict import Estimate

FEATURES_NAME: Final = "calibration.gain.features"
"""[T, F]: `gain_features` of held-out tasks."""
GAINS_NAME: Final = "calibration.gain.gains"
"""[T]: R_1 − R_0 of held-out tasks, each from fresh episodes, in the units of meta-training."""

_Array = npt.NDArray[np.float64]

_WIDTHS: Final = (0.5, 1.0, 2.0, 4.0)
_NOISES: Final = (1e-3, 1e-2, 0.1, 0.3)
# Variance of the coefficients of the linear mean, in units of the gains' variance: they are hardly restricted.
_LINEAR: Final = 100.0
_FEWEST_TASKS: Final = 20
_UNFAMILIAR: Final = 0.05


def gain_features(batch: TrajectoryBatch, before: Parameters, after: Parameters, scale: float) -> torch.Tensor:
    """The features that a gain is predicted from.

    Args:
        batch: the trajectories of the step.
        before: θ_k.
        after: θ_{k+1}.
        scale: of the task's reward, relative to meta-training.

    Returns:
        [1 + C] float64: the mean return in units of meta-training, and the change of the context; without a context,
        [2] with the length of the change of all parameters.
    """
    level = batch.returns.mean() / scale
    if CONTEXT in before:
        return torch.cat([level[None], (after[CONTEXT] - before[CONTEXT]).double()])
    squares = [(after[name].double() - value.double()).square().sum() for name, value in before.items()]
    return torch.stack([level, torch.stack(squares).sum().sqrt()])


class GainModel:
    """A Gaussian process from the features of a batch to the gain, with a conformal interval.

    Args:
        inputs: [T, F] features of held-out tasks.
        gains: [T].
    """

    def __init__(self, inputs: torch.Tensor, gains: torch.Tensor) -> None:
        # numpy calls small functions faster than torch.
        tasks, targets = inputs.double().numpy(), gains.double().numpy()
        fitted, calibrated = slice(None, None, 2), slice(1, None, 2)
        self._center, self._unit = tasks[fitted].mean(0), tasks[fitted].std(0, ddof=1).clip(1e-9)
        self._level, self._spread = targets[fitted].mean(), targets[fitted].std(ddof=1).clip(1e-12)
        self._points = self._standardized(tasks[fitted])
        self._fit((targets[fitted] - self._level) / self._spread)
        mean, deviation = self._posterior(tasks[calibrated])
        scores = np.sort(np.abs(targets[calibrated] - mean) / deviation)
        rank = math.ceil(COVERAGE * (len(scores) + 1))
        self._factor = float(scores[min(rank, len(scores)) - 1])

    def predict(self, inputs: torch.Tensor) -> Estimate:
        """The gain of a batch with the features [F], with its interval."""
        mean, deviation = (float(each[0]) for each in self._posterior(inputs[None].double().numpy()))
        half = self._factor * deviation
        return Estimate(mean, mean - half, mean + half)

    def _standardized(self, inputs: _Array) -> _Array:
        standardized: _Array = (inputs - self._center) / self._unit
        return standardized

    def _fit(self, targets: _Array) -> None:
        """Chooses width and noise by leave-one-out likelihood (Rasmussen & Williams 2006, Eqs. 5.10 to 5.12)."""
        best = math.inf
        for width in _WIDTHS:
            covariance = self._covariance(self._points, width)
            for noise in _NOISES:
                inverse = np.linalg.inv(covariance + noise * np.eye(len(targets)))
                weights, variance = inverse @ targets, 1.0 / inverse.diagonal()
                loss = float((np.square(weights) * variance + np.log(variance)).mean())
                if loss < best:
                    best, self._width, self._noise, self._inverse, self._weights = loss, width, noise, inverse, weights

    def _covariance(self, points: _Array, width: float) -> _Array:
        distances = np.square(points[:, None] - self._points).sum(2)
        covariance: _Array = np.exp(-0.5 / width**2 * distances) + _LINEAR * (1.0 + points @ self._points.T)
        return covariance

    def _posterior(self, inputs: _Array) -> tuple[_Array, _Array]:
        """[B, F] -> mean and standard deviation of the gain, [B] each."""
        points = self._standardized(inputs)
        covariance = self._covariance(points, self._width)
        prior = 1.0 + _LINEAR * (1.0 + np.square(points).sum(1)) + self._noise
        variance = prior - ((covariance @ self._inverse) * covariance).sum(1)
        deviation = np.sqrt(variance.clip(self._noise))
        return self._level + self._spread * (covariance @ self._weights), self._spread * deviation


_MODELS: "weakref.WeakKeyDictionary[MetaPolicy, GainModel | None]" = weakref.WeakKeyDictionary()


def gain_model(meta_policy: MetaPolicy) -> GainModel | None:
    """The model that is fitted to an artifact's held-out tasks; None for an artifact with fewer than twenty.

    Raises:
        ArtifactError: the tensors of the held-out tasks are damaged.
    """
    if meta_policy not in _MODELS:
        found = held_out_gains(meta_policy.reference)
        _MODELS[meta_policy] = GainModel(*found) if found is not None and len(found[1]) >= _FEWEST_TASKS else None
    return _MODELS[meta_policy]


def held_out_gains(reference: Parameters) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The features [T, F] and the gains [T] of an artifact's held-out tasks; None for an artifact without them.

    Raises:
        ArtifactError: they are damaged.
    """
    if GAINS_NAME not in reference and FEATURES_NAME not in reference:
        return None
    inputs, gains = reference.get(FEATURES_NAME), reference.get(GAINS_NAME)
    if inputs is None or gains is None:
        missing = FEATURES_NAME if inputs is None else GAINS_NAME
        raise ArtifactError(REFERENCE_NAME, f"{missing} is missing; calibrate the artifact again")
    if inputs.ndim != 2 or gains.shape != inputs.shape[:1]:
        found = f"{FEATURES_NAME} is {list(inputs.shape)} and {GAINS_NAME} {list(gains.shape)}"
        raise ArtifactError(REFERENCE_NAME, f"{found}; expected [T, F] and [T]")
    for name, value in ((FEATURES_NAME, inputs), (GAINS_NAME, gains)):
        if not bool(torch.isfinite(value).all()):
            raise ArtifactError(REFERENCE_NAME, f"{name} is not finite")
    return inputs, gains


def predict_gain(
    meta_policy: MetaPolicy,
    batch: TrajectoryBatch,
    after: Parameters,
    scale: float,
    *,
    task_p_value: float | None = None,
    mean_return: float | None = None,
) -> Estimate | None:
    """Predicts the gain of a session's first step.

    Args:
        meta_policy: θ with its held-out tasks.
        batch: the trajectories of round 0, collected with θ.
        after: θ_1, as the shipped inner loop proposes it.
        scale: of the task's reward, relative to meta-training.
        task_p_value: that the task is one of meta-training's, if known. Below .05 the interval is widened.
        mean_return: θ's in the units of meta-training, where that of the batch has an offset.

    Returns:
        The return of θ_1 less that of θ, in the task's units; None if the artifact holds fewer than twenty held-out
        tasks, or if their features are others.

    Raises:
        ArtifactError: the tensors of the held-out tasks are damaged.
    """
    model = gain_model(meta_policy)
    if model is None:
        return None
    inputs = gain_features(batch, meta_policy.parameters, after, scale)
    if mean_return is not None:
        inputs[0] = mean_return
    if len(inputs) != meta_policy.reference[FEATURES_NAME].shape[1]:
        return None
    if not bool(torch.isfinite(inputs).all()):
        return None
    found = model.predict(inputs)
    half = found.high - found.value
    if task_p_value is not None and task_p_value < _UNFAMILIAR:
        half = max(half, 2.0 * abs(found.value))
    return Estimate(found.value * scale, (found.value - half) * scale, (found.value + half) * scale)
