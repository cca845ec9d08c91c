"""HTTP/1.1 bytes as relay writes them, read back: heads and payload for ASGI.   (No I/O here.)"""

from __future__ import annotations

from typing import Final

from relay.http.bodies import BodyReader, Fields, body_reader
from relay.http.heads import ResponseHead, parse_response

# Bytes of a head that relay wrote itself: an upstream's, bounded by [limits] response_head, and
# what the route adds to it. Only a fault of relay's own reaches it.
HEAD_LIMIT: Final = 16 * 1024 * 1024

# What frames the message or belongs to the connection: the ASGI server writes its own.
_ENDS_HERE = frozenset((b"connection", b"transfer-encoding", b"keep-alive", b"trailer"))


class ResponseReader:
    """One response. `feed` until `done`, or until nothing more comes."""

    __slots__ = ("_body", "_held", "_method", "head", "interim")

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._held = b""  # an unfinished head
        self._body: BodyReader | None = None
        self.head: ResponseHead | None = None
        self.interim: list[ResponseHead] = []  # 1xx heads that nobody has taken yet

    @property
    def done(self) -> bool:
        """The response is whole."""
        return self._body is not None and self._body.done

    @property
    def fields(self) -> Fields:
        """Those of the final head that go on."""
        assert self.head is not None
        return [field for field in self.head.fields if field[0] not in _ENDS_HERE]

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; heads appear in `interim` and `head`. Raises: Fault (a bug)."""
        if self._body is not None:
            return b"" if self._body.done else self._body.feed(data)
        data = self._held + data if self._held else data
        while data:
            parsed = parse_response(data, self._method, HEAD_LIMIT)
            if parsed is None:
                break
            head, used = parsed
            data = data[used:]
            if head.status < 200:
                self.interim.append(head)
                continue
            self.head = head
            self._held = b""
            self._body = body_reader(head.framing, "upstream")
            return self._body.feed(data) if data and not self._body.done else b""
        self._held = data
        return b""

    def eof(self) -> bool:
        """Nothing more comes: whether the response is whole."""
        return self._body is not None and self._body.eof()
