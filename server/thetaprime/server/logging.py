"""Structured logs on standard error. A log line never blocks the code that logs it."""

import collections
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final, TextIO, cast

import structlog

from thetaprime.server.log_writer import LogWriter

_FLUSH_SECONDS: Final = 0.25
_LINES_PER_SECOND: Final = 5

_writer: LogWriter | None = None


def configure_logging(level: int | str = logging.INFO, *, audited: bool = False, **every_line: object) -> None:
    """Configures the process's logs: text on a terminal, one JSON object per line elsewhere. For entry points.

    Args:
        level: the lowest level that is logged, as a number or by its name.
        audited: whether lines of the audit log are logged at any level.
        every_line: fields to add to every line.
    """
    level = logging.getLevelNamesMapping()[level.upper()] if isinstance(level, str) else level
    global _writer
    if _writer is not None:
        _writer.stop(_FLUSH_SECONDS)
    _writer = LogWriter(sys.stderr, _report_dropped)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            *([_DropBelow(level)] if audited else []),
            structlog.contextvars.merge_contextvars,
            *([_AddFields(every_line)] if every_line else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(text_processors() if terminal else json_processors()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(level, logging.INFO) if audited else level),
        # Writes a line and its end at once: several processes may share the stream.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _writer)),
    )


def json_processors() -> list[structlog.typing.Processor]:
    """Returns the processors that render a line as a JSON object, which escapes control characters."""
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def text_processors() -> list[structlog.typing.Processor]:
    """Returns the processors that render a line as text for a terminal.

    They escape control characters, which a terminal would interpret: clients choose session ids and other fields.
    """
    return [
        structlog.processors.format_exc_info,
        _escape_values,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]


def flush_logs() -> None:
    """Waits until the lines that are logged by now are written, for at most a quarter of a second."""
    if _writer is not None:
        _writer.wait_until_written(_FLUSH_SECONDS)


def dropped_lines() -> int:
    """Returns the number of lines that this process has dropped because standard error stalled."""
    return 0 if _writer is None else _writer.dropped


class LineLimit:
    """Limits log lines that a stranger can cause: of each kind, five in a second are admitted and the others counted.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._admitted: collections.Counter[str] = collections.Counter()
        self._omitted: collections.Counter[str] = collections.Counter()

    def admits(self, kind: str) -> bool:
        """Returns whether to log a line; counts it otherwise."""
        if (second := int(self._clock())) != self._second:
            self._second = second
            self._admitted.clear()
        admitted = self._admitted[kind] < _LINES_PER_SECOND
        (self._admitted if admitted else self._omitted)[kind] += 1
        return admitted

    def take_omitted(self) -> dict[str, int]:
        """Returns the number of lines that were not admitted since the last call, by kind."""
        omitted, self._omitted = self._omitted, collections.Counter()
        return omitted


_library_lines = LineLimit()


def report_omitted_library_lines() -> None:
    """Logs the number of lines of libraries that were not logged since the last call. For a periodic task."""
    for name, count in _library_lines.take_omitted().items():
        structlog.get_logger().warning("library lines omitted", logger=name, count=count)


class _DropBelow:
    """A processor that drops the lines below a level, except those of the audit log."""

    def __init__(self, level: int) -> None:
        self._level = level

    def __call__(self, _logger: object, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if logging.getLevelNamesMapping()[method.upper()] < self._level and not line.get("audit"):
            raise structlog.DropEvent
        return line


class _AddFields:
    """A processor that adds the same fields to every line."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __call__(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, **self._fields}


def _escape_values(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    escaped = {key: _escape(value) if isinstance(value, str) else value for key, value in line.items()}
    if isinstance(traceback := line.get("exception"), str):
        escaped["exception"] = "\n".join(map(_escape, traceback.split("\n")))
    return escaped


def _escape(text: str) -> str:
    """Escapes every character that is not printable, as `repr` does."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _report_dropped(count: int) -> None:
    structlog.get_logger().warning("log lines dropped", count=count)


def adopt_library_logs(level: str = "warning") -> None:
    """Formats the warnings and errors that libraries log with `logging` as this server's lines. For entry points.

    Of each library, five lines in a second are logged: a peer that sends invalid messages makes gRPC log a traceback.

    Args:
        level: name of the lowest level that is logged; below ``warning``, warnings are.
    """
    # gRPC's core writes a line of text for each failed TLS handshake, from the threads that serve calls: a stalled
    # reader would stop them. An operator may set the variable.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    assert _writer is not None, "configure_logging comes first"  # noqa: S101
    handler = logging.StreamHandler(cast("TextIO", _writer))
    # The last processor of `configure_logging` renders the line.
    *processors, renderer = structlog.get_config()["processors"]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(renderer, foreign_pre_chain=processors))
    handler.addFilter(lambda record: _library_lines.admits(record.name))
    lowest = max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])
    logging.basicConfig(handlers=[handler], level=lowest, force=True)
