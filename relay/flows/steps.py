"""Work that one read brings, in pieces that keep nobody waiting.   (No I/O.)

Rule: who has a Steps feeds it what came, takes what it gives, and as long as it is `pending` comes back for more with
`feed(b"")` before anything else is read.
"""

from __future__ import annotations

from typing import Protocol


class Steps(Protocol):
    """What cuts the work of one read into bounded pieces."""

    pending: bool  # there is more to be had without new bytes

    @property
    def held(self) -> int:
        """Bytes that came and are still to be worked on."""

    def feed(self, data: bytes) -> bytes:
        """The next piece. Raises: Fault, with what could be had before it."""

    def unfinished(self) -> str:
        """At the end of the body: what is missing, for people; "" where nothing is."""


class Slices:
    """Payload in slices of at most `size` bytes."""

    __slots__ = ("_at", "_data", "_size", "pending")

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = b""
        self._at = 0  # of `_data`, what has been handed out
        self.pending = False

    @property
    def held(self) -> int:
        return len(self._data) - self._at

    def feed(self, data: bytes) -> bytes:
        if not self.pending:
            if len(data) <= self._size:
                return data
            self._data = data
            self._at = 0
        elif data:
            self._data = self._data[self._at :] + data
            self._at = 0
        piece = self._data[self._at : self._at + self._size]
        self._at += len(piece)
        self.pending = self._at < len(self._data)
        if not self.pending:
            self._data = b""
            self._at = 0
        return piece

    def unfinished(self) -> str:
        return ""
