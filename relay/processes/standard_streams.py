"""stdout and stderr of a process that serves: what is printed never waits for its reader.

    print, logging, traceback, warnings ─► sys.stdout, sys.stderr ─► a LineLog each ─► 1, 2

Rules
  * From `take` on nothing in this process writes to a standard descriptor but the thread of a
    LineLog: relay's messages and tracebacks, Python's own, and what the user's functions print.
  * Lines are written whole. A line that is never finished is cut at _LONGEST.
  * The descriptors 0 to 2 are open: what is opened later cannot be taken for one of them.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from relay.observing.log import LAST, LineLog

_LONGEST = 64 * 1024  # characters of a line; an arbitrary bound, far above any message


class _Lines(io.TextIOBase):
    """A text stream into a LineLog."""

    encoding = "utf-8"

    def __init__(self, fd: int, log: LineLog) -> None:
        super().__init__()
        self._fd = fd
        self._log = log
        self._unfinished = ""
        self._lock = threading.RLock()  # a signal handler may print while its thread does

    def write(self, text: str) -> int:
        with self._lock:
            whole, newline, unfinished = (self._unfinished + text).rpartition("\n")
            if len(unfinished) > _LONGEST:
                whole, newline, unfinished = whole + newline + unfinished, "\n", ""
            self._unfinished = unfinished
            if newline:
                self._log.write(whole + newline)
        return len(text)

    @property
    def buffer(self) -> _Bytes:
        """For who prints bytes."""
        return _Bytes(self)

    def finish(self) -> None:
        """End the line that is unfinished."""
        if self._unfinished:
            self.write("\n")

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True


class _Bytes(io.RawIOBase):
    """The same text stream, for bytes."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data)
        self._lines.write(text.decode("utf-8", "backslashreplace"))
        return len(text)


class StandardStreams:
    """The two streams of this process. `give_back` ends them."""

    __slots__ = ("_before", "err", "out")

    def __init__(self, prefix: str) -> None:
        """Take sys.stdout and sys.stderr; what is logged begins with `prefix`."""
        for fd in range(3):
            with suppress(OSError):
                os.fstat(fd)
                continue
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        self._before = sys.stdout, sys.stderr
        self._take(prefix)

    def _take(self, prefix: str) -> None:
        self.out = LineLog(1, "stdout")
        self.err = LineLog(2, "stderr")
        sys.stdout = _Lines(1, self.out)
        sys.stderr = _Lines(2, self.err)
        form = f"{prefix}: %(levelname)s: %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form, force=True)

    def renew(self, prefix: str) -> None:
        """In a child process, first of all: the threads of the parent's streams are not here."""
        self.out.forget()
        self.err.forget()
        self._take(prefix)

    def close(self, within: float = LAST) -> None:
        """Wait for what was printed to be written, for so many seconds. What comes is dropped."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Lines):
                stream.finish()
        self.out.close(within)
        self.err.close(within)

    def give_back(self) -> None:
        """`close`, and leave sys.stdout and sys.stderr as they were."""
        self.close()
        sys.stdout, sys.stderr = self._before
