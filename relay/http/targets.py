"""Request targets and Host values (RFC 9112 §3.2, RFC 9110 §7.2, RFC 3986).

Rules of this module:

* The raw bytes are kept. Nothing is decoded, re-encoded or resolved: what the route matched is what
  the upstream gets.
* A path with a dot segment is refused. Two servers resolve it differently, and the route was chosen
  before anyone did. Encoded dots, encoded slashes, backslashes and `..;x` count too, because some
  upstream decodes each of them.
* An absolute-form target's authority wins over the Host field (RFC 9112 §3.2.2).
"""

from __future__ import annotations

import re
from typing import Final

from relay.http.fault import MethodRefused, bad_request

# A reg-name (RFC 3986 §3.2.2) without the comma, at which caches and virtual hosts that take a list
# for one host are confused; and without escapes for what could not stand there as it is (a control
# byte, a space, a delimiter such as `/`, `@` or `,`). Ports end at 65535.
_ESCAPED = (
    rb"%(?:2[146-9ABDEabde]|3[0-9BDbd]|4[1-9A-Fa-f]|5[0-9AFaf]|6[1-9A-Fa-f]|7[0-9AEae]"
    rb"|[89A-Fa-f][0-9A-Fa-f])"
)
_PORT = (
    rb"(?::(?:[0-9]{0,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
)
HOST: Final = re.compile(
    rb"(?:(?:[A-Za-z0-9._~!$&'()*+;=\-]|" + _ESCAPED + rb"){1,255}|\[[0-9A-Fa-f:.]{2,45}\])" + _PORT
)

_SEPARATOR = rb"(?:[/\\]|%2[fF]|%5[cC])"
_DOT_SEGMENT = re.compile(
    rb"(?:^|" + _SEPARATOR + rb")(?:\.|%2[eE]){1,2}(?:$|;|%3[bB]|" + _SEPARATOR + rb")"
)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")


def split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes, bytes | None]:
    """Read a request target that h11 found to be visible ASCII.

    Returns:
        The target as it is forwarded (origin-form, or `*`), its path, its query without the `?`,
        and the authority of an absolute-form target (None for the others).

    Raises:
        Fault: 400; 405 for CONNECT and TRACE.
    """
    authority = None
    if method in _REFUSED_METHODS:
        path = target if target[:1] == b"/" else b""
        raise MethodRefused(method, path.partition(b"?")[0])
    if target[:1] != b"/":
        if target == b"*":
            if method != b"OPTIONS":
                raise bad_request("the target * is for OPTIONS alone")
            return target, target, b"", None
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise bad_request("the request target is neither a path nor an http URL")
        authority = match[1]
        if HOST.fullmatch(authority) is None:
            raise bad_request("the authority of the request target is not a host")
        target = match[2]
        if not target and method == b"OPTIONS":  # RFC 9112 §3.2.4
            return b"*", b"*", b"", authority
        if target[:1] != b"/":
            target = b"/" + target
    elif b"#" in target:
        raise bad_request("a request target has no fragment")
    path, _, query = target.partition(b"?")
    if (b"." in path or b"%" in path) and _DOT_SEGMENT.search(path) is not None:
        raise bad_request("the path has a dot segment")
    return target, path, query, authority


# CONNECT: relay is a gateway, not a forward proxy. TRACE: the upstream would echo the credentials
# that relay adds (RFC 9110 §9.3.8 asks a client not to send any; relay's client does not know it
# has some).
_REFUSED_METHODS: Final = frozenset((b"CONNECT", b"TRACE"))
