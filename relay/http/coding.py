"""Content codings of responses: which one a body is in, and gzip and deflate undone (RFC 9110 §8.4).

Only event streams are decoded: an event leaves when its last byte came, so somebody must know where it ends. Every other
body passes as it is.

    coded bytes ─► Inflater.feed ─► at most `at_once` bytes, whatever the ratio; more is `pending`

Rules
  * What the compressor flushed comes out at once: all that can be decoded of the bytes that came is decoded.
  * One step gives at most `at_once` bytes and begins at most MEMBERS members, so neither a bomb nor a flood of empty members
    costs more than any other read. What is held is the coded bytes that came and were not decoded yet, and zlib's window.
  * gzip is one member or several, one behind the other (RFC 1952 §2.2). deflate is the zlib format (RFC 1950), and also raw
    deflate (RFC 1951), which some servers send under that name and every browser reads.
  * Bytes that are not in the coding, and bytes behind its end, are a Fault; what was before them is decoded first. An end
    before the coding's own is a truncation, also where nothing came at all.
  * What comes out does not depend on the pieces in which the bytes came, also where the data turns out to be corrupt.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, Protocol

from relay.http.fault import Fault

READABLE: Final = frozenset((b"", b"gzip", b"deflate"))  # what `content_coding` says of them
MEMBERS: Final = 32  # begun in one step (arbitrary): each costs as much as inflating 4 KiB
_PIECE: Final = 4 * 1024  # bytes inflated in one call: so much is looked at again after an error
_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_STARTS: Final = 0x1F  # the first byte of every member
_DEFLATED: Final = 8  # RFC 1950 §2.2: CM of a zlib header


def content_coding(values: Iterable[bytes]) -> bytes:
    """The coding that these Content-Encoding values name, in lower case; b"" for none.

    Several codings are one name with commas in it: nothing that is READABLE.
    """
    names = [name.strip(b" \t").lower() for value in values for name in value.split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    if names == [b"x-gzip"]:  # RFC 9110 §8.4.1.3: the same
        return b"gzip"
    return b", ".join(names)


class _Inflating(Protocol):
    """One of zlib's decompression objects, whose class has no public name."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int = 0) -> bytes: ...
    def copy(self) -> _Inflating: ...


class Inflater:
    """Decodes one body.

    Attributes:
        pending: there is more to be had with `feed(b"")`.
    """

    __slots__ = ("_at", "_at_once", "_coding", "_data", "_ended", "_full", "_member", "pending")

    def __init__(self, coding: bytes, at_once: int) -> None:
        """
        Args:
            coding: b"gzip" or b"deflate".
            at_once: bytes that one step gives at most.
        """
        self._coding = coding.decode("ascii")
        self._at_once = at_once
        self._data = b""  # what came
        self._at = 0  # and how much of it was taken
        self._member: _Inflating | None = None  # None: at the beginning, or behind the end of one
        self._ended = False  # there was one that came to its end
        self._full = False  # zlib may have more to give for what it took
        self.pending = False

    @property
    def held(self) -> int:
        """Coded bytes that came and were not decoded yet."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> bytes:
        """The next decoded bytes. Raises: Fault, with what could be decoded before it."""
        self._data = self._data[self._at :] + data
        self._at = 0
        out: list[bytes] = []
        left = self._at_once
        begun = 0
        waits = False  # for a byte more, to know what begins here
        try:
            while left and begun < MEMBERS and (self._full or self._at < len(self._data)):
                if self._member is None:
                    begun += 1
                    self._member = self._begin()
                    if self._member is None:
                        waits = True
                        break
                piece = self._inflate(self._member, left)
                left -= len(piece)
                out.append(piece)
        except Fault as fault:
            self._data = b""
            self._at = 0
            self.pending = False
            fault.passed = b"".join(out) + fault.passed
            raise
        self.pending = not waits and (self._full or self._at < len(self._data))
        if self._at == len(self._data):
            self._data = b""
            self._at = 0
        return out[0] if len(out) == 1 else b"".join(out)

    def unfinished(self) -> str:
        """At the end of the body: what is missing, for people; "" where nothing is."""
        if self._ended and self._member is None and not self._data:
            return ""
        return f"the upstream ended in the middle of its {self._coding} data"

    def _begin(self) -> _Inflating | None:
        """What decodes the bytes that come now; None where there are too few of them to tell."""
        first = self._data[self._at : self._at + 2]
        if self._coding == "gzip":
            if self._ended and first[0] != _GZIP_STARTS:
                raise self._fault("there are bytes behind the {} data")
            return zlib.decompressobj(_GZIP)
        if self._ended:
            raise self._fault("there are bytes behind the {} data")
        if len(first) < 2:
            return None
        # RFC 1950 §2.2: the method, and a check of the two bytes. Raw deflate cannot look like that: it would begin
        # with a stored block, whose padding bits are zero.
        zlibs = first[0] & 15 == _DEFLATED and (first[0] << 8 | first[1]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if zlibs else -zlib.MAX_WBITS)

    def _inflate(self, member: _Inflating, limit: int) -> bytes:
        """Some of the bytes that are there, decoded to at most `limit`."""
        piece = self._data[self._at : self._at + _PIECE]
        before = member.copy()
        try:
            out = member.decompress(piece, limit)
        except zlib.error:
            fault = self._fault("the body is not {} data, or it is corrupt")
            fault.passed = _up_to_the_error(before, piece)
            raise fault from None
        if member.eof:
            left = len(member.unused_data)
            self._member = None
            self._ended = True
            self._full = False
        else:
            left = len(member.unconsumed_tail)
            self._full = len(out) == limit
        self._at += len(piece) - left
        return out

    def _fault(self, message: str) -> Fault:
        return Fault("upstream", 502, "bad_coding", message.format(self._coding))


def _up_to_the_error(member: _Inflating, piece: bytes) -> bytes:
    """What zlib threw away when it met an error in `piece`: the outcome must not depend on where a read ended.

    First the bytes before the wrong one, by halving; then what can be had of that one, a byte of output at a time.
    """
    out: list[bytes] = []
    at = 0
    for bit in reversed(range(len(piece).bit_length())):
        trial = member.copy()
        try:
            out.append(trial.decompress(piece[at : at + (1 << bit)]))
        except zlib.error:
            continue
        member = trial
        at += 1 << bit
    try:
        data = piece[at : at + 1]
        while got := member.decompress(data, 1):
            out.append(got)
            data = member.unconsumed_tail
    except zlib.error:
        pass
    return b"".join(out)
