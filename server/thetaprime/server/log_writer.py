"""Writes log lines on a thread, so that a stalled reader of the log stalls nothing else."""

import atexit
import collections
import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

# About 4,000 lines.
_QUEUED_CHARACTERS: Final = 1 << 20
_EXIT_SECONDS: Final = 0.25
_GATHER_SECONDS: Final = 0.005
_PIECE_CHARACTERS: Final = 4096


class LogWriter(io.TextIOBase):
    """A stream that queues lines for a thread, and drops them while the queue is full. Thread-safe.

    A line that cannot be written, as on a full disk, is dropped too: it must not fail the logged call.

    Args:
        stream: where the thread writes.
        on_dropped: called on the thread with the number of lines that a full queue dropped, once lines flow again.

    Attributes:
        dropped: number of lines that a full queue has dropped.
    """

    def __init__(self, stream: TextIO, on_dropped: Callable[[int], object]) -> None:
        self.dropped = 0
        self._stream = stream
        self._on_dropped = on_dropped
        self._lines: collections.deque[str] = collections.deque()
        self._characters = 0
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: it may wait for the stream forever.
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.wait_until_written, _EXIT_SECONDS)

    def write(self, text: str) -> int:
        """Queues text, or drops it if the queue is full."""
        with self._changed:
            if self._characters + len(text) > _QUEUED_CHARACTERS:
                self.dropped += 1
            else:
                self._lines.append(text)
                self._characters += len(text)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing: `wait_until_written` waits."""

    def wait_until_written(self, seconds: float) -> bool:
        """Waits until the queue is written, for at most so many seconds; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._characters, seconds)

    def stop(self, seconds: float) -> None:
        """Ends the thread once the queue is written; waits for at most so many seconds."""
        self.wait_until_written(seconds)
        atexit.unregister(self.wait_until_written)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        reported = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
            # The lines of other calls arrive meanwhile: each wakeup of this thread interrupts the threads that serve.
            time.sleep(_GATHER_SECONDS)
            for text in self._take():
                self._write(text)
                with self._changed:
                    # Counted until it is written: `wait_until_written` waits for this text too.
                    self._characters -= len(text)
                    self._changed.notify_all()
            if self.dropped > reported and not self._lines:
                dropped = self.dropped
                self._on_dropped(dropped - reported)
                reported = dropped

    def _take(self) -> Iterator[str]:
        """Takes the queued lines, several at once."""
        with self._changed:
            lines, self._lines = self._lines, collections.deque()
        while lines:
            text = lines.popleft()
            # A pipe takes this much in one piece: the lines of several processes never mix.
            while lines and len(text) + len(lines[0]) <= _PIECE_CHARACTERS:
                text += lines.popleft()
            yield text

    def _write(self, line: str) -> None:
        # ValueError: the stream is closed.
        with contextlib.suppress(OSError, ValueError):
            try:
                descriptor = self._stream.fileno()
            except io.UnsupportedOperation:
                self._stream.write(line)
                self._stream.flush()
                return
            # Past the stream: a thread that waits in it would hold its lock, and with the lock the interpreter's exit.
            data = line.encode(errors="backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]
