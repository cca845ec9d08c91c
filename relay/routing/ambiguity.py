r"""How else a path may be read: by what stands before relay, or by what decodes behind it.

relay chooses a route, and with it credentials and policy, by the bytes as they stand: `%2F` is no
separator, `//` is an empty segment, `;` and `\` are letters. Others read the same bytes in other ways:

    decoded           WSGI's PATH_INFO, nginx, most frameworks; some decode what was decoded already
    merged            nginx (`merge_slashes`), many routers: `//` is `/`
    without `;…`      servlet containers, before or after they decode
    `\` as `/`        IIS, and every URL parser of the WHATWG kind
    without `//host`  `new URL(request.url, …)` of Node, and other parsers of URLs
                      (WHATWG URL §4.4: any number of slashes may stand before the host)

A server may do several of these one after the other, in any order, so every order is tried. All of
them work from left to right, and a route table looks at a few segments only: so of a long path no
more is read than its beginning, up to where even the shortest reading has as many segments.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from relay.routing.pattern import decode

MAX_DECODES: Final = 3  # times a path is decoded; arbitrary: some chains do it twice
MAX_READINGS: Final = 64  # of one path; arbitrary: an honest one has four
MAX_READ: Final = 4096  # bytes of a path; arbitrary: honest ones have their segments before

_SUSPECT: Final = re.compile(rb"//|[;\\]|%(?:2[5Ff]|3[Bb]|5[Cc])")
_SLASHES: Final = re.compile(rb"//+")
_PARAMETERS: Final = re.compile(rb";[^/]*+")
_DOT_SEGMENT: Final = re.compile(rb"[/\\]\.{1,2}(?:$|[;/\\])")


class Reading(NamedTuple):
    path: bytes
    decodes: int = 0  # on the way to it
    parsed: bool = False  # a `//host` was taken off


class Unreadable(Exception):
    """There is a dot segment in it for some server, or there are more ways to read it than are
    tried.
    """


def has_other_readings(path: bytes) -> bool:
    """Whether a path that routing takes segment by segment, decoded once, may mean something else."""
    # Four searches for a fixed text are a third of the one for the pattern.
    if b"%" in path or b"//" in path or b";" in path or b"\\" in path:
        return _SUSPECT.search(path) is not None
    return False


def other_readings(path: bytes, depth: int) -> list[Reading]:
    """Every other reading of a path, as far as its first `depth` segments go.

    Raises: Unreadable.
    """
    _refuse_dots(path)
    end = 256
    while end < len(path) and end <= MAX_READ:
        # What stands at the cut may be half of an escape, or of a segment: it is behind `depth`.
        found = readings(path[:end])
        if min(reading.path.count(b"/") for reading in found) > depth:
            return found[1:]
        end *= 4
    if len(path) > MAX_READ:
        raise Unreadable
    return readings(path)[1:]


def _refuse_dots(path: bytes) -> None:
    """The http room has refused what is a dot segment once it is decoded; here is what takes more."""
    for _ in range(MAX_DECODES):
        before, path = path, decode(path)
        if _DOT_SEGMENT.search(path) is not None:
            raise Unreadable
        if path == before:
            return


def readings(path: bytes) -> list[Reading]:
    """Every reading of a path, the path as it stands first. Raises: Unreadable."""
    first = Reading(path)
    known = {first}
    order = [first]
    for reading in order:
        for again in _read_on(reading):
            if again not in known:
                known.add(again)
                order.append(again)
        if len(order) > MAX_READINGS:
            raise Unreadable
    return order


def _read_on(reading: Reading) -> list[Reading]:
    path, decodes, parsed = reading
    found = [
        Reading(_SLASHES.sub(b"/", path), decodes, parsed),
        Reading(_PARAMETERS.sub(b"", path), decodes, parsed),
        Reading(path.replace(b"\\", b"/"), decodes, parsed),
    ]
    if decodes < MAX_DECODES and b"%" in path:
        found.append(Reading(decode(path), decodes + 1, parsed))
    if not parsed and path.startswith(b"//"):
        found.append(Reading(b"/" + path.lstrip(b"/").partition(b"/")[2], decodes, True))
    return found
