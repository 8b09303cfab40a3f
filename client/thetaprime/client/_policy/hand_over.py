"""What becomes of the memory where one policy replaces another in a control loop."""

import dataclasses
from typing import Literal

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy


@dataclasses.dataclass(frozen=True)
class PolicySwap:
    """A replacement of the policy of a control loop.

    Attributes:
        before: `AdaptedPolicy.policy_id` of the old policy.
        after: `AdaptedPolicy.policy_id` of the new policy.
        memory: ``none``: the new policy has no memory. ``carried``: it goes on with what the old policy remembered.
            ``reset``: it begins new lifetimes.
        reason: why the memory was reset; empty otherwise.
    """

    before: str
    after: str
    memory: Literal["none", "carried", "reset"]
    reason: str = ""


def why_not_carried(old: AdaptedPolicy, new: AdaptedPolicy) -> str:
    """Says why a policy cannot take over the memory of another one; empty if it can."""
    if old.memory is None:
        return f"{old.meta_policy} has no memory"
    if new.memory is None:
        return f"{new.meta_policy} has no memory"
    if old.meta_policy != new.meta_policy:
        return f"the old policy is of {old.meta_policy}, the new one of {new.meta_policy}"
    shapes = [[(each.input, each.shape(1)) for each in policy.memory.states] for policy in (old, new) if policy.memory]
    if shapes[0] != shapes[1]:
        return f"the old state is {shapes[0]}, the new one {shapes[1]}"
    return ""


def hand_over(old: AdaptedPolicy, new: AdaptedPolicy, *, reset: bool) -> PolicySwap:
    """Gives a new policy what the old one remembers, or a new lifetime.

    Args:
        old: the policy so far.
        new: the policy from now on.
        reset: whether to begin a new lifetime in any case.
    """
    if new.memory is None:
        return PolicySwap(old.policy_id, new.policy_id, "none")
    reason = "replace was called with memory='reset'" if reset else why_not_carried(old, new)
    if not reason:
        try:
            if (state := old.state) is not None:
                new.state = new.carry(state)
                return PolicySwap(old.policy_id, new.policy_id, "carried")
            reason = "the old policy has not acted"
        except InvalidInputError as error:  # a state that is not finite any more
            reason = str(error)
    new.state = None
    return PolicySwap(old.policy_id, new.policy_id, "reset", reason)
