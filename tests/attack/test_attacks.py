"""Each attack, for a moment: the server serves on, keeps what it acknowledged, and takes little memory.

`make attack` runs them at length, and measures what they cost an honest client.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.arena import Arena, Served
from tests.attack.attacks import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")]

SECONDS = 0.3
MOST_MIB = 64.0


@contextlib.contextmanager
def serving(folder: Path, *, guarded: bool) -> Iterator[Served]:
    """One process for all attacks: what they take adds up."""
    arena = Arena(folder, guarded=guarded)
    with arena.serving() as running:
        running.rest(SECONDS)
        yield running
    assert arena.kept
    assert not arena.find_lost()


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("open"), guarded=False) as running:
        yield running


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("guarded"), guarded=True) as running:
        yield running


def attacks(*, guarded: bool) -> list[str]:
    return [name for name, kind in ATTACKS.items() if kind.guarded == guarded]


@pytest.mark.parametrize("name", attacks(guarded=False))
def test_an_attack_without_a_token_takes_little_memory_and_nothing_is_lost(open_server: Served, name: str) -> None:
    check_attack(open_server, name)


@pytest.mark.parametrize("name", attacks(guarded=True))
def test_an_attack_of_a_tenant_takes_little_memory_and_nothing_is_lost(guarded_server: Served, name: str) -> None:
    check_attack(guarded_server, name)


def check_attack(served: Served, name: str) -> None:
    result = served.suffer(ATTACKS[name], SECONDS, idle=1.0)
    assert result.survived, result.problem
    assert result.mib < MOST_MIB
