"""Bodies: from wire bytes to payload, and back into chunks (RFC 9112 §6, §7).

One reader per framing, all with the same face, each fed with whatever a read brought:

    feed(data) -> payload      done, surplus (after the body), whole, trailers      eof()

`whole` tells that the last `data` was nothing but complete, plain chunks, so the same bytes object may be passed on
as it is. Everything that a lenient reader could understand in two ways is refused, because relay and the next server
would disagree about where the body ends: chunk sizes with signs, spaces, underscores or a bare `;`, line
ends other than CRLF, extensions that are not tokens, framing fields in a request's trailers.

Trailers that may not stand there, or that the route bars (`late`), are dropped. A response's framing fields are among
them: its body was whole before they came, and a cut would make it look broken.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from relay.http.fault import Fault
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.names import FRAMING, LATE, Barred, Fields, folded

__all__ = [
    "BodyReader",
    "ChunkReader",
    "CloseReader",
    "Fields",
    "LengthReader",
    "Side",
    "body_reader",
    "chunk",
    "last_chunk",
]

Side = str

# Bytes; h11 bounds it by its whole buffer, Go at 4096; extensions are unused in the wild
MAX_CHUNK_LINE: Final = 1024
# Bytes of extensions that a body may have beyond an eighth of the payload they come with. They are parsed and
# thrown away, so a peer that sends little else only wants to be costly (Go bounds them likewise, at 16 KiB beyond
# twice the payload, since CVE-2023-39326).
MAX_EXTENSIONS: Final = 64 * 1024
_SHARE: Final = 3  # a shift: an eighth
MAX_TRAILERS: Final = 16 * 1024  # bytes of the trailer section: as much as a request head
MAX_TRAILER_FIELDS: Final = 100  # as of a request head; 16 KiB can be 4,000, 700 KiB of objects

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Blanks around `;` and `=` are bad but legal (RFC 9112 §7.1.1, BWS), at the end of the line they are not. Every part is
# possessive: a line is read once, whatever is in it.
_BWS = rb"[ \t]*+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]++|\\[\t -~\x80-\xff])*+"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:%b;%b%b(?:%b=%b(?:%b|%b))?+)*+)"
    % (_BWS, _BWS, _TOKEN + b"+", _BWS, _BWS, _TOKEN + b"+", _QUOTED)
)
_TRAILER = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)

# Sizes that were seen written plainly. Streams write the same few again and again; bounded, shared by all.
PLAIN_SIZES: Final[dict[bytes, int]] = {}
MAX_SIZES: Final = 4096

# Attempts at a run per read: one that ends early is looked at again, not without bound
MAX_RUNS: Final = 4
_WORTH_A_RUN: Final = 256  # bytes; less is stepped through
_STATE_SIZE, _STATE_DATA, _STATE_CRLF, _STATE_TRAILER = range(4)


class BodyReader(Protocol):
    """One body on its way in. `done` is terminal; `feed` is not called after it."""

    done: bool
    whole: bool
    surplus: bytes
    trailers: Fields

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises: Fault, with the side that sent it."""

    def eof(self) -> bool:
        """The connection ended: whether that is the body's proper end."""


def body_reader(framing: int, side: Side, late: Barred = LATE) -> BodyReader:
    """The reader for a body framed as `framing` that `side` sends. `late`: what is dropped of its trailers."""
    if framing == CHUNKED:
        return ChunkReader(side, late)
    if framing == UNTIL_CLOSE:
        return CloseReader()
    return LengthReader(framing)


