"""A body that passes as it is: decoded by its sender's framing, encoded in the receiver's.

Used for request bodies and for responses that are not event streams. Where both sides speak chunked and a read was
nothing but whole chunks, the same bytes object goes out.

The receiver's large chunks may follow the sender's: nobody looks at what is in them (`wanted`, `passed`), only at the line
between two (`follow`). The receiver is then in the middle of a chunk when a read ends (`_open`), and whatever comes
first ends that chunk. Nobody says anything of its own in such a body, so nothing can get into the middle of one.
"""

from __future__ import annotations

from typing import Final

from relay.http.bodies import (
    PLAIN_SIZES,
    BodyReader,
    ChunkReader,
    LengthReader,
    Side,
    body_reader,
    chunk,
    last_chunk,
)
from relay.http.fault import Fault
from relay.http.framing import CHUNKED
from relay.http.names import LATE, Barred

# Bytes of a chunk. From here on the four system calls that a chunk costs are cheaper than copying it twice.
LARGE: Final = 32 * 1024
# Bytes read between two chunks, for what stands there: a CRLF, a size of up to 12 digits, a CRLF.
_LINE: Final = 16


class BytesFlow:
    """One body, sans-IO: `feed` bytes as they come, send on what it returns.

    Attributes:
        done: the body is whole; `surplus` is what came behind it.
        payload_bytes: payload passed so far, without framing.
    """

    __slots__ = ("_chunked", "_open", "payload_bytes", "reader")
    events = 0
    held = 0  # this flow never holds anything back
    pending = in_steps = False

    def __init__(self, framing_in: int, framing_out: int, side: Side, late: Barred = LATE) -> None:
        self.reader: BodyReader = body_reader(framing_in, side, late)
        self._chunked = framing_out == CHUNKED
        self._open = False  # the receiver is in a chunk that follows the sender's
        self.payload_bytes = 0

    @property
    def done(self) -> bool:
        return self.reader.done

    @property
    def surplus(self) -> bytes:
        return self.reader.surplus

    def feed(self, data: bytes) -> bytes:
        """What the receiver gets for `data`. Raises: Fault."""
        reader = self.reader
        if self._open:
            return self._to_the_end(data)
        try:
            payload = reader.feed(data)
        except Fault as fault:
            if fault.passed and self._chunked:
                fault.passed = chunk(fault.passed)
            raise
        self.payload_bytes += len(payload)
        if not self._chunked:
            return payload
        if reader.whole:
            return data
        out = chunk(payload) if payload else b""
        return out + last_chunk(reader.trailers) if reader.done else out

    def _to_the_end(self, data: bytes) -> bytes:
        """`feed` where the receiver has a chunk to end first."""
        reader = self.reader
        assert isinstance(reader, ChunkReader)
        size = reader.ends_chunk()
        payload = reader.feed(data[:size])  # a Fault's `passed` is within the chunk
        self.payload_bytes += len(payload)
        if not reader.between:
            return payload
        self._open = False
        out = payload + b"\r\n"
        if len(data) <= size:
            return out
        try:
            return out + self.feed(data[size:])
        except Fault as fault:
            fault.passed = out + fault.passed
            raise

    @property
    def chunked(self) -> bool:
        """Whether it is in chunks on both sides."""
        return self._chunked and isinstance(self.reader, ChunkReader)

    @property
    def followed(self) -> bool:
        """Whether the receiver's chunks follow the sender's just now: in a large chunk that has begun, or at the end of one.
        Then `follow` is next, or, while it is `large`, `wanted` and `passed`."""
        reader = self.reader
        assert isinstance(reader, ChunkReader)
        return (reader.left > 0 and reader.size >= LARGE) or (
            self._open and reader.ends_chunk() == reader.left + 2
        )

    @property
    def large(self) -> bool:
        """Whether so much of a chunk is to come that nobody needs to look at it: see `wanted`, `passed`."""
        return isinstance(self.reader, ChunkReader) and self.reader.left >= LARGE

    def open(self) -> bytes:
        """What the receiver gets before the rest of a large chunk, of which it has not heard yet."""
        if self._open:
            return b""
        self._open = True
        reader = self.reader
        assert isinstance(reader, ChunkReader)
        return b"%x\r\n" % reader.left

    def between(self) -> int:
        """How many bytes to read for the end of a chunk that is followed and the line behind it."""
        assert isinstance(self.reader, ChunkReader)
        return self.reader.left + _LINE

    def follow(self, data: bytes) -> int:
        """How much of `data`, no longer than `between`, goes out as it came; what is behind that is for `feed`."""
        reader = self.reader
        assert isinstance(reader, ChunkReader)
        at = min(reader.left, len(data))
        self.passed(at)
        end = data.find(b"\r\n", at + 2)
        if (
            end < 0
            or PLAIN_SIZES.get(data[at + 2 : end], 0) < LARGE
            or data[at : at + 2] != b"\r\n"
        ):
            return at
        reader.feed(data[at : end + 2])
        self.passed(len(data) - end - 2)
        return len(data)

    @property
    def plain(self) -> bool:
        """Whether the body's bytes are the wire's bytes on both sides, so that nobody needs to look at them."""
        return not self._chunked and not isinstance(self.reader, ChunkReader)

    def wanted(self, limit: int) -> int:
        """How many bytes of a plain body, or of a chunk that is followed, may be taken at once: none behind it."""
        reader = self.reader
        return min(limit, reader.left) if isinstance(reader, LengthReader | ChunkReader) else limit

    def passed(self, size: int) -> None:
        """So many bytes, no more than `wanted`, went by."""
        self.payload_bytes += size
        reader = self.reader
        if isinstance(reader, LengthReader):
            reader.left -= size
            reader.done = reader.left == 0
        elif isinstance(reader, ChunkReader):
            reader.skip(size)

    def eof(self) -> bytes | None:
        """The sender closed: what the receiver gets for a proper end, None where the body was cut."""
        if not self.reader.eof():
            return None
        return last_chunk([]) if self._chunked else b""
