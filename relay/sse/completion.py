"""Whether a stream said that it is complete: what models and servers send last (docs/technical-notes/sse.md).

`complete_when` is one marker, or several with `|` between them, any of which completes the stream:

  eof          nothing is asked for: a clean end is complete
  event:NAME   a block of the type NAME, with or without data
  TEXT         an event whose whole data is TEXT, spaces around it not counted: `[DONE]`

So `event:response.completed|event:response.incomplete` is the Responses API of OpenAI.

Rules
  * A marker counts only where it is the whole of an event's data, or of its type: text that contains
    one does not complete the stream. A cheap search finds the lines that are a marker and nothing
    else, and only the blocks around them are parsed.
  * Only whole events count. One that was passed on unframed, because it was longer than
    `max_event`, is not to be shown here.
  * At a clean end the last block counts without its blank line too: some servers leave that out
    behind `data: [DONE]`, and nothing can follow that would change what the block says. Its type
    counts only once its line has ended: `event: done` may have become another name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from relay.sse.event import says_its_type
from relay.sse.scanner import last_boundary

_EVENT: Final = b"event:"
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)+")
_DATA_LINE: Final = re.compile(rb"(?:\A|[\r\n])data(?::([^\r\n]*))?(?=[\r\n]|\Z)")
_TYPE_LINE: Final = re.compile(rb"(?:\A|[\r\n])event(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)")
_SPACES: Final = rb"[^!-~\r\n]*"  # what may be white space, in Unicode too; `strip` decides


class Completion:
    """Watches one stream for its marker.

    Args:
        when: `complete_when` of the route.

    Attributes:
        asks: a marker is asked for; not with `eof`.
        seen: the stream has said that it is complete; with `eof` from the start.

    Raises: ValueError if a marker is empty.
    """

    __slots__ = ("_markers", "asks", "seen")

    def __init__(self, when: bytes) -> None:
        self._markers = _read(when)
        self.seen = self._markers.eof
        self.asks = not self._markers.eof

    def see(self, whole_events: bytes) -> None:
        """Look at whole events that the client gets."""
        if self.seen:
            return
        for needle in self._markers.needles:
            if needle in whole_events:
                self.seen = self._is_in(whole_events)
                return

    def see_last(self, block: bytes) -> bool:
        """Look at the unfinished block before a clean end. Returns: `seen`."""
        if says_its_type(block):
            self.see(block)
        return self.seen

    def _is_in(self, events: bytes) -> bool:
        at = 0
        while candidate := self._markers.line.search(events, at):
            start = max(at, last_boundary(events, at, candidate.start() + 1))
            blank = _BLANK.search(events, candidate.end())
            at = blank.start() if blank else len(events)
            if self._is_marker(events[start:at]):
                return True
        return False

    def _is_marker(self, block: bytes) -> bool:
        """Whether a block, without its blank line, is one."""
        markers = self._markers
        kind = b""
        for found in _TYPE_LINE.finditer(block):
            kind = found[1] or b""
        if kind in markers.types:
            return True
        said = b""  # the one line of its data that is not empty
        for found in _DATA_LINE.finditer(block):
            text = _stripped(found[1] or b"")
            if text and said:
                return False
            said = said or text
        return said in markers.data


class _Markers(NamedTuple):
    """What `complete_when` names, in the forms in which it is looked for."""

    eof: bool
    needles: tuple[bytes, ...]
    types: frozenset[bytes]
    data: frozenset[bytes]
    line: re.Pattern[bytes]  # a line that says one of them


@lru_cache(maxsize=256)  # a route's, again for each of its streams
def _read(when: bytes) -> _Markers:
    markers = [marker.strip() for marker in when.split(b"|")]
    names = [m.removeprefix(_EVENT).strip() for m in markers]
    if not all(names):
        raise ValueError("a completion marker is empty")
    pairs = list(zip(markers, names, strict=True))
    types = {name for marker, name in pairs if marker.startswith(_EVENT)}
    data = {name for marker, name in pairs if not marker.startswith(_EVENT)}
    lines = [b"event: ?" + re.escape(name) for name in types]
    lines += [b"data:" + _SPACES + re.escape(text) + _SPACES for text in data]
    line = re.compile(rb"(?:\A|[\r\n])(?:" + b"|".join(sorted(lines)) + rb")(?=[\r\n]|\Z)")
    return _Markers(b"eof" in markers, tuple(names), frozenset(types), frozenset(data), line)


def _stripped(text: bytes) -> bytes:
    """A line of data without the white space around it."""
    return text.decode("utf-8", "replace").strip().encode()
