"""Every parser of a client's bytes reads the corpus, and mutations of the corpus."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .parsers import PARSERS, parse, service
from .seeds import whole_upload

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_each_file_of_the_corpus_is_accepted_or_refused_as_named(file: Path) -> None:
    assert parse(file.read_bytes()) is file.name.startswith("taken-")


def test_the_corpus_reaches_every_parser() -> None:
    first = {file.read_bytes()[0] % len(PARSERS) for file in CORPUS}
    assert first == set(range(len(PARSERS)))


def test_a_whole_upload_is_accepted_each_time() -> None:
    data = whole_upload(service())
    assert parse(data)
    assert parse(data)


@settings(max_examples=400)
@given(st.sampled_from(CORPUS), st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=4)), max_size=4))
def test_a_mutation_of_the_corpus_is_accepted_or_refused(file: Path, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(file.read_bytes())
    for position, put in edits:
        at = 1 + position % len(data)
        data[at : at + len(put)] = put
    assert parse(bytes(data)) in {True, False}
