"""The corpus, and mutations of it, through every parser of a client's bytes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .parsers import PARSERS, parse, service
from .seeds import upload_that_counts

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_the_corpus_is_taken_or_refused_as_its_name_says(file: Path) -> None:
    assert parse(file.read_bytes()) is file.name.startswith("taken-")


def test_the_corpus_reaches_every_parser() -> None:
    first = {file.read_bytes()[0] % len(PARSERS) for file in CORPUS}
    assert first == set(range(len(PARSERS)))


def test_an_upload_that_counts_is_taken_each_time() -> None:
    data = upload_that_counts(service())
    assert parse(data)
    assert parse(data)


@settings(max_examples=400)
@given(st.sampled_from(CORPUS), st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=4)), max_size=4))
def test_whatever_is_done_to_it_it_is_taken_or_refused(file: Path, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(file.read_bytes())
    for position, put in edits:
        at = 1 + position % len(data)
        data[at : at + len(put)] = put
    assert parse(bytes(data)) in {True, False}
