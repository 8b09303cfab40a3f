"""Logs: every line of a call names its session, on any thread and beside concurrent calls."""

import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from thetaprime import models, wire
from thetaprime.models.verdict import session_step
from thetaprime.server.auth import audit
from thetaprime.server.logging import LineLimit, adopt_library_logs, configure_logging, flush_logs, text_processors
from thetaprime.server.sessions import sessions, uploads
from thetaprime.server.store import SweptSession

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]
SESSIONS = 6
_log = structlog.get_logger()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log of a server, as JSON lines."""
    before = structlog.get_config()
    written = io.StringIO()
    configure_logging()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(written))
    yield written
    structlog.configure(**before)


def test_concurrent_calls_log_under_their_own_session(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch, lines: io.StringIO
) -> None:
    def logging_before(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        together = threading.Barrier(SESSIONS)

        def log_first(*args: Any, **kwargs: Any) -> Any:
            together.wait(60)  # all calls have reached this point
            _log.info(event)
            return function(*args, **kwargs)

        return log_first

    def use(service: "Service") -> str:
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy)).batch
        service.adapt(session_id, 0, batch.sha256)
        return session_id

    with start(adaptation_threads=SESSIONS) as service, ThreadPoolExecutor(SESSIONS) as threads:
        monkeypatch.setattr(session_step, "adapt_step", logging_before("step", models.adapt_step))
        monkeypatch.setattr(uploads, "measure_behavior", logging_before("verification", models.measure_behavior))
        named = list(threads.map(use, [service] * SESSIONS))
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    service_name = "/thetaprime.v1.AdaptationService"
    # The step may be precomputed by the upload.
    for event, methods in (("step", {"Adapt", "UploadTrajectories"}), ("verification", {"UploadTrajectories"})):
        found = [entry for entry in entries if entry["event"] == event]
        assert sorted(entry["session_id"] for entry in found) == sorted(named)
        assert {entry["method"] for entry in found} <= {f"{service_name}/{method}" for method in methods}
    ended = [entry for entry in entries if entry["event"] == "call"]
    for method in ("CreateSession", "UploadTrajectories", "Adapt"):
        found = [entry for entry in ended if entry["method"] == f"{service_name}/{method}"]
        assert sorted(entry["session_id"] for entry in found) == sorted(named)
        assert all(entry["code"] == "OK" and entry["seconds"] > 0 for entry in found)


def test_a_call_without_a_session_names_none(start: "Start", lines: io.StringIO) -> None:
    with start() as service:
        session_id = service.create().session.session_id
        service.get(session_id)
        with service.refuses():
            service.create(request_id="")
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    calls = [entry for entry in entries if entry["event"] == "call"]
    assert [entry.get("session_id") for entry in calls] == [session_id, session_id, None]
    assert calls[-1]["code"] == "INVALID_ARGUMENT"


def test_an_internal_error_is_logged_under_its_session(
    start: "Start", monkeypatch: pytest.MonkeyPatch, lines: io.StringIO
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("at fault")

    with start() as service:
        session_id = service.create().session.session_id
        monkeypatch.setattr(sessions, "get_session", fail)
        with service.refuses() as refusal:
            service.get(session_id)
    (entry,) = [each for each in map(json.loads, lines.getvalue().splitlines()) if each["event"] == "internal error"]
    assert entry["session_id"] == session_id
    assert entry["error_id"] in refusal.message
    assert "at fault" in entry["exception"]


def test_the_logs_of_libraries_are_json_lines(capsys: pytest.CaptureFixture[str], lines: io.StringIO) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        root.handlers.clear()
        configure_logging()
        adopt_library_logs()
        logging.getLogger("a.package").warning("%d spans were lost", 3)
        logging.getLogger("a.package").info("chatter")
        try:
            raise OSError("at fault")
        except OSError:
            logging.getLogger("a.package").exception("it failed")
    finally:
        root.handlers[:], root.level = before
    flush_logs()
    warned, failed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (warned["event"], warned["level"]) == ("3 spans were lost", "warning")
    assert (failed["event"], failed["level"]) == ("it failed", "error")
    assert "OSError: at fault" in failed["exception"]
    assert warned["timestamp"]


@pytest.mark.parametrize(("level", "kept"), [("info", "iwe"), ("warning", "we"), ("error", "e")])
def test_lines_below_the_level_are_dropped_except_audits(
    level: str, kept: str, capsys: pytest.CaptureFixture[str], lines: io.StringIO
) -> None:
    configure_logging(level, audited=True)
    log = structlog.get_logger()
    log.info("i")
    log.warning("w")
    log.error("e")
    audit.record_end(SweptSession("expired", "t", "s", 0, "p"))
    flush_logs()
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == [*kept, "audit"]


def test_text_for_a_terminal_escapes_control_characters() -> None:
    try:
        raise ValueError("\x1b]0;owned\x07")
    except ValueError as error:
        line: Any = {"event": "call", "session_id": "a\x1b[2J\nb\x9bc\x7f", "list": ["\x1b"], "exc_info": error}
    for processor in text_processors():
        line = processor(None, "error", line)
    # What remains is the color of the renderer and the ends of the traceback's lines.
    plain = re.sub(r"\x1b\[\d*m", "", line)
    assert plain.replace("\n", "").isprintable()
    assert r"a\x1b[2J\nb\x9bc\x7f" in plain.replace("\\\\", "\\")
    assert r"ValueError: \x1b]0;owned\x07" in plain


def test_refused_calls_have_a_few_lines_a_second_and_a_count(
    start: "Start", write_tokens: "WriteTokens", tmp_path: Path, lines: io.StringIO
) -> None:
    calls = 100
    with start(tokens=write_tokens(tmp_path / "tokens.toml", {"a": "b"})) as service:
        for _ in range(calls):
            with service.refuses():
                service.get("s")
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    for event, plain, counted in (
        ("call", lambda each: each["event"] == "call", lambda each: each["event"] == "calls refused"),
        ("audit", lambda each: each.get("method"), lambda each: each.get("count")),
    ):
        own = [each for each in entries if each["event"].startswith(event)]
        written = sum(bool(plain(each)) for each in own)
        assert 5 <= written < calls
        assert written + sum(each["count"] for each in own if counted(each)) == calls


def test_a_kind_of_line_with_many_lines_hides_no_other_kind() -> None:
    now = 0.0
    limit = LineLimit(clock=lambda: now)
    assert [limit.admits("A") for _ in range(7)] == [True] * 5 + [False] * 2
    assert limit.admits("B")
    now = 1.0
    assert limit.admits("A")
    assert limit.take_omitted() == {"A": 2}
    assert limit.take_omitted() == {}
