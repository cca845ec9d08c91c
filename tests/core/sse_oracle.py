"""The specification's algorithm, read plainly: what the tests of `relay.sse` are held against.

WHATWG HTML §9.2.5 (parsing) and §9.2.6 (interpretation), step by step and in its words, with no
thought of speed and nothing shared with relay. Only `message` stands for the default type, as a
browser shows it.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Dispatched(NamedTuple):
    type: str
    data: str
    last_event_id: str


class Reading(NamedTuple):
    events: list[Dispatched]
    last_event_id: str
    retry: int | None


def interpret(stream: bytes) -> Reading:
    """What an EventSource does with a stream that then ends."""
    text = stream.decode("utf-8", "replace")  # "streams must be decoded using UTF-8 decode"
    text = text.removeprefix("\ufeff")  # ... "which strips one leading byte order mark, if any"
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    events: list[Dispatched] = []
    data = event_type = last_event_id_buffer = last_event_id = ""
    retry: int | None = None
    for line in lines:
        if line == "":  # dispatch the event
            last_event_id = last_event_id_buffer
            if data == "":
                event_type = ""
                continue
            data = data.removesuffix("\n")
            events.append(Dispatched(event_type or "message", data, last_event_id))
            data = event_type = ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                last_event_id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return Reading(events, last_event_id, retry)


class Boundary(NamedTuple):
    offset: int  # just behind a blank line, or behind the byte order mark
    events: int  # blocks with data so far
    blocks: int  # blocks with a line so far


def boundaries(stream: bytes) -> list[Boundary]:
    """Where whole blocks end, line by line. A CR ends its line before one knows whether a LF
    follows, so a blank line that CRLF ends has two boundaries.
    """
    found: list[Boundary] = []
    position = events = blocks = 0
    lines = has_data = False
    if stream.startswith(b"\xef\xbb\xbf"):
        position = 3
        found.append(Boundary(3, 0, 0))
    for match in re.finditer(rb"([^\r\n]*)(\r\n|\r|\n)", stream[position:]):
        line, end = match.groups()
        if line:
            lines = True
            has_data = has_data or line.partition(b":")[0] == b"data"
            continue
        blocks += lines
        events += has_data
        lines = has_data = False
        if end == b"\r\n":
            found.append(Boundary(position + match.end() - 1, events, blocks))
        found.append(Boundary(position + match.end(), events, blocks))
    return found
