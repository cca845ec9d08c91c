"""How much a JSON text may hold, found out before anything of it is built.

A text of a mebibyte can be 350,000 empty lists, which are 25 MiB of objects and, under the interpreter's one lock, a
pause of every stream. So what comes from outside is measured before it is parsed.

Rules
  * Every value, and every name of a member, stands at the beginning or behind one of `[ { , :` outside a string. Their
    number is an upper bound of what the parser would build, and counting them builds nothing.
  * Nested deeper than MAX_DEPTH is refused too: what is done with a value is recursive.
  * Measuring goes through the text in pieces of at most WINDOW, so that a thread that does it lets the others run.
  * Whether the text is JSON is left to the parser. Of a text that is not, the count may be wrong: the parser refuses it.
"""

from __future__ import annotations

import re
from typing import Final

from relay.sse.json_line import NotJSON

MAX_VALUES: Final = 100_000  # arbitrary: 60 embeddings of 1,536 numbers; parsed in 30 ms (measured)
MAX_DEPTH: Final = 128  # as serde_json and System.Text.Json (64) bound it; RFC 8259 §9 allows it
WINDOW: Final = 64 * 1024  # bytes looked at in one step of the regular expression engine

_BRACKET: Final = re.compile(rb"[\[\]{}]")
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_QUOTE: Final = 0x22


class TooMuch(NotJSON):
    """A JSON text has more values, or more levels, than are read."""

    __slots__ = ()


def check(text: bytes, most: int | None = None) -> None:
    """Raises: TooMuch. Cost: linear in the text, and bounded by `most` steps of Python outside long strings.

    Args:
        most: values; None: MAX_VALUES.
    """
    most = MAX_VALUES if most is None else most
    count, find, size = text.count, text.find, len(text)
    if size <= MAX_DEPTH or (size <= most and count(b"[") + count(b"{") <= MAX_DEPTH):
        return  # fewer bytes than values, and fewer brackets than levels: no string need be told apart
    values = 1
    depth = 0
    at = 0
    while at < size:
        stop = min(at + WINDOW, size)
        quote = find(b'"', at, stop)
        end = stop if quote < 0 else quote
        if end > at:
            values += count(b",", at, end) + count(b":", at, end)
            values += count(b"[", at, end) + count(b"{", at, end)
            if values > most:
                raise TooMuch(f"it has more than {most} values")
            for found in _BRACKET.finditer(text, at, end):
                depth += 1 if found[0] in b"[{" else -1
                if depth > MAX_DEPTH:
                    raise TooMuch(f"it is nested deeper than {MAX_DEPTH} levels")
        at = stop if quote < 0 else _behind_string(text, quote + 1)


def _behind_string(text: bytes, at: int) -> int:
    """Where the string that began before `at` has ended; the end of the text where it does not."""
    size = len(text)
    while at < size:
        found = _IN_STRING.match(text, at, at + WINDOW)
        assert found is not None, "the expression matches nothing at least"
        end = found.end()
        if end < size and text[end] == _QUOTE:
            return end + 1
        if end == at:
            return size  # a lone backslash at the very end
        at = end
    return size
