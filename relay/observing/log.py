"""Where lines go: never in the way of a stream.

Lines are collected and written a few milliseconds later in one go. A pipe that nobody reads does
not stop the relay: what it cannot take is kept up to MAX_HELD lines, then dropped and counted.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

DELAY = 0.02  # seconds a line may wait for company
MAX_HELD = 20_000  # lines, about 8 MB
_PIECE = 4096  # bytes; a pipe that polls writable takes PIPE_BUF without blocking, and in one piece


class LineLog:
    """Lines for one descriptor. `write` never blocks and never raises for the reader's sake.

    `schedule(log, due)` is how it asks to be rung: `Alarms.arm` in a worker.
    """

    __slots__ = ("_blocking", "_fd", "_lines", "_now", "_schedule", "dropped", "entry")

    def __init__(
        self,
        fd: int,
        schedule: Callable[[LineLog, float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fd = fd
        self._schedule = schedule
        self._now = now
        self._lines: deque[str] = deque()
        self._blocking = not stat.S_ISREG(os.fstat(fd).st_mode)
        self.dropped = 0
        self.entry: list[Any] | None = None  # see wires.alarms

    def write(self, line: str) -> None:
        """Queue one line, its newline included."""
        if len(self._lines) >= MAX_HELD:
            self.dropped += 1
            return
        self._lines.append(line)
        if len(self._lines) == 1:
            self._schedule(self, self._now() + DELAY)

    def ring(self, now: float) -> float:
        """Write what can be written; when to try again."""
        self.flush()
        return now + DELAY * 2 if self._lines else inf

    def flush(self) -> None:
        """Write all lines the descriptor takes without blocking."""
        data = "".join(self._lines).encode("ascii", "backslashreplace")
        self._lines.clear()
        sent = 0
        try:
            while sent < len(data):
                if self._blocking and not _writable(self._fd):
                    break
                end = _whole_lines(data, sent) if self._blocking else len(data)
                sent += os.write(self._fd, data[sent:end])
        except OSError:
            self.dropped += data[sent:].count(b"\n")
            return
        if sent < len(data):
            self._lines.append(data[sent:].decode("ascii"))

    def move(self, fd: int) -> None:
        """Write there from now on; what the old descriptor did not take goes there too."""
        self.close()
        self._fd = fd
        self._blocking = not stat.S_ISREG(os.fstat(fd).st_mode)

    def close(self) -> None:
        """Flush, and close the descriptor unless it is a standard one. What comes later is lost."""
        self.flush()
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1


def _whole_lines(data: bytes, start: int) -> int:
    """The end of the next piece: behind a line, as workers on one pipe may mix lines, not bytes."""
    end = start + _PIECE
    if end >= len(data):
        return len(data)
    return data.rfind(b"\n", start, end) + 1 or end


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(mask & select.POLLOUT for _, mask in poll.poll(0))
