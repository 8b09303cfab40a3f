"""Settings of the Python process: frozen startup objects, and the interval of thread switches, freed memory."""

import gc
import platform
import subprocess
import sys
from typing import Final

import pytest

from thetaprime.server.runtime.tuning import freeze_startup_objects, tune_process

# Allocates and frees four arrays of 8 MiB, 20 times, and prints the page faults.
_ALLOCATIONS: Final = """
import resource, sys
from thetaprime.server.runtime.tuning import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    arrays = [bytearray(8 << 20) for _ in range(4)]
    for array in arrays:
        array[::4096] = bytes(len(array) // 4096)
    del arrays, array
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_arrays_are_kept_for_the_next_ones() -> None:
    def page_faults(setting: str) -> int:
        command = [sys.executable, "-c", _ALLOCATIONS, setting]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert page_faults("keep") < page_faults("default") / 4
