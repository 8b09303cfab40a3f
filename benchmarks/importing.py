"""Compares `import thetaprime.client` with the import of its dependencies."""

import subprocess
import sys

from benchmarks.measure import Row, compare

# The client's declared dependencies; click and rich are the command's.
_DEPENDENCIES = (
    "import numpy, onnxruntime, grpc, google.protobuf.message, grpc_status.rpc_status, google.rpc.error_details_pb2"
)


def rows() -> list[Row]:
    """Measures both in fresh interpreters; the interpreter's start counts for both."""
    return [
        compare(
            "import thetaprime.client / import of its dependencies",
            lambda: _run("import thetaprime.client"),
            lambda: _run(_DEPENDENCIES),
            budget=1.5,
            rounds=15,
        )
    ]


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
