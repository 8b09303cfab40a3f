"""Where the next step of a session may lead: the inner loop's own step, an earlier policy, or a step of the guard.

The guard's steps start from the best verified policy. A policy whose context alone adapts is guarded with a model of
the return over the context (`return_model`, `line_search`). Any other policy is guarded along its own gradients, with
directions that are taken afresh.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

import torch

from thetaprime.models.artifact import MetaPolicy
from thetaprime.models.head import LOG_STD
from thetaprime.models.inner_loop import InnerStep, with_std_factor
from thetaprime.models.parameters import Parameters, check_finite, interpolate
from thetaprime.models.spec import CONTEXT, AdaptationSpec
from thetaprime.models.verdict.decide import Ruling
from thetaprime.models.verdict.evidence import Move
from thetaprime.models.verdict.kl_limit import within_kl
from thetaprime.models.verdict.line_search import along, between, next_context
from thetaprime.models.verdict.options import StepOptions
from thetaprime.models.verdict.rounds import Review, Round, RoundsSpec
from thetaprime.models.verdict.usual_returns import UsualReturns
from thetaprime.models.verdict.verdict import Caution, Decision

ROUNDS: Final = RoundsSpec()
"""The settings of a session's rounds."""


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """A step before the decision.

    Attributes:
        parameters: where it leads.
        policy: number of the round whose policy that is; None for a new policy.
        move: its kind.
    """

    parameters: Parameters
    policy: int | None
    move: Move


