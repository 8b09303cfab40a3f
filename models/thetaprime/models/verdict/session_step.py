"""The next step of a session: the one function that the service and the evaluation call, round after round.

The first step is the inner loop's own (`adapt_step`), exactly. Later steps are guarded (`rounds`): they start from the
best verified policy, their lengths follow from realized gains, and they end where nothing remains to be gained.
`proposals` says where they lead.

A step is a function of the artifact, of the episodes and of what the session remembers. Equal inputs give equal steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from thetaprime.models.artifact import MetaPolicy
from thetaprime.models.baseline import Regressors
from thetaprime.models.inner_loop import (
    InnerStep,
    StepLength,
    StepSummary,
    adapt_step,
    inner_advantages,
    moving_parameters,
    step_length,
    summarize_step,
)
from thetaprime.models.parameters import Parameters, check_finite
from thetaprime.models.policy import ForwardPass, Policy, forward_pass
from thetaprime.models.reward_units import batch_scale, reward_deviation
from thetaprime.models.spec import CONTEXT
from thetaprime.models.trajectories import TrajectoryBatch, baseline_inputs
from thetaprime.models.verdict.cross_fitted import MOST_KL, cross_fitted_gain
from thetaprime.models.verdict.decide import decide, write_verdict
from thetaprime.models.verdict.evidence import Evidence, Move
from thetaprime.models.verdict.familiarity import Familiarity, task_p_value
from thetaprime.models.verdict.gradient_evidence import GradientEvidence, measure_gradient
from thetaprime.models.verdict.horizon import at_discount, with_horizon
from thetaprime.models.verdict.memory import RoundMemory
from thetaprime.models.verdict.options import StepOptions
from thetaprime.models.verdict.predicted import predict_gain
from thetaprime.models.verdict.proposals import ROUNDS, Proposal, Proposals
from thetaprime.models.verdict.reward_level import RewardLevel, reward_level
from thetaprime.models.verdict.rounds import Review, Round, review
from thetaprime.models.verdict.usual_returns import UsualReturns
from thetaprime.models.verdict.verdict import Caution, Estimate, Verdict

# A direction shorter than this is none.
_SMALLEST: Final = 1e-12
# Steps of a batch whose features stay in memory for the verdict; those of a larger one are computed again.
_MOST_KEPT: Final = 1 << 16
# Rewards that differ by less than this share of the largest are constant: they travel as float32.
_ROUNDING: Final = 1e-6
# Where the shape of the rewards tells the distance to this share of it, it tells the level of the returns, too.
_NARROW: Final = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class SessionStep:
    """The step of one round.

    Attributes:
        parameters: θ_{k+1}.
        inner: the gradient at θ_k; its parameters are those of the inner loop's own step.
        summary: the effect of the step.
        verdict: what became of it, and why.
        memory: what the session has to remember of the round.
    """

    parameters: Parameters
    inner: InnerStep
    summary: StepSummary
    verdict: Verdict
    memory: RoundMemory


def next_step(
    meta_policy: MetaPolicy,
    history: Sequence[RoundMemory],
    batch: TrajectoryBatch,
    parameters: Parameters,
    policy_of: Callable[[int], Parameters],
    options: StepOptions,
    *,
    forward: ForwardPass | None = None,
    forgotten: int = 0,
) -> SessionStep:
    """Computes the next step of a session.

    Args:
        meta_policy: the artifact with θ.
        history: what the session remembers of rounds 0 to k − 1.
        batch: the trajectories of round k, collected with θ_k.
        parameters: θ_k.
        policy_of: returns the policy of an earlier round by its number. It is called for the best policy at most.
        options: of the session.
        forward: θ_k evaluated at the batch for the parameters that move, if already computed; the step consumes it.
        forgotten: k, for a session that began before rounds were remembered. It has no history, and goes on without a
            guard.

    Raises:
        NonFiniteStepError: a parameter of θ_{k+1} is not finite.
    """
    if forgotten:
        history, options = (), dataclasses.replace(options, caution=Caution.OFF)
    return _Step(meta_policy, history, batch, parameters, policy_of, options, forward, forgotten).take()


class _Step:
    """The parts of one step, which share what they computed."""

    def __init__(
        self,
        meta_policy: MetaPolicy,
        history: Sequence[RoundMemory],
        batch: TrajectoryBatch,
        parameters: Parameters,
        policy_of: Callable[[int], Parameters],
        options: StepOptions,
        forward: ForwardPass | None,
        forgotten: int,
    ) -> None:
        self._meta_policy, self._history, self._parameters = meta_policy, history, parameters
        self._policy_of, self._options = policy_of, options
        self._round = forgotten or len(history)
        self._policy: Policy = meta_policy.policy
        # The first round chose the horizon of the session.
        self._discount = history[0].discount if history else None
        self._adaptation = at_discount(meta_policy.manifest.adaptation, self._discount)
        self._batch = options.in_known_units(batch)
        self._moving = moving_parameters(parameters, self._adaptation, meta_policy.step_sizes)
        # What an offset of the rewards adds to a return, if the first round told it.
        self._shift = history[0].level_shift if history else None
        self._level: RewardLevel | None = None
        self._inputs: Regressors | None = None
        self._lengths: dict[int, StepLength] = {}
        self._summarized: tuple[Parameters, StepSummary] | None = None
        self._forward = forward or forward_pass(self._policy, parameters, batch, self._moving)

    @property
    def _number(self) -> int:
        """The number of the policy θ_k."""
        return self._history[-1].next_policy if self._history else 0

    @property
    def _in_context(self) -> bool:
        """Whether the context alone adapts."""
        return self._moving == {CONTEXT}

    def _length(self, step: int) -> StepLength:
        """The inner loop's length of its step of this number, with the scale of the session's rewards."""
        known = None if self._options.reward_scale is None else 1.0
        if step not in self._lengths:
            self._lengths[step] = step_length(self._policy, self._batch, self._adaptation, step, known, self._inputs)
        return self._lengths[step]

    def _first_scale(self) -> float:
        """The scale of the rewards relative to meta-training: the first round tells it for the session."""
        if self._history:
            return self._history[0].scale
        reward = self._policy.environment.reward
        if self._options.reward_scale is not None or reward is None or not reward.deviation:
            return 1.0
        if self._adaptation.target_return is not None:
            return self._length(0).scale
        return batch_scale(self._batch, self._adaptation.baseline_ridge, reward, 0, self._inputs) or 1.0

    @functools.cached_property
    def _returns(self) -> torch.Tensor:
        return self._batch.returns

    @property
    def _usual(self) -> UsualReturns | None:
        return UsualReturns.of(self._meta_policy, self._scale, self._shift or 0.0)

    def take(self) -> SessionStep:
        """Computes the step."""
        adaptation = self._adaptation
        self._inputs = baseline_inputs(self._batch, self._policy.environment.horizon, adaptation.discount)
        self._advantage = inner_advantages(self._policy, self._batch, adaptation, self._inputs)
        self._scale = self._first_scale()
        measured = self._measure()
        rounds = [*(each.measured for each in self._history), measured]
        proposals = Proposals(
            self._meta_policy,
            self._parameters,
            self._number,
            self._round,
            self._policy_of,
            self._options,
            self._in_context,
            self._batch.observations,
            self._scale,
            self._usual,
        )
        inner = self._inner_step(review(rounds, ROUNDS), proposals)
        familiarity = self._familiarity(inner)
        inner = self._at_level(inner, rounds, proposals)
        inner = self._at_horizon(inner, rounds, proposals)
        level_known = self._level_known()
        p_value = self._history[-1].task_p_value if self._history else None
        if familiarity is not None:
            p_value = familiarity.p_value
        signal = _varies(self._batch) and bool(self._advantage.any()) and inner.gradient_norm > _SMALLEST
        gradient = self._gradient_evidence(inner, level_known=level_known) if signal else None
        if self._in_context:
            unit = reward_deviation(self._batch, adaptation.baseline_ridge, self._inputs)
            length = None if gradient is None else gradient.length
            measured = dataclasses.replace(
                measured, ascent=_ascent(inner), steepness=None if length is None else unit * length
            )
            rounds[-1] = measured
        enough = self._enough(rounds, p_value)
        seen = review(rounds, ROUNDS, enough, floor_trajectories=self._adaptation.trajectories_per_round)
        proposal = proposals.within_trust_region(proposals.propose(seen, rounds, inner, signal=signal))
        evidence = self._evidence(seen, proposal, enough, measured.mean_return, signal=signal, level_known=level_known)
        if gradient is not None:
            evidence = dataclasses.replace(
                evidence,
                influences=gradient.influences,
                weighty_steps=gradient.weighty_steps,
                episodes_needed=gradient.episodes_needed,
                signal_p_value=gradient.signal_p_value,
                disagreement=gradient.disagreement,
            )
        if familiarity is not None:
            evidence = dataclasses.replace(evidence, task_p_value=familiarity.p_value, unusual=familiarity.text)
        elif self._history:
            evidence = dataclasses.replace(evidence, task_p_value=self._history[-1].task_p_value)
        evidence = self._with_prediction(evidence, seen, inner, proposals, proposal)
        ruling = decide(evidence, self._options.caution)
        chosen = proposals.chosen(proposal, ruling)
        check_finite(chosen.parameters)
        limited, kl_divergence = proposals.limited(chosen)
        evidence = dataclasses.replace(evidence, kl_divergence=kl_divergence, max_kl=self._options.max_kl)
        memory = RoundMemory(
            measured,
            next_policy=self._round + 1 if limited.policy is None else limited.policy,
            scale=self._scale,
            level_known=level_known,
            task_p_value=evidence.task_p_value,
            familiarity=None if familiarity is None else familiarity.alone,
            discount=self._discount,
            level_shift=self._shift,
        )
        return SessionStep(
            parameters=limited.parameters,
            inner=inner,
            summary=self._summary(inner, limited.parameters),
            verdict=write_verdict(evidence, ruling, shortened=limited is not chosen),
            memory=memory,
        )

    def _measure(self) -> Round:
        returns = self._returns
        count = len(returns)
        context = self._parameters[CONTEXT].double().tolist() if self._in_context else ()
        return Round(
            policy=self._number,
            mean_return=float(returns.mean()),
            deviation=float(returns.std()) if count > 1 else None,
            trajectories=count,
            context=tuple(context),
            upper=float(returns.quantile(0.75)),
        )

    def _level_known(self) -> bool:
        """Whether mean returns can be compared with those of meta-training."""
        if self._history:
            return self._history[0].level_known
        return self._adaptation.target_return is None or self._length(0).measured

    def _enough(self, rounds: Sequence[Round], p_value: float | None) -> float | None:
        """The return at which the session holds.

        Where more than the context adapts, the returns after the first step are no goal: later steps go on gaining.
        """
        if not self._in_context or self._usual is None:
            return None
        if self._shift is not None:
            # The task is unfamiliar by its level, which is taken into account.
            return self._usual.enough(rounds, level_known=True, p_value=None)
        return self._usual.enough(rounds, level_known=self._level_known(), p_value=p_value)

    def _inner_step(self, seen: Review, proposals: Proposals) -> InnerStep:
        """The inner loop's step from θ_k: its end is used where the guard does not propose another."""
        free = self._options.caution is not Caution.HOLD
        step = self._round - (0 if free else self._round if seen.is_first else seen.epoch)
        guarded = not free and self._in_context and not proposals.is_inner(seen)
        # Of a guarded context step, only the direction counts.
        length = 0.0 if guarded else self._length(step).factor
        if len(self._batch.rewards) > _MOST_KEPT:
            # The features are large, and the gradient needs the memory.
            self._inputs = None
        return adapt_step(
            self._policy,
            self._parameters,
            self._batch,
            self._adaptation,
            step=step,
            step_sizes=self._meta_policy.step_sizes,
            scale=self._options.step_size_scale,
            length=length,
            advantage=self._advantage,
            forward=self._forward,
        )

    def _at_horizon(self, inner: InnerStep, rounds: Sequence[Round], proposals: Proposals) -> InnerStep:
        """The inner loop's step with the horizon that θ's first episodes choose; later rounds have that of the first.

        Where rewards come late, the step is taken again with another discount.
        """
        if self._round:
            return inner
        found = with_horizon(
            self._policy,
            self._parameters,
            self._batch,
            self._adaptation,
            step_sizes=self._meta_policy.step_sizes,
            step=inner,
            inputs=self._inputs,
        )
        if found is self._adaptation:
            return inner
        self._adaptation, self._discount = found, found.discount
        self._inputs = baseline_inputs(self._batch, self._policy.environment.horizon, found.discount)
        self._advantage = inner_advantages(self._policy, self._batch, found, self._inputs)
        self._forward = forward_pass(self._policy, self._parameters, self._batch, self._moving)
        return self._inner_step(review(rounds, ROUNDS), proposals)

    def _at_level(self, inner: InnerStep, rounds: Sequence[Round], proposals: Proposals) -> InnerStep:
        """The inner loop's step with the distance that the shape of the rewards tells, where their level does not."""
        target = self._adaptation.target_return
        hold = self._options.caution is Caution.HOLD
        if self._round or target is None or self._options.reward_offset is not None or not hold:
            return inner
        length = self._length(0)
        if not inner.gradient_norm > _SMALLEST:
            return inner
        found = reward_level(self._meta_policy, self._batch, inner.gradient, self._scale, believed=length.measured)
        if found is None:
            return inner
        mean_return = float(self._returns.mean())
        stated = target - mean_return / self._scale
        gap = found.cautious_gap(stated)
        self._level = found
        self._lengths[0] = StepLength(gap / self._adaptation.return_gap, self._scale, measured=False)
        beyond = found.is_far and stated > found.most
        if found.most - found.least <= _NARROW * gap and not beyond:
            self._shift = mean_return - self._scale * found.mean_return
        self._forward = forward_pass(self._policy, self._parameters, self._batch, self._moving)
        return self._inner_step(review(rounds, ROUNDS), proposals)

    def _evidence(
        self,
        seen: Review,
        proposal: Proposal,
        enough: float | None,
        mean_return: float,
        *,
        signal: bool,
        level_known: bool,
    ) -> Evidence:
        # Known units were taken out of the rewards, and go back into every number of the verdict.
        unit = self._options.reward_scale or 1.0
        best = seen.policies[seen.best]
        return Evidence(
            move=proposal.move,
            exhausted=seen.held and not seen.is_first and self._adaptation.max_kl is None,
            best_round=seen.best,
            trajectories=len(self._returns),
            mean_return=mean_return,
            signal=signal,
            scale=self._options.reward_scale or self._scale,
            scale_known=self._options.reward_scale is not None,
            level_known=level_known or self._options.reward_offset is not None,
            realized_gain=_scaled(seen.realized, unit),
            remaining=unit * (enough - best.mean) if seen.enough and enough is not None else None,
            contradicted=_scaled(seen.contradicted, unit),
        )

    def _familiarity(self, inner: InnerStep) -> Familiarity | None:
        """Compares the episodes with those of meta-training, in the rounds that were calibrated: those of θ and θ_1."""
        if self._round > 1 or len(self._history) != self._round or self._discount is not None:
            # The calibration knows the horizon of meta-training alone.
            return None
        first = self._history[0].familiarity if self._history else None
        adapted = self._number > 0
        if self._round and (first is None or not adapted):
            return None
        return task_p_value(self._meta_policy, self._batch, inner.gradient, adapted=adapted, first=first)

    def _gradient_evidence(self, inner: InnerStep, *, level_known: bool) -> GradientEvidence:
        """What the gradient says: which episodes it rests on, and how noisy it is."""
        target = self._adaptation.target_return
        known = level_known or self._options.reward_offset is not None
        return measure_gradient(
            self._policy,
            self._parameters,
            self._batch,
            self._adaptation,
            inner,
            step_sizes=self._meta_policy.step_sizes,
            target=None if target is None or not known else target * self._scale,
            inputs=self._inputs,
        )

    def _with_prediction(
        self, evidence: Evidence, seen: Review, inner: InnerStep, proposals: Proposals, proposal: Proposal
    ) -> Evidence:
        """Adds the predicted gain of the step: cross-fitted, or calibrated for the inner loop's whole first step."""
        if not evidence.signal or proposal.policy is not None or evidence.move not in (Move.FORWARD, Move.SHORTER):
            return evidence
        unit = self._options.reward_scale or 1.0
        step = proposals.limited(proposal)[0]
        # The steps that meta-training learned for a context are long.
        short = self._options.max_kl is not None or not self._in_context
        if short and proposals.along_gradient(seen) and self._summary(inner, step.parameters).kl_divergence <= MOST_KL:
            fitted = cross_fitted_gain(
                self._policy,
                self._parameters,
                step.parameters,
                self._batch,
                inner,
                self._adaptation,
                self._meta_policy.step_sizes,
            )
            if fitted is None:
                return evidence
            return dataclasses.replace(
                evidence,
                predicted_gain=_scaled(fitted.gain, unit),
                effective_sample_size=fitted.effective_sample_size,
            )
        first = seen.is_first and self._number == 0 and len(self._history) == self._round
        if not first or step is not proposal or self._options.step_size_scale != 1.0:
            return evidence
        found = predict_gain(
            self._meta_policy,
            self._batch,
            inner.parameters,
            self._scale,
            task_p_value=evidence.task_p_value,
            mean_return=None if self._level is None else self._level.mean_return,
        )
        return dataclasses.replace(evidence, predicted_gain=_scaled(found, unit))

    def _summary(self, inner: InnerStep, after: Parameters) -> StepSummary:
        """The effect of a step that leads to a policy. The same policy again is not run again."""
        if self._summarized is None or self._summarized[0] is not after:
            self._summarized = after, summarize_step(self._policy, self._parameters, inner, self._batch, after)
        return self._summarized[1]


def _varies(batch: TrajectoryBatch) -> bool:
    """Whether returns can depend on actions: rewards differ, or episodes that end by themselves differ in length."""
    rewards = batch.rewards.double()
    if float(rewards.max() - rewards.min()) > _ROUNDING * float(rewards.abs().max()):
        return True
    return bool(batch.terminated.any()) and len(set(batch.lengths)) > 1 and bool(rewards.any())


def _scaled(estimate: Estimate | None, unit: float) -> Estimate | None:
    if estimate is None:
        return None
    return Estimate(unit * estimate.value, unit * estimate.low, unit * estimate.high)


def _ascent(inner: InnerStep) -> tuple[float, ...]:
    gradient = inner.gradient[CONTEXT].double().numpy()
    norm = float(np.linalg.norm(gradient))
    ascent = -gradient / norm if norm > _SMALLEST else np.zeros_like(gradient)
    return tuple(ascent.tolist())
