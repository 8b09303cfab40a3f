"""Structured logs on stderr."""

import logging
import sys

import structlog


def configure_logging(level: int = logging.INFO) -> None:
    """Sets up the process's logs: for people on a terminal, one JSON object a line elsewhere. For entry points."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    tracebacks = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def adopt_library_logs() -> None:
    """Has what libraries log in Python's own way, warnings and worse, written as our own lines. For entry points."""
    handler = logging.StreamHandler(sys.stderr)
    # After `configure_logging`, whose processors end with what makes a line of an event.
    *processors, renderer = structlog.get_config()["processors"]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(renderer, foreign_pre_chain=processors))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