@dataclasses.dataclass(frozen=True, eq=False)
class Proposals:
    """The steps that a session may take from θ_k.

    Attributes:
        meta_policy: the artifact with θ.
        parameters: θ_k.
        number: number of the first round with the policy θ_k.
        round: k.
        policy_of: returns the policy of an earlier round by its number.
        options: of the session.
        in_context: whether the context alone adapts.
        observations: [S, O], those of the round.
        scale: of the session's rewards, relative to meta-training.
        usual: returns after adaptation in meta-training, if they are known.
    """

    meta_policy: MetaPolicy
    parameters: Parameters
    number: int
    round: int
    policy_of: Callable[[int], Parameters]
    options: StepOptions
    in_context: bool
    observations: torch.Tensor
    scale: float
    usual: UsualReturns | None

    @property
    def adaptation(self) -> AdaptationSpec:
        """The inner loop of the artifact."""
        return self.meta_policy.manifest.adaptation

    def is_inner(self, seen: Review) -> bool:
        """Whether the inner loop's own step is due: the first one, and those that meta-training took after it.

        Where more than the context adapts, the steps whose lengths the schedule plans are due too.
        """
        planned = self.adaptation.inner_steps
        if not self.in_context:
            planned = max(planned, len(self.adaptation.inner_lr_schedule))
        early = self.round - seen.epoch < planned and seen.move is not Move.BACK
        return not seen.restart and (seen.is_first or (early and seen.best == seen.current))

    def along_gradient(self, seen: Review) -> bool:
        """Whether a step forward follows the gradient at θ_k, and not a model of the return over the context."""
        return self.is_inner(seen) or self.options.caution is not Caution.HOLD or not self.in_context

    def propose(self, seen: Review, rounds: Sequence[Round], inner: InnerStep, *, signal: bool) -> Proposal:
        """Proposes a step.

        Args:
            seen: what the rounds say.
            rounds: all rounds so far.
            inner: the inner loop's step from θ_k.
            signal: whether the advantages and the gradient differ from 0.
        """
        if self.options.caution is not Caution.HOLD:
            move = Move.STAY if seen.held else seen.move
            return Proposal(inner.parameters, None, move)
        if seen.restart:
            return self._earlier(0, Move.BACK)
        if seen.is_first:
            return Proposal(inner.parameters, None, Move.FORWARD)
        if self.adaptation.max_kl is not None and signal:
            return self._trust_region_proposal(seen, inner)
        if seen.held or not signal:
            return self._earlier(seen.best, Move.STAY if seen.best == seen.current else Move.BACK)
        if self.is_inner(seen):
            return Proposal(inner.parameters, None, seen.move)
        if self.in_context:
            return self._context_proposal(seen, rounds[seen.epoch :])
        return self._gradient_proposal(seen, inner)

    def _earlier(self, number: int, move: Move) -> Proposal:
        """The policy of an earlier round."""
        if number == self.number:
            return Proposal(self.parameters, number, move)
        return Proposal(self.policy_of(number), number, move)

    def _context_proposal(self, seen: Review, rounds: Sequence[Round]) -> Proposal:
        """A context within the trust region, for the policy with θ's parameters and the noise after adaptation."""
        index = next(i for i, each in enumerate(rounds) if each.policy == seen.best)
        length = _first_length(rounds)
        slope = self._slope(rounds, length)
        radius = seen.radius * length
        # A context ahead that rises back toward the best one bounds the way on.
        if seen.steep and between(rounds, index, length, slope, ROUNDS) is None:
            if self.usual is not None:
                radius = min(radius, self.usual.distance_left(rounds[index], slope))
            context = along(rounds[index], radius)
        else:
            context = next_context(rounds, index, radius, length, slope, ROUNDS)
        base = with_std_factor(self.meta_policy.parameters, self.adaptation.adapted_std_factor)
        moved = {**base, CONTEXT: torch.tensor(context, dtype=base[CONTEXT].dtype)}
        return Proposal(moved, None, seen.move)

    def _slope(self, rounds: Sequence[Round], length: float) -> float:
        """Change of the return over one unit of the context, as meta-training or the first step tells it."""
        if self.adaptation.target_return is not None:
            sizes = self.meta_policy.step_sizes
            size = self.adaptation.context_lr if sizes is None else float(sizes[CONTEXT].mean())
            return self.scale * self.adaptation.return_gap / size
        first = rounds[0]
        other = next(each for each in rounds if each.policy != first.policy)
        spread = abs(other.mean_return - first.mean_return)
        return max(spread, 1e-6 * max(abs(first.mean_return), abs(other.mean_return)), 1e-30) / length

    def _gradient_proposal(self, seen: Review, inner: InnerStep) -> Proposal:
        """A step along the gradient at θ_k from the best policy; after a loss, a part of the way that led there."""
        if seen.best == seen.current:
            return Proposal(interpolate(self.parameters, inner.parameters, seen.radius), None, seen.move)
        if seen.losses > 1:
            # Two steps along one direction lost. The best policy's next episodes give another.
            return self._earlier(seen.best, Move.BACK)
        best = self.policy_of(seen.best)
        return Proposal(interpolate(best, self.parameters, ROUNDS.shrinkage / 2.0), None, Move.BACK)

    def _trust_region_proposal(self, seen: Review, inner: InnerStep) -> Proposal:
        """A short step from θ_k, whether the last one gained or not; back to the best policy after a loss."""
        if seen.move is Move.BACK and seen.best != seen.current:
            return self._earlier(seen.best, Move.BACK)
        return Proposal(inner.parameters, None, Move.FORWARD)

    def within_trust_region(self, proposal: Proposal) -> Proposal:
        """A new policy within the artifact's trust region around θ_k, if it has one."""
        limit = self.adaptation.max_kl
        if limit is None or proposal.policy is not None:
            return proposal
        check_finite(proposal.parameters)
        part, _ = within_kl(self.meta_policy.policy, self.parameters, proposal.parameters, self.observations, limit)
        if part == 1.0:
            return proposal
        return dataclasses.replace(proposal, parameters=interpolate(self.parameters, proposal.parameters, part))

    def chosen(self, proposal: Proposal, ruling: Ruling) -> Proposal:
        """The proposal at the length that was decided."""
        if ruling.decision is Decision.HELD or ruling.length == 0.0:
            return Proposal(self.parameters, self.number, proposal.move)
        if all(torch.equal(value, self.parameters[name]) for name, value in proposal.parameters.items()):
            return dataclasses.replace(proposal, policy=self.number)
        if ruling.length == 1.0 or proposal.policy is not None:
            return proposal
        shorter = interpolate(self.parameters, proposal.parameters, ruling.length)
        # The noise after adaptation belongs to any step.
        kept = {name: proposal.parameters[name] for name in (LOG_STD,) if name in shorter}
        return Proposal({**shorter, **kept}, None, proposal.move)

    def limited(self, chosen: Proposal) -> tuple[Proposal, float]:
        """The step within the session's limit on its KL divergence, and the divergence before that."""
        if self.options.max_kl is None or chosen.policy == self.number:
            return chosen, 0.0
        part, whole = within_kl(
            self.meta_policy.policy, self.parameters, chosen.parameters, self.observations, self.options.max_kl
        )
        if part == 1.0:
            return chosen, whole
        if part == 0.0:
            return Proposal(self.parameters, self.number, chosen.move), whole
        return Proposal(interpolate(self.parameters, chosen.parameters, part), None, chosen.move), whole


def _first_length(rounds: Sequence[Round]) -> float:
    """Length of the first step in the context."""
    lengths = (math.dist(each.context, rounds[0].context) for each in rounds)
    return max(next((length for length in lengths if length > 0.0), 0.0), 1e-6)
