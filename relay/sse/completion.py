"""Whether a stream said that it is complete (facts §1: what "complete" looks like).

`complete_when` is one marker, or several with `|` between them, any of which completes the stream:

  eof          nothing is asked for: a clean end is complete
  event:NAME   a block of the type NAME, with or without data
  TEXT         an event whose whole data is TEXT, spaces around it not counted: `[DONE]`

So `event:response.completed|event:response.incomplete` is the Responses API of OpenAI.

Rules
  * A marker inside a longer text is none: a cheap search finds candidates, the blocks that contain
    one are read as the specification says.
  * Only whole events count. One that was passed on unframed, because it was longer than
    `max_event`, is not to be shown here.
  * At a clean end the last block counts without its blank line too: some servers leave that out
    behind `data: [DONE]`, and nothing can follow that would change what the block says. Its type
    counts only once its line has ended: `event: done` may have become another name.
"""

from __future__ import annotations

import re
from typing import Final

from relay.sse.event import parse, says_its_type

_EVENT: Final = b"event:"
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)+")


class Completion:
    """Watches one stream for its marker.

    Args:
        when: `complete_when` of the route.

    Attributes:
        seen: the stream has said that it is complete; with `eof` from the start.

    Raises: ValueError if a marker is empty.
    """

    __slots__ = ("_data", "_needles", "_types", "seen")

    def __init__(self, when: bytes) -> None:
        markers = [marker.strip() for marker in when.split(b"|")]
        names = [m.removeprefix(_EVENT).strip() for m in markers]
        if not all(names):
            raise ValueError("a completion marker is empty")
        self.seen = b"eof" in markers
        self._needles = tuple(names)
        self._types = {
            name.decode("utf-8", "replace")
            for marker, name in zip(markers, names, strict=True)
            if marker.startswith(_EVENT)
        }
        self._data = {m.decode("utf-8", "replace") for m in markers if not m.startswith(_EVENT)}

    def see(self, whole_events: bytes) -> None:
        """Look at whole events that the client gets."""
        if self.seen:
            return
        for needle in self._needles:
            if needle in whole_events:
                self.seen = any(map(self._is_marker, _BLANK.split(whole_events)))
                return

    def see_last(self, block: bytes) -> bool:
        """Look at the unfinished block before a clean end. Returns: `seen`."""
        if says_its_type(block):
            self.see(block)
        return self.seen

    def _is_marker(self, block: bytes) -> bool:
        if not any(needle in block for needle in self._needles):
            return False
        event = parse(block)
        return event.event in self._types or (
            event.data is not None and event.data.strip() in self._data
        )
