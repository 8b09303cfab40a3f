"""The parts of a round by the clock."""

import importlib
import time
from typing import Any

import pytest

from benchmarks.round_parts import CLIENT, SERVER, Note, noted_calls, parts_of, round_parts


def test_every_timed_function_exists_and_is_left_as_it_was() -> None:
    precompute: Any = importlib.import_module("thetaprime.server.adaptation.precompute")
    before, notes = precompute.compute_step, list[Note]()
    with noted_calls({**SERVER, **CLIENT}, notes):
        start = time.perf_counter()
        with pytest.raises(AttributeError):
            precompute.compute_step(None, None, None)
    assert precompute.compute_step is before
    (note,) = notes
    assert note.name == "step"
    assert start <= note.start <= note.end <= time.perf_counter()


def test_the_parts_add_up_to_the_round() -> None:
    notes = [
        Note("prepare", 0.5, 1.0),
        Note("accept", 3.0, 12.0),
        Note("verify", 4.0, 7.0),
        # The step runs beside the rest of the upload.
        Note("step", 8.0, 20.0),
        Note("next_step", 8.5, 18.0),
        Note("inputs", 9.0, 10.0),
        Note("advantages", 10.0, 11.0),
        Note("gradient", 11.0, 14.0),
        Note("summary", 16.0, 17.0),
        Note("take", 21.0, 22.0),
        Note("load", 23.0, 25.0),
    ]
    parts = parts_of(0.0, 26.0, notes)
    assert sum(parts.values()) == pytest.approx(26.0)
    assert parts["step: verdict"] == pytest.approx(9.5 - 2.0 - 3.0 - 1.0)
    assert parts["step: report, ONNX file"] == pytest.approx(12.0 - 9.5 + 1.0)
    later = [Note(name, start + 100.0, end + 100.0) for name, start, end in notes]
    assert round_parts([(0.0, 26.0), (100.0, 126.0)], [*later, *notes]) == pytest.approx(
        {name: 1e3 * value for name, value in parts.items()}
    )
