"""The descriptor that lines go to, and the file behind it, which may be moved away (logrotate).

Rules
  * Once a second, before lines are written, the path is looked at. If it no longer leads to the open file, or that was asked
    for, it is opened anew: the lines before are in the old file, those behind in the new one, none is lost or written twice.
  * What cannot be opened is told once, and the old file takes the lines.
  * All but `reopen` is for the thread that writes.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable

LOOK_AFTER = 1.0  # seconds between two looks at whether the path still leads to the file
_BATCH = 64 * 1024  # bytes written to a file at once
_STANDARD = 2  # the last of the standard descriptors, which stay open


class LogFile:
    """A descriptor, -1 once it is closed or where there is none.

    Attributes:
        piece: bytes written at once: to a pipe no more than the kernel keeps together (pipe(7)).
        reopens: it is to be opened anew.
    """

    __slots__ = ("_looked", "_path", "_why", "fd", "piece", "reopens")

    def __init__(self, fd: int | None, path: str | None) -> None:
        self.fd = -1 if fd is None else fd
        self.piece = _piece(fd)
        self.reopens = False
        self._path = path if fd is not None else None
        self._looked = time.monotonic()
        self._why = ""  # why it could not be opened anew, as it was told

    def reopen(self) -> bool:
        """Have it opened anew. False: it is no file."""
        self.reopens = self._path is not None
        return self.reopens

    def look(self, tell: Callable[[str], None]) -> None:
        """Open it anew where that is due. `tell` says why that failed."""
        now = time.monotonic()
        if self._path is None or (not self.reopens and now - self._looked < LOOK_AFTER):
            return
        self._looked = now
        asked, self.reopens = self.reopens, False
        try:
            if not asked and _leads_to(self._path, self.fd):
                return
            fd = open_path(self._path)
        except OSError as error:
            why = error.strerror or str(error)
            if why != self._why:
                self._why = why
                tell(why)
            return
        self._why = ""
        self.close()
        self.fd, self.piece = fd, _piece(fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd > _STANDARD:
            os.close(fd)


def open_path(path: str) -> int:
    """A descriptor of a file or FIFO that lines are appended to. Never waits for a reader. Raises: OSError.

    It is opened non-blocking: only then can a FIFO be opened that nobody reads, and its writer
    leave it when it is stuck. Where nobody reads a FIFO yet it is opened for reading too (fifo(7)):
    the first lines wait in the kernel for whoever comes.
    """
    flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_WRONLY, 0o640)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.open(path, flags | os.O_RDWR, 0o640)


def _leads_to(path: str, fd: int) -> bool:
    """Whether a path is that of an open file. Raises: OSError."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _piece(fd: int | None) -> int:
    regular = fd is None or stat.S_ISREG(os.fstat(fd).st_mode)
    return _BATCH if regular else select.PIPE_BUF


def end_of_piece(data: bytes, start: int, piece: int) -> int:
    """Behind a line, at most `piece` bytes on; behind one line where it alone is longer."""
    end = start + piece
    if end >= len(data):
        return len(data)
    return data.rfind(b"\n", start, end) + 1 or data.find(b"\n", end) + 1 or len(data)
