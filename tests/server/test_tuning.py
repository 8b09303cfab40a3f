"""Settings of the Python process: frozen startup objects, and the interval of thread switches."""

import gc
import sys

import pytest

from thetaprime.server.runtime.tuning import freeze_startup_objects, tune_process


def test_startup_objects_are_frozen_and_collection_resumes_after_an_error() -> None:
    created: list[object] = []
    with pytest.raises(RuntimeError, match="the server cannot start"), freeze_startup_objects():
        assert not gc.isenabled()
        created.extend([] for _ in range(1000))
        raise RuntimeError("the server cannot start")
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() >= len(created)
        tracked = {id(each) for each in gc.get_objects()}
        assert not tracked & {id(each) for each in created}
    finally:
        gc.unfreeze()


def test_a_tuned_process_switches_threads_after_a_millisecond() -> None:
    before = sys.getswitchinterval()
    try:
        tune_process()
        assert sys.getswitchinterval() == pytest.approx(0.001)
    finally:
        sys.setswitchinterval(before)
