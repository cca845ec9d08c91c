"""Heads, as bytes. Always HTTP/1.1, names in lower case, fields in the order given.

The values were validated where they came from (by h11, or with the configuration), so nothing is
validated again; but the line ends are counted, which costs 0.8 µs and makes it impossible that a
value ends a head (response splitting).
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from json import dumps

from relay.http.bodies import Fields

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b" % (status, reason) for status, reason in _REASONS.items()
}
_join_field = b": ".join


def request_bytes(method: bytes, target: bytes, fields: Fields) -> bytes:
    """A request head. Raises: ValueError where a value has a line end in it, which is a bug of the
    caller.
    """
    return _head(b"%b %b HTTP/1.1" % (method, target), fields)


def response_bytes(status: int, reason: bytes, fields: Fields) -> bytes:
    """A response head, interim ones too; an empty reason gives the usual phrase. Raises: as
    `request_bytes`.
    """
    line = None if reason else _STATUS_LINES.get(status)
    return _head(line or b"HTTP/1.1 %d %b" % (status, reason), fields)


def _head(line: bytes, fields: Fields) -> bytes:
    lines = [line]
    lines += map(_join_field, fields)
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    ends = len(lines)
    if head.count(b"\n") != ends or head.count(b"\r") != ends:
        raise ValueError("a line end inside a head that relay writes")
    return head


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    request_id: bytes = b"",
    request_id_header: bytes = b"x-request-id",
    close: bool = True,
    head_only: bool = False,
    allow: tuple[bytes, ...] = (),
    fields: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A whole response of relay's own: `{"error": {"code": …, "message": …}}` (docs/reference/errors.md).

    Args:
        close: the connection ends after it.
        head_only: it answers a HEAD: no body, but its length.
        allow: methods for the Allow field of a 405.
        fields: further ones.
    """
    body = dumps({"error": {"code": code, "message": message}}).encode("ascii")
    out: Fields = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *fields,
    ]
    if request_id:
        out.append((request_id_header, request_id))
    if allow:
        out.append((b"allow", b", ".join(allow)))
    if close:
        out.append((b"connection", b"close"))
    head = response_bytes(status, b"", out)
    return head if head_only else head + body
