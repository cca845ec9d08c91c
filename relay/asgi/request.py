"""An ASGI request as HTTP/1.1 bytes: what relay's Connection reads.

    scope ─► head       http.request ─► body, framed as the head says       (no I/O here)

Rules
  * Relay checks the head like any other, so nothing is judged here but what a rewriting could hide:
    a line end inside a value, and a body that is longer or shorter than its Content-Length.
  * Fields that belong to the connection between client and ASGI server end here: Transfer-Encoding,
    Upgrade, TE, and Expect, which the server answers itself.
  * HTTP/2 sends a Cookie in pieces; HTTP/1.1 knows one field (RFC 9113 §8.2.3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from relay.http.bodies import Fields, chunk, last_chunk
from relay.http.fault import bad_request
from relay.http.framing import CHUNKED
from relay.http.serialise import request_bytes

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ENDS_HERE = frozenset((b"transfer-encoding", b"upgrade", b"http2-settings", b"te", b"expect"))
_MOSTLY_BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "DELETE"))


class Request:
    """One request. `head` first, then `body` for every message."""

    __slots__ = ("_left", "_scope", "fields", "framing")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.fields: Fields = [(name.lower(), value) for name, value in scope["headers"]]
        self.framing: int | None = self._framing()  # None: the first message will tell
        self._left = 0  # bytes of the body still to come, where a length was said

    @property
    def method(self) -> bytes:
        return bytes(self._scope["method"].encode("ascii", "replace"))

    @property
    def path(self) -> bytes:
        return self._target().partition(b"?")[0]

    def _framing(self) -> int | None:
        said = {value for name, value in self.fields if name == b"content-length"}
        if said:
            length = said.pop()
            # What is no length, or two of them, is relay's to refuse when it reads the head.
            return int(length) if length.isdigit() and len(length) <= 18 and not said else 0
        if self._scope["http_version"].startswith("1"):
            chunked = any(name == b"transfer-encoding" for name, _ in self.fields)
            return CHUNKED if chunked else 0
        # HTTP/2 needs no length. Waiting for the first message costs nothing where a body is
        # unusual, since the end comes with the head; elsewhere it could hold the head back.
        return None if self._scope["method"] in _MOSTLY_BODILESS else CHUNKED

    def head(self, first: Message | None = None) -> bytes:
        """The head. `first`: the first message, where `framing` is None.

        Raises: Fault (a line end in what must not have one).
        """
        fields = self._host() + [f for f in self.fields if f[0] not in _ENDS_HERE]
        if self.framing is None:
            assert first is not None
            size = len(first.get("body", b""))
            self.framing = CHUNKED if first.get("more_body") else size
            if size and self.framing > 0:
                fields.append((b"content-length", b"%d" % size))
        if self.framing == CHUNKED:
            fields.append((b"transfer-encoding", b"chunked"))
        self._left = max(0, self.framing)
        try:
            return request_bytes(self.method, self._target(), _one_cookie(fields))
        except ValueError:
            raise bad_request("a line end inside the request head") from None

    def _host(self) -> Fields:
        """HTTP/1.0 may come without a Host: then it is the address that was asked."""
        if self._scope["http_version"] != "1.0" or any(name == b"host" for name, _ in self.fields):
            return []
        server = self._scope.get("server")
        host, port = server if server else ("localhost", None)
        host = f"[{host}]" if ":" in host else host
        return [(b"host", (f"{host}:{port}" if port else host).encode("ascii", "replace"))]

    def _target(self) -> bytes:
        """The raw bytes, where the server kept them."""
        scope = self._scope
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
        query: bytes = scope.get("query_string", b"")
        return raw + b"?" + query if query else raw

    def body(self, message: Message) -> bytes | None:
        """An `http.request` message as it goes on the wire; None: it breaks the length that was
        said, or ends before it.
        """
        data: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        if self.framing == CHUNKED:
            return (chunk(data) if data else b"") + (last_chunk([]) if last else b"")
        self._left -= len(data)
        if self._left < 0 or (last and self._left):
            return None
        return data


def _one_cookie(fields: Fields) -> Fields:
    cookies = [value for name, value in fields if name == b"cookie"]
    if len(cookies) < 2:
        return fields
    rest = [field for field in fields if field[0] != b"cookie"]
    return [*rest, (b"cookie", b"; ".join(cookies))]
