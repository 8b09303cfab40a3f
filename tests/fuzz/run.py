"""Searches for bytes that a parser answers with anything but a declared refusal, guided by coverage.

    RUNS=1000000 make fuzz

Begins with the corpus beside it, and keeps what it finds on the way in build/fuzz. A finding ends the run, and its
bytes are in build/fuzz/crash-*: put them into the corpus, where the tests replay them.
"""

import logging
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "thetaprime.wire",
        "thetaprime.server.adaptation",
        "thetaprime.server.calls",
        "thetaprime.server.convert",
        "thetaprime.server.decoding",
        "thetaprime.server.errors",
        "thetaprime.server.policies",
        "thetaprime.server.reassembly",
        "thetaprime.server.records",
        "thetaprime.server.servicers",
        "thetaprime.server.sessions",
        "thetaprime.server.telemetry.tracing",
        "thetaprime.server.trust",
        "thetaprime.server.uploads",
    ]
):
    from tests.fuzz.parsers import parse, service
    from tests.fuzz.seeds import upload_that_counts
    from thetaprime.server.log import configure_logging

CORPUS = Path(__file__).with_name("corpus")
_MEMORY_MIB = 1024


def main() -> None:
    """Runs the fuzzer; it ends the process."""
    runs = int(os.environ.get("RUNS", "1000000"))
    found = Path("build/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    # What is refused at the gate is a warning, and no news here.
    configure_logging(logging.ERROR)
    (found / "seed-upload").write_bytes(upload_that_counts(service()))
    options = [f"-runs={runs}", f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={found}/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS)], parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
