"""Learned step sizes: one for each parameter that adapts (Meta-SGD, Li et al. 2017)."""

from collections.abc import Callable
from typing import Final

import torch

from thetaprime.models import Parameters

_LOG, _MOMENT, _SQUARE, _COUNT = "log.", "moment.", "square.", "count"
_KEYS: Final = {_MOMENT: "exp_avg", _SQUARE: "exp_avg_sq"}


class LearnedStepSizes:
    """Step sizes that Adam updates in their logarithm, so that they stay positive.

    They have a separate optimizer. As a part of TRPO's vector they hardly moved, because θ used up the trust region.

    Args:
        like: parameters with the names and shapes of the step sizes.
        initial: name -> the parameter's initial step size; 0 for a parameter that does not adapt.
        learning_rate: of Adam.
    """

    def __init__(self, like: Parameters, initial: Callable[[str], float], learning_rate: float) -> None:
        first = {name: initial(name) for name in like}
        self._logs = {
            name: torch.full_like(value, first[name]).log().requires_grad_()
            for name, value in like.items()
            if first[name]
        }
        self._optimizer = torch.optim.Adam(self._logs.values(), lr=learning_rate)

    def values(self) -> Parameters:
        """The step sizes, as leaves of an autograd graph."""
        return {name: value.detach().exp().requires_grad_() for name, value in self._logs.items()}

    def update(self, gradient: Parameters) -> None:
        """Takes one step of Adam, given ∂loss/∂step sizes."""
        for name, log in self._logs.items():
            log.grad = gradient[name] * log.detach().exp()
        self._optimizer.step()

    def state(self) -> Parameters:
        """The state that a resumed run needs."""
        tensors = {_LOG + name: log.detach().clone() for name, log in self._logs.items()}
        for name, log in self._logs.items():
            moments = self._optimizer.state[log]
            for prefix, key in _KEYS.items():
                tensors[prefix + name] = moments[key].clone() if moments else torch.zeros_like(log)
            tensors[_COUNT] = moments["step"].clone() if moments else torch.zeros(())
        return tensors

    def load(self, state: Parameters) -> None:
        """Restores a state from `state`."""
        for name, log in self._logs.items():
            log.data.copy_(state[_LOG + name])
            if float(state[_COUNT]) > 0:
                self._optimizer.state[log] = {
                    "step": state[_COUNT].clone(),
                    **{key: state[prefix + name].clone() for prefix, key in _KEYS.items()},
                }
