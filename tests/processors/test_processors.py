"""Every processor computes the committed bytes. Separate processes emulate the kernels of other processors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.examples.vectors import VECTORS
from tests.processors.promised import PROMISED, promised
from thetaprime import wire

ROOT: Final = Path(__file__).resolve().parents[2]
# Read at import by torch's own kernels, oneDNN, MKL, numpy, and numpy's OpenBLAS.
PROCESSORS: Final = {
    "x86-64": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}


def check(found: dict[str, Any]) -> None:
    committed = json.loads(PROMISED.read_text())
    assert found["digests"] == committed["digests"]
    assert found["test_vectors"] == wire.sha256_hex(VECTORS.read_bytes())
    # The tolerance that ARCHITECTURE.md states for θ′.
    largest = max(np.abs(values).max() for values in committed["step"].values())
    assert found["step"].keys() == committed["step"].keys()
    for name, values in committed["step"].items():
        np.testing.assert_allclose(found["step"][name], values, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_this_processor_computes_the_committed_bytes() -> None:
    check(promised())


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_an_emulated_processor_computes_the_committed_bytes(processor: str) -> None:
    environment = {**os.environ, **PROCESSORS[processor]}
    command = [sys.executable, "-m", "tests.processors.promised"]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    check(json.loads(finished.stdout))
