"""The Cache-Control of an event stream (RFC 9111 §5.2.2): what its source asks for and what a stream needs, together.

  no-cache        a stored stream would be an old one
  no-transform    a proxy that compresses holds events back

Rules
  * Nothing is weakened: `private`, `no-store` and every directive that restricts stay, with their arguments, and so do
    those that this module does not know.
  * Directives that allow a cache something go: beside `no-cache` they say nothing more, and a cache that knows one of
    them and not the other must not be tempted.
  * `no-cache="field"` and its like restrict less than the bare directive, which takes their place.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_NEEDED: Final = (b"no-cache", b"no-transform")
_ALLOWING: Final = frozenset(
    b"public max-age s-maxage stale-while-revalidate stale-if-error immutable".split()
)
_DIRECTIVE: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*=[ \t]*(\"(?:[^\"\\]|\\.)*\"|[^\s,;\"]*))?"
)


@lru_cache(maxsize=256)
def of_stream(said: tuple[bytes, ...]) -> bytes:
    """The field's value for a stream whose source sent these Cache-Control values."""
    kept: dict[bytes, bytes] = {}
    for match in _DIRECTIVE.finditer(b", ".join(said)):
        name, argument = match[1].lower(), match[2]
        if name not in _ALLOWING and name not in _NEEDED:
            kept[name + b"=" + (argument or b"")] = name if argument is None else match[0]
    return b", ".join([*kept.values(), *_NEEDED])
