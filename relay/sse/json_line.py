"""JSON on one line, for `data:` lines that every reader reads as one.

Rules
  * What is written is one line for those too who cut at every line end that Unicode knows: Python's
    `splitlines`, and readers built on it, would break an event at U+0085, U+2028 or U+2029, which
    JSON does not escape by itself.
  * What is written is JSON: no NaN, no Infinity, no half of a surrogate pair as a character.
  * What is read is JSON in the same sense; anything else is text. A byte order mark in front is ignored (RFC 8259 §8.1).
"""

from __future__ import annotations

import json
from typing import Final, Never

_OTHER_LINE_ENDS: Final = str.maketrans(
    {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class NotJSON(Exception):
    """A text that is not JSON."""

    __slots__ = ()


def write(value: object) -> str:
    """`value` as one line of JSON, its text readable as it is.

    Raises: ValueError or TypeError for a value that JSON does not have (NaN, bytes, a cycle).
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("nested beyond the stack") from error
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which "\ud800" in somebody's JSON brings in.
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_OTHER_LINE_ENDS)


def read(text: str) -> object:
    """The value of a JSON text.

    Raises: NotJSON, also for what only Python reads (NaN), for numbers beyond a double and for
    nesting beyond the stack.
    """
    try:
        value: object = json.loads(
            text.removeprefix("\ufeff"), parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None
    return value


def _refuse(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number beyond a double")
    return value
