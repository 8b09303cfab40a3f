"""Searches for bytes that a parser answers with anything but a declared refusal, guided by coverage.

    RUNS=1000000 make fuzz

Begins with the corpus beside it, and keeps what it finds on the way in build/fuzz. A finding ends the run, and its
bytes are in build/fuzz/crash-*: put them into the corpus, where the tests replay them.
"""

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["thetaprime.wire", "thetaprime.server.reassembly", "thetaprime.server.sessions"]
):
    from tests.fuzz.parsers import parse

CORPUS = Path(__file__).with_name("corpus")
_MEMORY_MIB = 1024


def main() -> None:
    """Runs the fuzzer; it ends the process."""
    runs = int(os.environ.get("RUNS", "1000000"))
    found = Path("build/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={runs}", f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={found}/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS)], parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
