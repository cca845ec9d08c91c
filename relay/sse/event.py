"""An event as a value, and the way from bytes to events and back (WHATWG HTML §9.2.5 and §9.2.6).

Rules of the specification that are easy to miss
  * Text is UTF-8 and never an error: what is not becomes U+FFFD. One byte order mark at the very
    start is dropped.
  * The last event id moves at the end of a block, also of one without data; it stays over the
    blocks that have no `id`. An `id` with a NUL is ignored, an empty one resets it.
  * `retry` counts at the end of its line, and only if it is all ASCII digits.
  * A block without a data line dispatches nothing, and its type is forgotten.
  * The end of the stream discards a block that has not got its blank line.

What relay writes is the form that readers written by hand understand too: LF only, one space behind
the colon, no `event:` line for the default type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from relay.sse.scanner import BoundaryScanner

_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_BREAK: Final = re.compile(r"[\r\n]")
_LAST_LINE_END: Final = re.compile(rb"[\r\n][^\r\n]*\Z")
_RETRY_DIGITS: Final = 15  # arbitrary: 30,000 years in ms, and exact as a double


@dataclass(frozen=True, slots=True)
class Event:
    """One block of an event stream.

    Attributes:
        data: its data lines, joined by LF; None without a data line, then a reader dispatches
            nothing.
        event: its type; "" is the default one, which an EventSource calls "message".
        id: what its id line sets the last event id to ("" resets); None without one.
        retry: the reconnection time in milliseconds; None without one.
        comments: its comment lines without the colon and one leading space.
    """

    data: str | None = None
    event: str = ""
    id: str | None = None
    retry: int | None = None
    comments: tuple[str, ...] = ()


def parse(block: bytes) -> Event:
    """The event of one block, with or without the blank line that ends it.

    Blank lines in front are skipped, what follows a blank line behind is not read: use EventParser
    for a stream. A last line without its line end counts. A byte order mark is not dropped here: it
    is none in mid-stream.
    """
    lines = _LINE_END.split(block.decode("utf-8", "replace"))
    first = next((at for at, line in enumerate(lines) if line), len(lines))
    rest = lines[first:]
    return _read(rest[: rest.index("")] if "" in rest else rest)


def says_its_type(block: bytes) -> bool:
    """Whether more bytes could only add to what this unfinished block says, not change its type.

    Its last line may lack its line end, but then its field is named and is not `event`.
    """
    last = block[max(block.rfind(b"\n"), block.rfind(b"\r")) + 1 :]
    return not last or (b":" in last and not last.startswith(b"event:"))


def check(event: Event) -> None:
    """Raises: ValueError for a line end in `event` or `id`, a NUL in `id`, a negative `retry`."""
    if event.event and _BREAK.search(event.event):
        raise ValueError("an event type cannot contain a line end")
    if event.id and ("\0" in event.id or _BREAK.search(event.id)):
        raise ValueError("an event id cannot contain a line end or NUL")
    if event.retry is not None and event.retry < 0:
        raise ValueError("a reconnection time cannot be negative")


def serialise(event: Event) -> bytes:
    """The block of an event with its blank line; b"" for an event that says nothing at all.

    CR and CRLF in `data` and `comments` become LF: the format cannot carry them.

    Raises: ValueError for what the format has no way to say, see `check`.
    """
    check(event)
    lines: list[str] = []
    for comment in event.comments:
        lines += [f": {line}" for line in _LINE_END.split(comment)]
    if event.event:
        lines.append(f"event: {event.event}")
    if event.data is not None:
        lines += [f"data: {line}" for line in _LINE_END.split(event.data)]
    if event.id is not None:
        lines.append(f"id: {event.id}")
    if event.retry is not None:
        lines.append(f"retry: {event.retry}")
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace") if lines else b""


class EventParser:
    """The events of one stream as its bytes come in, in any split; cost linear in the bytes.

    Args:
        silent: also return the blocks that dispatch nothing (`data is None`), for a caller that
            passes the stream on: an id or a reconnection time may stand alone.

    Attributes:
        last_event_id: as the specification keeps it; "" at the start. What a reader sends to
            reconnect.
        retry: the reconnection time that the stream asked for last, in milliseconds; None before.
    """

    __slots__ = ("_scanner", "_silent", "_start", "_tail", "last_event_id", "retry")

    def __init__(self, *, silent: bool = False) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._scanner = BoundaryScanner()
        self._silent = silent
        self._start = True  # no byte has been read yet
        self._tail = bytearray()  # the unfinished block

    @property
    def held(self) -> int:
        """Bytes of the unfinished block. There is no limit here: a caller who needs one reads
        this.
        """
        return len(self._tail)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order."""
        offset = self._scanner.feed(data)
        if not offset:
            self._tail += data
            return []
        whole = bytes(self._tail) + data[:offset] if self._tail else data[:offset]
        self._tail = bytearray(data[offset:])
        text = whole.decode("utf-8", "replace")
        if self._start:
            self._start = False
            if self._scanner.bom:
                text = text[1:]
        return self._blocks(text)

    def eof(self) -> None:
        """The stream ended: the unfinished block is discarded. (A `retry` line in it has counted
        already.)
        """
        end = _LAST_LINE_END.search(self._tail)
        if end:
            block = parse(bytes(self._tail[: end.start()]))
            self.retry = self.retry if block.retry is None else block.retry
        self._tail.clear()

    def _blocks(self, text: str) -> list[Event]:
        events: list[Event] = []
        lines: list[str] = []
        for line in _LINE_END.split(text):
            if line:
                lines.append(line)
            elif lines:
                event = _read(lines)
                lines = []
                if event.id is not None:
                    self.last_event_id = event.id
                if event.retry is not None:
                    self.retry = event.retry
                if self._silent or event.data is not None:
                    events.append(event)
        return events


def _read(lines: list[str]) -> Event:
    """The event that the lines of one block make."""
    data: list[str] = []
    comments: list[str] = []
    kind = ""
    last_id: str | None = None
    retry: int | None = None
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif not name:
            comments.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            if "\0" not in value:
                last_id = value
        elif (
            name == "retry" and value.isascii() and value.isdigit() and len(value) <= _RETRY_DIGITS
        ):
            retry = int(value)
    return Event("\n".join(data) if data else None, kind, last_id, retry, tuple(comments))
