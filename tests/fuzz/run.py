"""Searches for bytes that make a parser raise an undeclared error; coverage guides the search.

    RUNS=1000000 make fuzz

The search begins with the corpus, and keeps its inputs in build/fuzz. A finding ends the run and is written to
build/fuzz/crash-*: add it to the corpus, which the tests replay.
"""

import logging
import os
import sys
from pathlib import Path

import atheris

_PACKAGE = "thetaprime.server"
# What builds queries is left out: atheris keeps the result of each comparison that it watches, and there they are
# pieces of SQL.
_QUERYING = ("adaptation", "sessions", "auth.quotas")
with atheris.instrument_imports(include=["thetaprime"], exclude=[f"{_PACKAGE}.{name}" for name in _QUERYING]):
    from tests.fuzz.parsers import parse, service
    from tests.fuzz.seeds import whole_upload
    from thetaprime.server.logging import configure_logging
    from thetaprime.server.sessions import sessions

atheris.instrument_func(sessions.read_token)
atheris.instrument_func(sessions.CreateArguments.check)

CORPUS = Path(__file__).with_name("corpus")
_MEMORY_MIB = 1024


def main() -> None:
    """Runs the fuzzer, which ends the process."""
    runs = int(os.environ.get("RUNS", "1000000"))
    found = Path("build/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    # The service logs a warning for each refused call.
    configure_logging(logging.ERROR)
    (found / "seed-upload").write_bytes(whole_upload(service()))
    options = [f"-runs={runs}", f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={found}/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS)], parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
