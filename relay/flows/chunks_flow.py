"""A body that is in chunks on both sides, whose large chunks may pass unseen.

    line of a large chunk ─► follow ─► (wanted, passed) … ─► what is between two chunks ─► follow, or feed

Rules
  * The receiver's large chunks follow the sender's: nobody looks at what is in them (`wanted`, `passed`), only at the line
    between two (`follow`). Who never asks for that has a BytesFlow.
  * The receiver is then in the middle of a chunk when a read ends (`_open`), and whatever comes first ends that chunk.
  * Nobody says anything of its own in such a body, so nothing can get into the middle of one.
"""

from __future__ import annotations

from typing import Final

from relay.flows.bytes_flow import BytesFlow
from relay.http.bodies import PLAIN_SIZES, ChunkReader, Side
from relay.http.fault import Fault
from relay.http.framing import CHUNKED
from relay.http.names import LATE, Barred

# Bytes of a chunk. From here on the four system calls that a chunk costs are cheaper than copying it twice.
LARGE: Final = 32 * 1024
# Bytes read between two chunks, for what stands there: a CRLF, a size of up to 12 digits, a CRLF.
_LINE: Final = 16


class ChunksFlow(BytesFlow):
    """One such body, sans-IO."""

    __slots__ = ("_chunks", "_open")

    def __init__(self, side: Side, late: Barred = LATE) -> None:
        super().__init__(CHUNKED, CHUNKED, side, late)
        assert isinstance(self.reader, ChunkReader)
        self._chunks = self.reader
        self._open = False  # the receiver is in a chunk that follows the sender's

    def feed(self, data: bytes) -> bytes:
        """What the receiver gets for `data`. Raises: Fault."""
        if self._open:
            return self._to_the_end(data)
        return BytesFlow.feed(self, data)  # `super()` would cost each read 0.1 µs

    def _to_the_end(self, data: bytes) -> bytes:
        """`feed` where the receiver has a chunk to end first."""
        reader = self._chunks
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
            return out + super().feed(data[size:])
        except Fault as fault:
            fault.passed = out + fault.passed
            raise

    @property
    def followed(self) -> bool:
        """Whether the receiver's chunks follow the sender's just now: in a large chunk that has begun, or at the end of one.
        Then `follow` is next, or, while it is `large`, `wanted` and `passed`."""
        reader = self._chunks
        return (reader.left > 0 and reader.size >= LARGE) or (
            self._open and reader.ends_chunk() == reader.left + 2
        )

    @property
    def large(self) -> bool:
        """Whether so much of a chunk is to come that nobody needs to look at it: see `wanted`, `passed`."""
        return self._chunks.left >= LARGE

    def open(self) -> bytes:
        """What the receiver gets before the rest of a large chunk, of which it has not heard yet."""
        if self._open:
            return b""
        self._open = True
        return b"%x\r\n" % self._chunks.left

    def between(self) -> int:
        """How many bytes to read for the end of a chunk that is followed and the line behind it."""
        return self._chunks.left + _LINE

    def follow(self, data: bytes) -> int:
        """How much of `data`, no longer than `between`, goes out as it came; what is behind that is for `feed`."""
        reader = self._chunks
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

    def wanted(self, limit: int) -> int:
        """How many bytes of a chunk that is followed may be taken at once: none that are behind it."""
        return min(limit, self._chunks.left)

    def passed(self, size: int) -> None:
        """So many bytes of a chunk that is followed, no more than `wanted`, went by."""
        self.payload_bytes += size
        self._chunks.skip(size)
