"""Compressed bodies for tests, made by zlib itself: in every format, flushed in every way."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

WBITS = {"gzip": 31, "zlib": 15, "raw": -15}
NAMES = {"gzip": b"gzip", "zlib": b"deflate", "raw": b"deflate"}  # as Content-Encoding has them
FLUSHES = {
    "none": zlib.Z_NO_FLUSH,
    "partial": zlib.Z_PARTIAL_FLUSH,
    "sync": zlib.Z_SYNC_FLUSH,
    "full": zlib.Z_FULL_FLUSH,
    "block": zlib.Z_BLOCK,
    "end": zlib.Z_FINISH,  # of a gzip member: another follows
}


class Coder:
    """A server's compressor."""

    def __init__(self, kind: str = "gzip", level: int = 6) -> None:
        self._wbits = WBITS[kind]
        self._level = level
        self.name = NAMES[kind]
        self._new()

    def _new(self) -> None:
        self._zlib = zlib.compressobj(self._level, zlib.DEFLATED, self._wbits)

    def write(self, data: bytes, flush: str = "sync") -> bytes:
        """The bytes that leave the server for `data`."""
        out = self._zlib.compress(data)
        if FLUSHES[flush] != zlib.Z_NO_FLUSH:
            out += self._zlib.flush(FLUSHES[flush])
        if flush == "end":
            self._new()
        return out

    def end(self) -> bytes:
        return self._zlib.flush()


def coded(data: bytes, kind: str = "gzip", level: int = 6) -> bytes:
    """All of `data`, in one go."""
    coder = Coder(kind, level)
    return coder.write(data, "none") + coder.end()


def in_turn(kind: str, pieces: Iterable[tuple[bytes, str]]) -> bytes:
    """A body whose pieces were flushed each in its way."""
    coder = Coder(kind)
    return b"".join([coder.write(*piece) for piece in pieces]) + coder.end()
