"""The blocks of an event stream, one by one: told apart, given an id.

A *block* is the lines before a blank line and that blank line (WHATWG HTML §9.2.5); see `scanner` for where one ends.
A route whose streams can be resumed needs each of them; every other route only needs to know where the last one ended.

Rules
  * Lines end with LF, CR or CRLF, in any mix. Blank lines between blocks belong to none and are left out: so the LF of a
    CRLF whose CR ended a block in the read before does no harm.
  * A block is an *event* if it has a `data` or an `event` line. A block of comments only says nothing. What is left has
    an `id` or a `retry` line or fields that nobody knows: it moves a reader's cursor, and dispatches nothing.
  * An id that is added is the last line of its block, with the line end that the block itself uses; every other byte
    stays. The last `id` line of a block is the one that counts (WHATWG HTML §9.2.6).
  * A block that has an id may be the first that a reader gets. Where its first bytes are those of a byte order mark, which
    a reader drops there and nowhere else, an empty comment goes in front.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_CR: Final = 0x0D
_BOM: Final = b"\xef\xbb\xbf"
# Possessive and atomic: without them the CRLF of one line end would match as CR and then LF, and a long block would be
# tried again from each of its lines.
_BLOCK: Final = re.compile(rb"(?>[^\r\n]+(?>\r\n|\n|\r))++(?>\r\n|\n|\r)")
_EVENT_LINE: Final = re.compile(rb"(?:\A|[\r\n])(?:data|event)(?=[:\r\n])")
_FIELD_LINE: Final = re.compile(rb"(?:\A|[\r\n])[^:\r\n]")
_ID_LINE: Final = re.compile(rb"(?:\A|[\r\n])id(?::[ ]?([^\r\n]*))?(?=[\r\n])")
_RETRY_LINE: Final = re.compile(rb"(?:\A|[\r\n])retry:[ ]?([0-9]+)(?=[\r\n])")


class Kind(Enum):
    """What a block is to a reader."""

    EVENT = "event"
    SILENT = "silent"  # fields, but neither data nor an event's name
    COMMENT = "comment"


def blocks(whole: bytes) -> list[bytes]:
    """The blocks in `whole`, each with its blank line.

    Args:
        whole: bytes that begin and end at a boundary, without a byte order mark.
    """
    if _CR not in whole:
        if whole.find(b"\n\n") == len(whole) - 2 and whole[:1] != b"\n":
            return [whole]  # the usual read: one block
        parts = (part.lstrip(b"\n") for part in whole.split(b"\n\n"))
        return [part + b"\n\n" for part in parts if part]
    return _BLOCK.findall(whole)


def kind(block: bytes) -> Kind:
    """What `block` is to a reader."""
    if block.startswith(b"data:") or b"\ndata:" in block or _EVENT_LINE.search(block):
        return Kind.EVENT
    return Kind.SILENT if _FIELD_LINE.search(block) else Kind.COMMENT


def last_id(block: bytes) -> bytes | None:
    """The value of the block's last `id` line; None if it has none that counts (one with a NUL does not)."""
    if b"id" not in block:
        return None
    found = None
    for match in _ID_LINE.finditer(block):
        value = match.group(1) or b""
        if b"\0" not in value:
            found = value
    return found


def retry(block: bytes) -> int | None:
    """The block's reconnection time in milliseconds; None if it names none."""
    if b"retry" not in block:
        return None
    found = None
    for match in _RETRY_LINE.finditer(block):
        found = int(match.group(1)[:18])
    return found


def stamp(block: bytes, event_id: bytes) -> bytes:
    """`block` with `event_id` as its last line.

    Args:
        block: one block with its blank line.
        event_id: neither CR, LF nor NUL in it.
    """
    if block[0] == _BOM[0] and block.startswith(_BOM):
        block = b":\n" + block
    if block.endswith(b"\n\n") and block[-3] != _CR:  # LF twice: the usual one
        return b"%bid: %b\n\n" % (block[:-1], event_id)
    blank = _line_end(block)
    lines = block[: -len(blank)]
    return b"%bid: %b%b%b" % (lines, event_id, _line_end(lines), blank)


def _line_end(text: bytes) -> bytes:
    """The line end that `text` ends with."""
    if text.endswith(b"\r\n"):
        return b"\r\n"
    return text[-1:]
