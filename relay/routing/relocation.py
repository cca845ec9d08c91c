"""Addresses that an upstream gives of itself, made into paths on relay (Location, Content-Location, Refresh).

An upstream that redirects to `http://127.0.0.1:8080/one/x` names an address that the client cannot reach and should not
see. Where the route keeps a prefix of the path, what stands behind that prefix is the same on both sides, so the
address becomes a path: what nginx does by default (`proxy_redirect default`), without a scheme or a host.

  the route            /two/{rest...}  with  upstream_path = "/one/{rest}"
  Location             http://127.0.0.1:8080/one/x?y   ─►   /two/x?y

Rules
  * Only absolute addresses (`http://…`, `//…`) of one of the upstream's own urls; every other value passes as it came, and
    so does an own address beneath which the route keeps nothing.
  * The result is a path on relay and nothing else: a second slash at its front would be a host (RFC 3986 §4.2), so such
    a path gets `/.` in front, as the URL standard writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from relay.routing.pattern import Pattern
from relay.routing.template import Template

NAMES: Final = frozenset((b"location", b"content-location", b"refresh"))
# No white space, control character or backslash: browsers drop or turn those into slashes.
_PLAIN: Final = rb"[^?#\\\x00-\x20\x7f]*"
_ADDRESS: Final = re.compile(
    rb"(?:(https?):)?//([^/?#\\\x00-\x20\x7f]*)((?:/" + _PLAIN + rb")?)([?#][^\\\x00-\x20\x7f]*)?",
    re.I,
)
_REFRESH: Final = re.compile(rb"([ \t]*[0-9.]+[ \t]*[;,][ \t]*url[ \t]*=[ \t]*)([^\"'].*)", re.I)
_PORTS: Final = {b"http": b"80", b"https": b"443"}


class Own(NamedTuple):
    """One address of the upstream."""

    scheme: bytes
    authority: bytes  # as in Host: without the scheme's own port
    base: bytes  # path in front of every upstream path; b"" or without a slash at its end


class Kept(NamedTuple):
    """A prefix of the client's path, and what the route made of it; neither ends with a slash."""

    ours: bytes
    theirs: bytes
    alone: bool = False  # it stands for that one resource, and nothing is kept beneath it


def kept(pattern: Pattern, template: Template | None, path: bytes, target: bytes) -> Kept:
    """What a route keeps of the path of a request.

    Args:
        path: the client's.
        target: what became of it, without the url's base path.
    """
    if template is None:
        return Kept(b"", b"")  # the path as it came
    sent = target.partition(b"?")[0]
    if pattern.has_rest and template.tail and template.tail == pattern.names[-1]:
        ours = b"/".join(path.split(b"/")[: len(pattern.segments)])
        return Kept(ours, sent.removesuffix(path[len(ours) :]))
    return Kept(path.removesuffix(b"/"), sent.removesuffix(b"/"), alone=True)


def relocated(name: bytes, value: bytes, kept: Kept, own: Iterable[Own]) -> bytes:
    """The value of a field in NAMES as the client gets it."""
    if name == b"refresh":
        refresh = _REFRESH.fullmatch(value)
        return refresh[1] + _moved(refresh[2], kept, own) if refresh is not None else value
    return _moved(value, kept, own)


def _moved(value: bytes, kept: Kept, own: Iterable[Own]) -> bytes:
    match = _ADDRESS.fullmatch(value)
    if match is None:
        return value
    scheme, authority, path, query = match.groups(b"")
    for each in own:
        if not _names(scheme, authority, each):
            continue
        prefix = each.base + kept.theirs
        beneath = path.removeprefix(prefix) if path.startswith(prefix) else b"?"
        if beneath in (b"", b"/") or (beneath[:1] == b"/" and not kept.alone):
            found = kept.ours + beneath or b"/"
            return (b"/." + found if found[:2] == b"//" else found) + query
    return value


def _names(scheme: bytes, authority: bytes, own: Own) -> bool:
    if scheme and scheme.lower() != own.scheme:
        return False
    host = authority.lower().removesuffix(b":" + _PORTS[own.scheme]).removesuffix(b":")
    return host == own.authority.lower()
