"""A body that passes as it is: decoded by its sender's framing, encoded in the receiver's.

Used for request bodies and for responses that are not event streams. Where both sides speak chunked and a read was
nothing but whole chunks, the same bytes object goes out.
"""

from __future__ import annotations

from relay.http.bodies import (
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


class BytesFlow:
    """One body, sans-IO: `feed` bytes as they come, send on what it returns.

    Attributes:
        done: the body is whole; `surplus` is what came behind it.
        payload_bytes: payload passed so far, without framing.
    """

    __slots__ = ("_chunked", "payload_bytes", "reader")
    events = 0
    held = 0  # this flow never holds anything back
    pending = in_steps = False

    def __init__(self, framing_in: int, framing_out: int, side: Side, late: Barred = LATE) -> None:
        self.reader: BodyReader = body_reader(framing_in, side, late)
        self._chunked = framing_out == CHUNKED
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

    @property
    def plain(self) -> bool:
        """Whether the body's bytes are the wire's bytes on both sides, so that nobody needs to look at them."""
        return not self._chunked and not isinstance(self.reader, ChunkReader)

    def wanted(self, limit: int) -> int:
        """How many bytes of a plain body may be taken at once: none that are behind it."""
        reader = self.reader
        return min(limit, reader.left) if isinstance(reader, LengthReader) else limit

    def passed(self, size: int) -> None:
        """So many bytes of a plain body, no more than `wanted`, went by."""
        self.payload_bytes += size
        reader = self.reader
        if isinstance(reader, LengthReader):
            reader.left -= size
            reader.done = reader.left == 0

    def eof(self) -> bytes | None:
        """The sender closed: what the receiver gets for a proper end, None where the body was cut."""
        if not self.reader.eof():
            return None
        return last_chunk([]) if self._chunked else b""
