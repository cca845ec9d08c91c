"""From a request on a resumable route to a Question: whose, which stream, behind which event. Pure.

Rules
  * A cursor is `Last-Event-ID`, or else `last_event_id` or `lastEventId` in the query (a page cannot set the field of an
    EventSource it makes anew). One of ours never goes to the upstream, wherever and however often it stands; any other goes
    as it came.
  * A key is UTF-8, 1 to 256 bytes, without dot segments and control characters: it becomes a part of an address.
  * A principal that has no value is nobody: 403, never an empty name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Final

from relay.config.values import Resume
from relay.feeds.cursors import Cursor, is_none, read_cursor
from relay.http.fault import Fault
from relay.http.heads import RequestHead
from relay.routing.pattern import Pattern, decode
from relay.routing.subject import Values
from relay.routing.template import escape

CURSOR_FIELD: Final = b"last-event-id"
_CURSOR_NAMES: Final = (b"last_event_id", b"lastEventId")
_LONGEST_KEY: Final = 256  # bytes
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
PUBLIC: Final[tuple[str, ...]] = ()  # no principal has this name: they all have a value


def read_cursor_of(head: RequestHead) -> tuple[Cursor | None, RequestHead]:
    """The request's cursor, if it is one of ours, and the request without any of ours and those that say nothing.

    The field wins over the query; among several one of ours counts.
    """
    fields, query = head.fields, head.query
    named = [value for name, value in fields if name == CURSOR_FIELD]
    asked = [value for pair in query.split(b"&") if (value := _in_query(pair)) is not None]
    cursor = next(filter(None, map(read_cursor, named or asked)), None)
    if any(map(_ours, named)):
        fields = [field for field in fields if field[0] != CURSOR_FIELD or not _ours(field[1])]
        head = replace(head, fields=fields)
    if any(map(_ours, asked)):
        query = b"&".join(pair for pair in query.split(b"&") if not _ours(_in_query(pair)))
        target = head.path + (b"?" + query if query else b"")
        head = replace(head, target=target, query=query)
    return cursor, head


def _in_query(pair: bytes) -> bytes | None:
    """The cursor in one pair of a query, decoded as a form's; None where it names none."""
    name, _, value = (decode(part.replace(b"+", b" ")) for part in pair.partition(b"="))
    return value if name in _CURSOR_NAMES else None


def _ours(value: bytes | None) -> bool:
    """Whether the upstream has no use for this cursor: it is one of ours, or says nothing."""
    return value is not None and (is_none(value) or read_cursor(value) is not None)


def principal_of(resume: Resume, values: Values) -> tuple[str, ...]:
    """Whose the streams are that this request may see. Raises: Fault (403)."""
    if resume.principal is None:
        return PUBLIC
    parts = resume.principal.parts(values)
    if parts is None:
        raise Fault(
            "client", 403, "no_principal", "the request does not say whose stream it is for"
        )
    return parts


def key_of(resume: Resume, values: Values) -> str | None:
    """Which stream the request is about; None: its own. Raises: Fault (400)."""
    parts = resume.key.parts(values) if resume.key is not None else None
    return None if parts is None else check_key("".join(parts))


def key_in_path(raw: bytes) -> str:
    """The key that the address of a stream names. Raises: Fault (400)."""
    try:
        return check_key(decode(raw).decode())
    except UnicodeDecodeError:
        raise _bad_key("is not UTF-8") from None


def check_key(key: str) -> str:
    """Raises: Fault (400)."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _bad_key("is not UTF-8") from None
    if not 0 < size <= _LONGEST_KEY:
        raise _bad_key("is empty or longer than 256 bytes")
    if _CONTROL.search(key):
        raise _bad_key("has a control character")
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", key)):
        raise _bad_key("has a dot segment")
    return key


def _bad_key(problem: str) -> Fault:
    return Fault("client", 400, "bad_key", f"the stream's key {problem}")


def request_hash(method: bytes, path: bytes, query: bytes, payload: bytes) -> bytes:
    """What makes a repetition: the same method, target (without a cursor) and body."""
    out = hashlib.sha256()
    for part in (method, path, query, payload):
        out.update(len(part).to_bytes(8, "big"))
        out.update(part)
    return out.digest()


def address(at: Pattern, key: str) -> bytes:
    """The concrete address of a stream."""
    raw = key.encode()
    out = b""
    for segment, name in zip(at.segments, at.names, strict=True):
        if not name:
            out += b"/" + escape(segment.text)
        elif at.has_rest:
            out += b"/" + b"/".join(map(escape, raw.split(b"/")))
        else:
            out += b"/" + escape(raw)
    return out
