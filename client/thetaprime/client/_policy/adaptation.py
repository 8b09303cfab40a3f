"""The policy that an adaptation hands out, with the adaptation's history."""

from collections.abc import Sequence
from typing import Self

from thetaprime.client._history import RoundResult, gain
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._verdict import Estimate


class Adaptation(AdaptedPolicy):
    """The policy that `Client.adapt` hands out, and how the session came to it.

    It is an `AdaptedPolicy`: act with it, save it. Loaded from a file, it has no history.

    Attributes:
        history: θ and every θ′ that was measured, in order: their returns, and the verdict on the step from each.
        session_id: id of the session, for `Client.resume` and ``thetaprime explain``.
        round: k, if this policy is θ_k: the last one, or the best verified one where the last one is worse.
        measured: the episodes of this policy, of all rounds; None where it was not measured (``verify=0``).
    """

    history: tuple[RoundResult, ...] = ()
    session_id: str = ""
    round: int = 0
    measured: RoundResult | None = None
    _theta_id: str = ""

    @classmethod
    def of(
        cls,
        policy: AdaptedPolicy,
        round_index: int,
        history: Sequence[RoundResult],
        measured: RoundResult | None,
        *,
        session_id: str,
        theta_id: str,
    ) -> Self:
        """Returns the policy with its history, without loading its file again.

        Args:
            policy: θ_k of the session.
            round_index: k.
            history: the policies that were measured, in order.
            measured: the episodes of this policy; None without any.
            session_id: the session.
            theta_id: `policy_id` of θ.
        """
        adaptation = cls.__new__(cls)
        # Both objects act with one graph, under one lock.
        vars(adaptation).update(vars(policy))
        adaptation.round = round_index
        adaptation.history = tuple(history)
        adaptation.measured = measured
        adaptation.session_id = session_id
        adaptation._theta_id = theta_id
        return adaptation

    @property
    def gain(self) -> Estimate | None:
        """The mean return of this policy less that of θ, with its 90 % interval; None where it was not measured."""
        return None if self.measured is None else gain(self.measured, self.history[0])

    @property
    def improved(self) -> bool | None:
        """Whether this policy is better than θ by more than noise: `gain` is above 0 with its whole interval.

        None where this policy was not measured (``verify=0``).
        """
        return None if self.gain is None else self.policy_id != self._theta_id and self.gain.low > 0.0

    @property
    def summary(self) -> str:
        """One sentence on the outcome."""
        if self.measured is None or self.gain is None:
            return "this policy was not measured: adapt with verify= episodes"
        last, name = self.history[-1], self.measured.name
        worse = f"{last.name} returned {last.mean_return:.4g}, which is less than {name}; "
        why = worse if self.measured.round != last.round else ""
        if self.improved:
            return f"{why}{name} gained {self.gain} over θ"
        if self.policy_id == self._theta_id:
            return f"{why}nothing was gained, and this policy is θ"
        return f"{why}nothing was gained beyond noise: {name} gained {self.gain} over θ"
