"""The events of a run in a directory: one writer, and any number of readers who follow it.

    append ─► s-1 ── full ─► s-1 ends with `0`, s-4711 begins, and what was before s-1 goes

Rules
  * A segment is what HTTP/1.1 readers get, chunk after chunk; the number of an event is its place. One write per step.
  * A reader takes whole chunks. What a write has put down in part, or left torn, is no event: it is not counted, and the
    writer cuts it off in the same step.
  * A segment holds the kept size of the run (`card.limit`), and two are kept, so that much is there at least.
  * What no write of ours has put there (another spelling of a size, an event without bound) is read no further:
    it would go out to readers as it stands.
  * A reader that finds its next segment gone goes on with the oldest: its mirror sees a greater number, which is a hole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from relay.stores.dir_files import Files, open_file
from relay.stores.written import NotOurs, chunks

_ROLLED: Final = b"0\r\n"  # no event is empty
READ: Final = 256 * 1024  # bytes at a time: some thousand events, a few milliseconds


class SegmentWriter:
    """The owner's end."""

    __slots__ = ("_fd", "_files", "_first", "_identity", "_limit", "_size", "last")

    def __init__(self, files: Files, identity: bytes, limit: int) -> None:
        self.last = 0  # the number of the last event that is there, whole
        self._files = files
        self._identity = identity
        self._limit = limit
        self._fd = -1
        self._first = 0  # of the segment that is open
        self._size = 0

    def append(self, first: int, events: Sequence[bytes]) -> None:
        """Events from the number `first` on. Raises: OSError; then none of them is there."""
        if self._fd >= 0 and (first != self.last + 1 or self._size >= self._limit):
            self._roll()
        if self._fd < 0:
            self._open(first)
        data = events[0] if len(events) == 1 else b"".join(events)
        self._write(data)
        self._size += len(data)
        self.last = first + len(events) - 1

    def _write(self, data: bytes) -> None:
        """All of it, or nothing."""
        if os.write(self._fd, data) != len(data):
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a short write means

    def _open(self, first: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_TRUNC
        self._fd = os.open(self._path(first), flags, 0o600)
        self._first, self._size = first, 0

    def _roll(self) -> None:
        self._write(_ROLLED)
        before = [each for each in self._files.segments(self._identity) if each < self._first]
        for each in before:
            with suppress(FileNotFoundError):
                os.unlink(self._path(each))
        self.close()

    def _path(self, first: int) -> str:
        return f"{self._files.run(self._identity)}/s-{first}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SegmentReader:
    """One who follows. `read` gives what is there, and nothing when there is nothing more just now."""

    __slots__ = ("_fd", "_files", "_first", "_identity", "_offset", "_past", "_rolled", "next")

    def __init__(self, files: Files, identity: bytes) -> None:
        self.next = 1  # the number of the event that comes next
        self._files = files
        self._identity = identity
        self._fd = -1
        self._first = 0  # of the segment that is open
        self._past = 0  # of the last one that was read to its end: a disk that was full may have left it empty
        self._offset = 0
        self._rolled = False

    def read(self, most: int = READ) -> tuple[int, list[bytes]]:
        """Events, and the number of the first of them. An event of any size comes whole. Raises: OSError."""
        while True:
            if self._fd < 0 and not self._open():
                return self.next, []
            events = self._some(most)
            if events:
                first = self.next
                self.next += len(events)
                return first, events
            if not self._rolled:
                return self.next, []
            self.close()
            self._past = self._first
            self._rolled = False

    def _some(self, most: int) -> list[bytes]:
        data = os.pread(self._fd, most, self._offset)
        events, used, wanted, self._rolled = split(data)
        while not events and wanted > len(data) and len(data) == most:
            most = wanted  # one event that is larger than what is read at once
            data = os.pread(self._fd, most, self._offset)
            events, used, wanted, self._rolled = split(data)
        self._offset += used
        return events

    def _open(self) -> bool:
        """The segment of the next event, or the oldest that is behind it."""
        segments = self._files.segments(self._identity)
        there = [each for each in segments if each >= self.next and each > self._past]
        if not there:
            return False
        first = there[0]
        try:
            path = f"{self._files.run(self._identity)}/s-{first}"
            self._fd = open_file(path)
        except FileNotFoundError:
            return self._open()  # gone in this moment: there is a younger one
        self.next = self._first = first
        self._offset = 0
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def split(data: bytes) -> tuple[list[bytes], int, int, bool]:
    """Whole chunks at the beginning of `data`: them, their size, the bytes up to the end of the one that is not whole yet,
    and whether the segment ends there. Raises: NotOurs: none of ours begins there."""
    events, used, wanted = chunks(data)
    if wanted >= 0:
        return events, used, wanted, False
    if not events and not data.startswith(_ROLLED):
        raise NotOurs
    return events, used, used, not events


def count(files: Files, identity: bytes) -> int:
    """The number of the last whole event of a run. Raises: OSError."""
    reader = SegmentReader(files, identity)
    try:
        while reader.read()[1]:
            pass
        return reader.next - 1
    finally:
        reader.close()
