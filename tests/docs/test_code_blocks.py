"""Runs every code block of the README and of docs/, page by page."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import pytest

import thetaprime.training
from tests.docs.blocks import Block, pages, read_blocks
from tests.docs.output import check_output
from tests.docs.reader import Reader, own_modules
from tests.docs.scenes import SCENES, scene
from thetaprime.server import ServerConfig, running_server
from thetaprime.training.tasks.vector_env import WORKERS_VARIABLE

gymnasium.register_envs(thetaprime.training)

WITH_BLOCKS = [page for page in pages() if read_blocks(page)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Returns the address of a server with the shipped meta-policies, which the first call starts."""
    started: list[str] = []
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"))
    server = running_server(config)

    def start() -> str:
        if not started:
            started.append(server.__enter__())
        return started[0]

    yield start
    if started:
        server.__exit__(None, None, None)


@pytest.fixture
def reader(
    tmp_path: Path, address: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Reader]]:
    """Returns a function that makes the reader of a page."""
    monkeypatch.chdir(tmp_path)
    # Starting worker processes for a few episodes would take most of the time.
    monkeypatch.setenv(WORKERS_VARIABLE, "1")
    # Neither reads nor writes files of the user.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    made: list[Reader] = []

    def make(page: str) -> Reader:
        chosen = scene(page)
        for name, value in chosen.prepare(tmp_path).items():
            monkeypatch.setenv(name, value)
        made.append(Reader(tmp_path, address, chosen.names, list(chosen.toml), monkeypatch))
        return made[-1]

    with own_modules(tmp_path, monkeypatch):
        yield make
    for each in made:
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS)
@pytest.mark.usefixtures("quick_evaluation")
def test_a_page_does_what_it_says(page: str, reader: Callable[[str], Reader]) -> None:
    reading = reader(page)
    blocks, elsewhere = read_blocks(page), scene(page).elsewhere
    for beginning, where in elsewhere.items():
        assert any(block.code.startswith(beginning) for block in blocks), f"{page} has no {beginning!r} ({where})"
    for block in blocks:
        if not block.code.startswith(tuple(elsewhere)):
            reading.do(block)


def test_every_scene_is_of_a_page() -> None:
    assert set(SCENES) <= set(WITH_BLOCKS)


@pytest.mark.parametrize(
    ("language", "code", "problem"),
    [
        ("python", "import thetaprime.client as tp\ntp.Clientt()", "Clientt"),
        ("python", "def test_it():\n    raise ValueError('found')", "found"),
        ("python", "import asyncio\nawait asyncio.sleep(0)\nraise ValueError('found')", "found"),
        ("console", "$ thetaprime models --lokal", "--lokal"),
        ("console", "$ thetaprime models --local\nnot what it prints", "not what it prints"),
        ("console", "$ thetaprime serve --max-sesions 3", "--max-sesions"),
        ("console", "$ pip install 'thetaprime[severs]'", "severs"),
        ("console", "$ make demon", "demon"),
        ("console", "$ python examples/none.py", "none.py"),
        ("console", "$ rm nothing", "rm nothing"),
        ("console", "thetaprime models", "begins with a command"),
        ("toml", "a = ", "Invalid"),
        ("toml", "nothing_reads = true", "name the reader of this file"),
        ("json", "{", "Expecting"),
        ("yaml", "a: [", "expected"),
        ("text", "an unprinted line", "an unprinted line"),
        ("ruby", "puts 1", "ruby"),
        ("", "indented", "without language"),
    ],
)
def test_a_broken_block_is_found(language: str, code: str, problem: str, reader: Callable[[str], Reader]) -> None:
    with pytest.raises((Exception, pytest.fail.Exception), match=re.escape(problem)):
        reader("a page").do(Block("a page", 1, language, code))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("mean -3.1, id 0123456789ab…", "mean 12, id 00ff00ff00ff…"), ("a\n...\nc", "a\nb\nc"), ("", "anything")],
)
def test_output_may_differ_in_numbers(shown: str, printed: str) -> None:
    check_output(shown, printed, "here")
    with pytest.raises(AssertionError, match="here"):
        check_output(f"{shown}\nanother line", printed, "here")


@pytest.mark.parametrize(("shown", "printed"), [("mean 3", "median 3"), ("b\na", "a\nb"), ("a\na", "a")])
def test_output_may_not_differ_otherwise(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError, match="here"):
        check_output(shown, printed, "here")
