"""Who may ask the admin listener, and from where (pure).

Attack → defence
  * A page on the web that names this machine (DNS rebinding): on loopback without a token, Host
    must be a loopback name. With a token no name is checked, because no page has the token.
  * A page on the web that sends a request it cannot read (CSRF): Origin must be this listener's,
    and a browser that says `Sec-Fetch-Site` must not come from elsewhere. Browsers send Origin with
    every DELETE; what sends none is no browser.
  * A page that frames this one (clickjacking): `frame-ancestors 'none'`, see `admin.pages`.
  * Guessing the token: compared in constant time.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Final, Literal

from relay.http.fault import Fault
from relay.http.heads import RequestHead

# What is open without the token: "closed" nothing, "public" all of it, "part" answers less.
Openness = Literal["closed", "public", "part"]

# From where it can be reached: TCP on loopback, a unix socket, any other TCP.
Reach = Literal["loopback", "unix", "outside"]

_ELSEWHERE: Final = frozenset((b"cross-site", b"same-site"))
_SAFE: Final = frozenset((b"GET", b"HEAD"))


class Guard:
    """The rules of one listener."""

    __slots__ = ("_reach", "_token")

    def __init__(self, token: str | None, reach: Reach) -> None:
        self._token = token.encode() if token is not None else None
        self._reach = reach

    def admit(self, head: RequestHead, openness: Openness) -> bool:
        """Whether the request has full rights; False: only to what is open in part.

        Raises: Fault (401, 403, 421).
        """
        if self._token is None:
            self._check_reach(head)
        fields = dict(head.fields)
        self._check_origin(head, fields)
        if self._token is None or openness == "public":
            return True
        scheme, _, given = fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return True
        if openness == "closed":
            raise Fault("client", 401, "unauthorized", "this needs the bearer token")
        return False

    def _check_reach(self, head: RequestHead) -> None:
        """Without a token."""
        if self._reach == "outside":
            # The configuration refuses it, but cannot look into a socket that was passed in.
            message = "this listener can be reached from outside: it needs an admin_token"
            raise Fault("client", 403, "token_needed", message)
        if self._reach == "loopback" and head.host and not is_local_name(head.host):
            message = "this listener answers to loopback names; other names need an admin_token"
            raise Fault("client", 421, "misdirected_request", message)

    def _check_origin(self, head: RequestHead, fields: dict[bytes, bytes]) -> None:
        origin = fields.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != head.host.lower():
            raise Fault("client", 403, "cross_origin", "the request comes from another origin")
        if fields.get(b"sec-fetch-site") in _ELSEWHERE:
            # A link to the page may stand anywhere; everything else is asked by the page itself.
            followed = fields.get(b"sec-fetch-mode") == b"navigate" and head.method in _SAFE
            if not followed:
                raise Fault("client", 403, "cross_origin", "the request comes from another site")


def is_local_name(host: bytes) -> bool:
    """Whether a Host value names this machine and nothing that a DNS answer decides."""
    name = host.decode("latin-1")
    bracketed = name.startswith("[")
    name = name[1:].partition("]")[0] if bracketed else name.partition(":")[0]
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback
