"""Event ids of a resumable stream: `<run>-<seq>`, and `<run>-end` for a run that ended badly.

Rules
  * A run's id is 128 random bits, 22 characters of `[A-Za-z0-9_-]`, so an id of ours is told from an upstream's own by its
    shape, is safe in `Last-Event-ID` across origins, and cannot be guessed.
  * `seq` is a decimal from 1 without leading zeros. What has the shape and breaks this is *malformed*: it names no run.
"""

from __future__ import annotations

import re
import secrets
from typing import Final, NamedTuple

_SHAPE: Final = re.compile(rb"[A-Za-z0-9_-]{22}-.+", re.DOTALL)
_OURS: Final = re.compile(rb"([A-Za-z0-9_-]{22})-(end|[1-9][0-9]{0,18})")
_ECHOED: Final = 64  # bytes of a reader's cursor that a gap repeats: ids of ours are no longer


class Cursor(NamedTuple):
    """A reader's last event id, of the shape of ours.

    Attributes:
        run: the run's id; "" if malformed.
        seq: the last event seen; None for `end`.
        text: as it came, cut, for the gap that names it.
    """

    run: str
    seq: int | None
    text: str


def new_run() -> str:
    """A run's id."""
    return secrets.token_urlsafe(16)


def read_cursor(value: bytes | None) -> Cursor | None:
    """The cursor in a `Last-Event-ID`; None where it is missing, empty, `-1`, or not one of ours."""
    if not value or not _SHAPE.fullmatch(value):
        return None
    text = value[:_ECHOED].decode("latin-1")
    ours = _OURS.fullmatch(value)
    if ours is None:
        return Cursor("", 0, text)
    seq = None if ours[2] == b"end" else int(ours[2])
    return Cursor(ours[1].decode("ascii"), seq, text)


def is_none(value: bytes | None) -> bool:
    """Whether a `Last-Event-ID` says that nothing was seen yet (`-1` is LangGraph's word for it)."""
    return value is None or value in (b"", b"-1")
