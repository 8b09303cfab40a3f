"""Structured logs on stderr."""

import contextlib
import io
import logging
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import structlog


def configure_logging(level: int = logging.INFO, **every_line: object) -> None:
    """Sets up the process's logs: for people on a terminal, one JSON object a line elsewhere. For entry points.

    Args:
        level: what is worth a line.
        every_line: what each line says beside its own.
    """
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    tracebacks = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([_Added(every_line)] if every_line else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Line and end in one write: several processes may share the stream.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lossy(sys.stderr))),
    )


class _Added:
    """A processor that puts the same on every line."""

    def __init__(self, added: Mapping[str, object]) -> None:
        self._added = added

    def __call__(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, **self._added}


class _Lossy(io.TextIOBase):
    """Drops what the stream does not take: a full disk under the log must not fail the calls that it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def adopt_library_logs() -> None:
    """Has what libraries log in Python's own way, warnings and worse, written as our own lines. For entry points."""
    handler = logging.StreamHandler(cast("TextIO", _Lossy(sys.stderr)))
    # After `configure_logging`, whose processors end with what makes a line of an event.
    *processors, renderer = structlog.get_config()["processors"]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(renderer, foreign_pre_chain=processors))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
