"""The client's half of an event stream, without I/O: how whole events, and relay's own words between them, leave.

    whole events ─► Outlet ─► chunks, or bytes as they are (HTTP/1.0)
    words of ours ─┘

Rules
  * Who calls `say` is between two events; the outlet does not know the events.
  * A BOM behind bytes of ours would be text, so it is dropped (WHATWG HTML §9.2: one leading BOM).
"""

from __future__ import annotations

from typing import Final

from relay.http.bodies import Fields, chunk, last_chunk
from relay.http.framing import CHUNKED

_BOM: Final = b"\xef\xbb\xbf"


class Outlet:
    """One client's end of one stream.

    Attributes:
        chunked: how the body is framed for this client.
        begun: payload of the stream has passed.
        spoke: relay has said something.
    """

    __slots__ = ("begun", "chunked", "spoke")

    def __init__(self, framing: int) -> None:
        self.chunked = framing == CHUNKED
        self.begun = False
        self.spoke = False

    def pass_on(self, events: bytes) -> bytes:
        """`events` (not empty) on the wire."""
        if not self.begun:
            self.begun = True
            if self.spoke:
                events = events.removeprefix(_BOM)
        return chunk(events) if self.chunked and events else events

    def say(self, words: bytes) -> bytes:
        """Whole blocks of ours on the wire."""
        self.spoke = True
        return chunk(words) if self.chunked and words else words

    def last(self, trailers: Fields) -> bytes:
        """The proper end."""
        return last_chunk(trailers) if self.chunked else b""
