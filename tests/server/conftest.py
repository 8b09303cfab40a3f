"""Servers on loopback, and the functions that tests of them share."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from tests.support.artifacts import write_point_artifact
from tests.support.point_navigation import collect
from tests.support.server.fixtures import configure, service, start, zoo
from tests.support.server.service import Connect, WriteTokens, connect
from tests.support.server.tokens import write_tokens
from thetaprime import models, wire
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.logging import configure_logging
from thetaprime.server.sessions.uploads import NewUpload

__all__ = ["configure", "service", "start", "zoo"]


@pytest.fixture
def everything_logged() -> Iterator[None]:
    """Servers within tests log warnings only; this one logs all that it would in production."""
    before = structlog.get_config() if structlog.is_configured() else None
    configure_logging(logging.INFO)
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


@pytest.fixture(name="write_tokens", scope="session")
def _write_tokens() -> WriteTokens:
    return write_tokens


@pytest.fixture(name="collect", scope="session")
def _collect() -> Callable[..., list[wire.Trajectory]]:
    return collect


@pytest.fixture(name="connect", scope="session")
def _connect() -> Connect:
    return connect


@pytest.fixture(name="write_point_artifact", scope="session")
def _write_point_artifact() -> Callable[..., models.MetaPolicy]:
    return write_point_artifact


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of trajectories of each step that was computed."""
    counts: list[int] = []

    def counted(policy: Any, parameters: Any, batch: Any, *args: Any, **kwargs: Any) -> models.InnerStep:
        counts.append(len(batch.lengths))
        return models.adapt_step(policy, parameters, batch, *args, **kwargs)

    monkeypatch.setattr("thetaprime.models.verdict.session_step.adapt_step", counted)
    return counts


@pytest.fixture
def no_precomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Adapt` computes each step: nothing is precomputed."""

    def do_nothing(engine: AdaptationEngine, upload: NewUpload) -> None:
        pass

    monkeypatch.setattr(AdaptationEngine, "precompute", do_nothing)
