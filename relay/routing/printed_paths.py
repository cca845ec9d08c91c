"""A client's path as it is printed, where literals of the route table are not to be printed.

A secret that was put into a route's `path` comes back in every path that a client sends to it, and in
those that miss it by a slash. So where there are such literals, each segment of a path is looked at, as
it stands and decoded, before the path is logged or listed.
"""

from __future__ import annotations

import re
from typing import Final

from relay.routing.ambiguity import MAX_DECODES
from relay.routing.pattern import decode

MASK: Final = b"***"
# A literal of so many bytes is no accident inside of a longer segment either (arbitrary).
LONG: Final = 8
_BETWEEN: Final = re.compile(rb"[/\\;?&=]")


def shown(path: bytes, hidden: frozenset[bytes]) -> bytes:
    """The path, or target, with MASK for each segment that has one of these literals in it."""
    if not hidden:
        return path
    return b"/".join(MASK if _tells(segment, hidden) else segment for segment in path.split(b"/"))


def _tells(segment: bytes, hidden: frozenset[bytes]) -> bool:
    for _ in range(MAX_DECODES + 1):
        if not hidden.isdisjoint(_BETWEEN.split(segment)):
            return True
        if any(len(literal) >= LONG and literal in segment for literal in hidden):
            return True
        before, segment = segment, decode(segment)
        if segment == before:
            return False
    return False
