"""`import thetaprime.client` against the import of what it stands on."""

import subprocess
import sys

from benchmarks.measure import Row, compare

# Of the declared dependencies those that the client cannot do without; click and rich are the command's.
_DEPENDENCIES = (
    "import numpy, onnxruntime, grpc, google.protobuf.message, grpc_status.rpc_status, google.rpc.error_details_pb2"
)


def rows() -> list[Row]:
    """Each in a fresh interpreter, whose own start counts for both."""
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
