"""Structured logs on standard error. A log line never blocks the code that logs it."""

import collections
import logging
import sys
from collections.abc import Mapping
from typing import Final, TextIO, cast

import structlog

from thetaprime.server.log_writer import LogWriter

_FLUSH_SECONDS: Final = 0.25
# Of one reason, in one second.
_REFUSAL_LINES: Final = 5

_writer: LogWriter | None = None


def configure_logging(level: int = logging.INFO, **every_line: object) -> None:
    """Configures the process's logs: text on a terminal, one JSON object per line elsewhere. For entry points.

    Args:
        level: the lowest level that is logged.
        every_line: fields to add to every line.
    """
    global _writer
    if _writer is not None:
        _writer.stop(_FLUSH_SECONDS)
    _writer = LogWriter(sys.stderr, _report_dropped)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([_AddFields(every_line)] if every_line else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(text_processors() if terminal else json_processors()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
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


class RefusalLimit:
    """Limits the log lines of refused calls: of each reason, five in a second are admitted and the others counted."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def admits(self, reason: str) -> bool:
        """Returns whether to log a refusal; counts it otherwise."""
        self._counts[reason] += 1
        return self._counts[reason] <= _REFUSAL_LINES

    def start_second(self) -> dict[str, int]:
        """Starts the next second; returns the number of refusals without a line in the last one, by reason."""
        counts, self._counts = self._counts, collections.Counter()
        return {reason: count - _REFUSAL_LINES for reason, count in counts.items() if count > _REFUSAL_LINES}


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


def adopt_library_logs() -> None:
    """Formats the warnings and errors that libraries log with `logging` as this server's lines. For entry points."""
    assert _writer is not None, "configure_logging comes first"  # noqa: S101
    handler = logging.StreamHandler(cast("TextIO", _writer))
    # The last processor of `configure_logging` renders the line.
    *processors, renderer = structlog.get_config()["processors"]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(renderer, foreign_pre_chain=processors))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
