"""The limit of the on-policy test's power, against simulated rounds."""

import numpy as np
import pytest
import torch

from benchmarks.gate_optimum import best_power


@pytest.mark.parametrize(("distance", "level"), [(0.15, 0.01), (0.3, 0.001), (0.6, 0.001)])
def test_the_best_test_refuses_as_many_rounds_as_it_does_in_a_simulation(distance: float, level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    moved = logits + distance * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    named, other = logits.log_softmax(-1), moved.log_softmax(-1)
    ratio = other - named

    def ratios(policy: torch.Tensor) -> torch.Tensor:
        """Of 20,000 rounds."""
        actions = torch.multinomial(policy.exp(), 20_000, replacement=True, generator=generator)
        return ratio.gather(1, actions).sum(dim=0)

    threshold = ratios(named).quantile(1 - level)
    found = best_power(named.numpy(), other.numpy(), level)
    assert found == pytest.approx((ratios(other) >= threshold).double().mean().item(), abs=0.05)


def test_equal_policies_are_refused_at_the_level_and_far_ones_always() -> None:
    named = np.log(np.full((200, 2), 0.5))
    other = np.log(np.tile([0.99, 0.01], (200, 1)))
    assert best_power(named, other, 1e-7) == 1.0
    near = np.log(np.tile([0.501, 0.499], (200, 1)))
    assert best_power(named, near, 0.05) < 0.06
