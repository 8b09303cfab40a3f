"""A tiny run, and torch on one thread."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.training.tiny import tiny_config
from thetaprime.training.config import TrainConfig


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Runs torch's operations on one thread, as training does: for tiny ones several threads are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> TrainConfig:
    return tiny_config({})
