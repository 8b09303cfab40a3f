"""Structured logs on standard error."""

import contextlib
import io
import logging
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import structlog


def configure_logging(level: int = logging.INFO, **every_line: object) -> None:
    """Configures the process's logs: text on a terminal, one JSON object per line elsewhere. For entry points.

    Args:
        level: the lowest level that is logged.
        every_line: fields to add to every line.
    """
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    tracebacks = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([_AddFields(every_line)] if every_line else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Writes a line and its end at once: several processes may share the stream.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _LossyStream(sys.stderr))),
    )


class _AddFields:
    """A processor that adds the same fields to every line."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __call__(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, **self._fields}


class _LossyStream(io.TextIOBase):
    """Drops lines that cannot be written: a full disk under the log must not fail the logged calls."""

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
    """Formats the warnings and errors that libraries log with `logging` as this server's lines. For entry points."""
    handler = logging.StreamHandler(cast("TextIO", _LossyStream(sys.stderr)))
    # The last processor of `configure_logging` renders the line.
    *processors, renderer = structlog.get_config()["processors"]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(renderer, foreign_pre_chain=processors))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
