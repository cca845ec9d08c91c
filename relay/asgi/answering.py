"""The response on its way to the ASGI server, event by event, and its end.

    whole      the last http.response.body, with more_body False, once the request body is read
    not whole  HTTP/1.1: stop; the server closes the connection without the last chunk
               HTTP/2, HTTP/3: a reset, where the server can be asked for one; otherwise an end
               before the length that was said, which clients must refuse (RFC 9113 §8.1.1);
               otherwise stop

Why the request body is read to its end: Hypercorn 0.18 ends its whole process when a client goes
on uploading on an HTTP/2 stream that was answered; under HTTP/1.1 it closes the connection, and
the reset for unread bytes could destroy the answer on its way (RFC 9112 §9.6).
"""

from __future__ import annotations

from contextlib import suppress

import trio

from relay.asgi import beyond
from relay.asgi.request import Message, Scope, Send
from relay.asgi.response import ResponseReader
from relay.asgi.stream import RequestStream
from relay.config.values import Timeouts
from relay.exchange.connection import LINGER, LINGER_BYTES
from relay.http.heads import ResponseHead


class Answering:
    """One response, from the stream to `send`."""

    __slots__ = ("_http1", "_reader", "_scope", "_send", "_started", "_stream", "_timeouts")

    def __init__(
        self, stream: RequestStream, method: bytes, scope: Scope, send: Send, timeouts: Timeouts
    ) -> None:
        self._stream = stream
        self._reader = ResponseReader(method)
        self._scope = scope
        self._send = send
        self._timeouts = timeouts
        self._http1 = scope["http_version"].startswith("1")
        self._started = False

    async def run(self) -> None:
        """Pass on what relay writes until it closes. Cancellation: the caller leaves the stream."""
        with suppress(OSError):  # ASGI: the client is gone
            last = b""
            while data := await self._stream.outgoing():
                last = await self._pass_on(data)
            await self._end(last)

    async def answer(self, response: bytes) -> None:
        """Give this whole response; there is no relay behind the stream."""
        with suppress(OSError):
            await self._end(await self._pass_on(response))

    async def _pass_on(self, data: bytes) -> bytes:
        """Send what is in `data`; what ends the response is kept for the last message: relay closes
        right behind it.
        """
        reader = self._reader
        payload = reader.feed(data)
        while reader.interim:
            await self._hint(reader.interim.pop(0))
        if reader.head is not None and not self._started:
            self._started = True
            fields = [list(field) for field in reader.fields]
            status = reader.head.status
            await self._send({"type": "http.response.start", "status": status, "headers": fields})
        if reader.done and not self._stream.request_unread:
            return payload
        if payload:
            await self._send(_body(payload, more=True))
        return b""

    async def _hint(self, head: ResponseHead) -> None:
        """A 103, where the server can say it; other interim responses have no word in ASGI."""
        if head.status == 103 and "http.response.early_hint" in self._scope.get("extensions", {}):
            links = [value for name, value in head.fields if name == b"link"]
            await self._send({"type": "http.response.early_hint", "links": links})

    # -- the end -----------------------------------------------------------------------------------

    async def _end(self, last: bytes) -> None:
        whole = self._started and self._reader.eof() and await self._read_request()
        if not self._started or self._stream.left:
            return  # nobody is there to be told
        if whole:
            await self._send(_body(last, more=False))
        elif not self._http1:
            await self._cut()

    async def _cut(self) -> None:
        """Let the client see that the response is not whole."""
        if await beyond.reset(self._send, self._timeouts.write):
            return
        head = self._reader.head
        if await self._read_request() and head is not None and head.framing > 0:
            await self._send(_body(b"", more=False))

    async def _read_request(self) -> bool:
        """Throw away what is left of the request. Returns: whether the response may end."""
        stream = self._stream
        if self._http1:
            with trio.move_on_after(LINGER):
                left = LINGER_BYTES
                while left > 0 and stream.request_unread:
                    left -= await stream.skip()
            return True
        while stream.request_unread:
            with trio.move_on_after(self._timeouts.request_body_idle) as patience:
                await stream.skip()
            if patience.cancelled_caught:
                return False
        return True


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