def chunk(payload: bytes) -> bytes:
    """`payload` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % field for field in trailers])


class LengthReader:
    """Content-Length: exactly so many bytes."""

    __slots__ = ("done", "left", "surplus")
    whole = False
    trailers: Fields = []  # noqa: RUF012 - shared and never written: only chunked bodies have trailers

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.surplus = b""

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        if size < self.left:
            self.left -= size
            return data
        self.done = True
        if size > self.left:
            self.surplus = data[self.left :]
            data = data[: self.left]
        self.left = 0
        return data

    def eof(self) -> bool:
        return self.done


class CloseReader:
    """No framing: the body ends with the connection (responses only)."""

    __slots__ = ("done",)
    whole = False
    surplus = b""
    trailers: Fields = []  # noqa: RUF012 - as above

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self) -> bool:
        self.done = True
        return True


class ChunkReader:
    """Transfer-Encoding: chunked, strictly.

        size line ──► data ──► CRLF ──► size line … ──► (size 0) trailers ──► done

    Two shortcuts without a loop: a read that is exactly one chunk, and a read that is nothing but whole chunks (split at
    CRLF, the lengths of every second piece are the sizes that the others say). Else the state machine runs.
    """

    __slots__ = (
        "_excess",
        "_held",
        "_late",
        "_side",
        "_state",
        "done",
        "left",
        "size",
        "surplus",
        "trailers",
        "whole",
    )

    def __init__(self, side: Side, late: Barred = LATE) -> None:
        self._side = side
        self._late = late
        self._state = _STATE_SIZE
        self._held = b""  # an unfinished line or trailer section, bounded by the constants above
        self.left = self.size = 0  # payload bytes of this chunk: still to come, and in all
        self._excess = 0  # bytes of extensions beyond their share
        self.done = False
        self.whole = False
        self.surplus = b""
        self.trailers: Fields = []

    def feed(self, data: bytes) -> bytes:
        if self._state == _STATE_SIZE and not self._held:
            line = data.find(b"\r\n")
            size = PLAIN_SIZES.get(data[:line])
            if size is not None and len(data) == line + size + 4 and data.endswith(b"\r\n"):
                self.whole = True
                return data[line + 2 : -2]
            pieces: list[bytes] = []
            if size is not None and self._run(data, 0, pieces) == len(data):
                self.whole = True
                return b"".join(pieces)
        self.whole = False
        return self._step(data)

    def eof(self) -> bool:
        return self.done

    @property
    def between(self) -> bool:
        """Exactly between two chunks."""
        return self._state == _STATE_SIZE and not self._held

    def skip(self, size: int) -> None:
        """So many of the `left` bytes went by unseen."""
        self.left -= size
        self._state = _STATE_DATA if self.left else _STATE_CRLF

    def ends_chunk(self) -> int:
        """Bytes up to the end of the chunk that has begun, with its CRLF."""
        return self.left + 2 - len(self._held)

    def _step(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        at = 0
        end = len(data)
        runs = MAX_RUNS
        try:
            while at < end and not self.done:
                if self._state == _STATE_SIZE and not self._held:
                    if runs and end - at > _WORTH_A_RUN and _is_plain(data, at):
                        runs -= 1
                        at = self._run(data, at, pieces)
                    at = self._chunks(data, at, pieces)
                if self._state == _STATE_DATA:
                    piece = data[at : at + self.left]
                    pieces.append(piece)
                    at += len(piece)
                    self.left -= len(piece)
                    if not self.left:
                        self._state = _STATE_CRLF
                elif self._state == _STATE_CRLF:
                    at = self._chunk_end(data, at)
                elif self._state == _STATE_SIZE:
                    at = self._size_line(data, at)
                else:
                    at = self._trailer_section(data, at)
        except Fault as fault:
            fault.passed = b"".join(pieces)  # the split of the input must not decide what arrives
            raise
        if self.done:
            self.surplus = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @staticmethod
    def _run(data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take the whole plain chunks that follow each other from `at`, between two chunks, in one go.

        Split at CRLF, every second part is as long as the part before it says. What does not fit (a part of a chunk, CRLF
        in the data, an extension, the last chunk) is left to the state machine.

        Returns: the offset behind what was taken; `pieces` has the data.
        """
        parts = (data[at:] if at else data).split(b"\r\n")
        whole = (len(parts) - 1) // 2  # pairs with both line ends
        sizes = list(map(PLAIN_SIZES.get, parts[: 2 * whole : 2]))
        payloads = parts[1 : 2 * whole : 2]
        lengths: list[int | None] = list(map(len, payloads))
        if sizes != lengths:
            whole = next(n for n, size in enumerate(sizes) if size != lengths[n])
            del payloads[whole:]
        pieces += payloads
        left = parts[2 * whole :]
        return len(data) - sum(map(len, left)) - 2 * (len(left) - 1)

    def _chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take the whole chunks that follow each other from `at`, one by one: any line, any data.

        Returns: the offset behind what was taken; what is malformed or not whole is left to the state machine.
        """
        while True:
            line = data.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if line < 0:
                return at
            text = data[at:line]
            size = PLAIN_SIZES.get(text)
            match = None
            if size is None:
                match = _SIZE_LINE.fullmatch(text)
                if match is None:
                    return at
                size = int(match[1], 16)
            end = line + 2 + size
            if not size or data[end : end + 2] != b"\r\n":
                return at
            if match is not None and match[2]:
                self._spend(len(match[2]), size)
            pieces.append(data[line + 2 : end])
            at = end + 2
            if match is not None and not match[2]:
                _learn(text, size)
                return at  # perhaps all that follows is plain now

    def _spend(self, extensions: int, size: int) -> None:
        self._excess = max(0, self._excess + extensions - (size >> _SHARE))
        if self._excess > MAX_EXTENSIONS:
            raise self._fault("the chunks have more extensions than is worth reading")

    def _chunk_end(self, data: bytes, at: int) -> int:
        """Read (some of) the CRLF behind a chunk's data; the offset behind what was used."""
        wanted = b"\r\n"[len(self._held) :]
        got = data[at : at + len(wanted)]
        if not wanted.startswith(got):
            raise self._fault("a chunk is longer than its size says")
        self._held += got
        if len(self._held) == 2:
            self._held = b""
            self._state = _STATE_SIZE
        return at + len(got)

    def _size_line(self, data: bytes, at: int) -> int:
        """Read (some of) a chunk's size line; the offset behind what was used."""
        end = data.find(b"\n", at)
        line = self._held + (data[at : end + 1] if end >= 0 else data[at:])
        if len(line) > MAX_CHUNK_LINE:
            raise self._fault("a chunk size line is too long")
        if end < 0:
            if not _could_be_size(line):
                raise self._fault("a chunk size line is malformed")
            self._held = line
            return len(data)
        match = _SIZE_LINE.fullmatch(line, 0, len(line) - 2) if line.endswith(b"\r\n") else None
        if match is None:
            raise self._fault("a chunk size line is malformed")
        self._held = b""
        size = match[1]
        self.left = self.size = int(size, 16)
        if match[2]:
            self._spend(len(match[2]), self.left)
        elif self.left:
            _learn(size, self.left)
        self._state = _STATE_DATA if self.left else _STATE_TRAILER
        return end + 1

    def _trailer_section(self, data: bytes, at: int) -> int:
        before = len(self._held)
        section = self._held + data[at:]
        if section.startswith(b"\r\n"):
            end = 2
        else:
            end = section.find(b"\r\n\r\n", max(0, before - 3)) + 4
            if end < 4:
                if len(section) > MAX_TRAILERS:
                    raise self._fault("the trailer section is too long")
                self._held = section
                return len(data)
            if end > MAX_TRAILERS:
                raise self._fault("the trailer section is too long")
            self._read_trailers(section[: end - 4])
        self._held = b""
        self.done = True
        return at + end - before

    def _read_trailers(self, section: bytes) -> None:
        lines = section.split(b"\r\n", MAX_TRAILER_FIELDS)
        if len(lines) > MAX_TRAILER_FIELDS:
            raise self._fault("there are too many trailers")
        for line in lines:
            match = _TRAILER.fullmatch(line)
            if match is None:
                raise self._fault("a trailer field is malformed")
            name = match[1].lower()
            if self._side == "client" and folded(name) in FRAMING:
                raise self._fault("a trailer carries a field that frames the body")
            if not self._late.bars(name):
                self.trailers.append((name, match[2]))

    def _fault(self, message: str) -> Fault:
        if self._side == "client":
            return Fault("client", 400, "bad_chunk", message)
        return Fault("upstream", 502, "bad_chunk", message)


def _learn(text: bytes, size: int) -> None:
    """Remember how a size is written plainly. Where there is no room they are all learnt anew: a peer that fills it with
    sizes of its own must not slow every other stream down for good."""
    if len(PLAIN_SIZES) >= MAX_SIZES:
        PLAIN_SIZES.clear()
    PLAIN_SIZES[text] = size


def _is_plain(data: bytes, at: int) -> bool:
    """Whether a size that was seen written plainly is next."""
    return data[at : data.find(b"\r\n", at, at + MAX_CHUNK_LINE)] in PLAIN_SIZES


def _could_be_size(line: bytes) -> bool:
    """Whether an unfinished line may still become a size line: refuse nonsense before the deadline does."""
    return b"\x00" not in line and (not line or line[:1] in b"0123456789abcdefABCDEF")
