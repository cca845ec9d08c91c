"""The response on its way to the ASGI server, event by event, and its end.

    whole      the last http.response.body, with more_body False, once the request body is read
    not whole  HTTP/1.1: stop; the server closes the connection without the last chunk
               (a moment later, so that the client can read what says why: see wires.delayed_cut)
               HTTP/2, HTTP/3: a reset, where the server can be asked for one; otherwise an end
               before the length that was said, which clients must refuse (RFC 9113 §8.1.1);
               otherwise stop

Why the request body is read to its end: Hypercorn 0.18 ends its whole process when a client goes
on uploading on an HTTP/2 stream that was answered; under HTTP/1.1 it closes the connection, and
the reset for unread bytes could destroy the answer on its way (RFC 9112 §9.6).
"""

from __future__ import annotations

from contextlib import suppress
from math import inf

import trio

from relay.asgi.hypercorn_hooks import LOOK, PIECE, HypercornHooks
from relay.asgi.request import Message, Scope, Send
from relay.asgi.response import ResponseReader
from relay.asgi.stream import RequestStream
from relay.exchange.connection import LINGER
from relay.exchange.worker import Worker
from relay.http.heads import ResponseHead
from relay.wires.delayed_cut import MOMENT
from relay.wires.stream_wire import StreamWire


class Answering:
    """One response, from the stream to `send`. `run` or `answer` lasts until it is over, or until
    the client has left.
    """

    __slots__ = (
        "_handed",
        "_hooks",
        "_http1",
        "_piece",
        "_reader",
        "_scope",
        "_send",
        "_stream",
        "_telling",
        "_wire",
        "_worker",
    )

    def __init__(
        self,
        wire: StreamWire,
        stream: RequestStream,
        method: bytes,
        scope: Scope,
        send: Send,
        worker: Worker,
    ) -> None:
        """wire: relay's end of `stream`."""
        self._wire = wire
        self._stream = stream
        stream.taken = self._taken
        self._reader = ResponseReader(method)
        self._scope = scope
        self._send = send
        self._worker = worker
        self._handed = 0  # messages that the server has taken
        self._telling = False  # a message is being handed over just now
        self._http1 = scope["http_version"].startswith("1")
        self._hooks = HypercornHooks(send)
        self._piece = PIECE if self._hooks.taken() is None else None

    async def run(self, response: bytes | None = None) -> None:
        """Pass on what relay writes until it closes; or this whole response, where there is no
        relay behind the stream. Cancellation: the caller leaves the stream.
        """
        if await self._hooks.lost():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._bound)
            if self._hooks.silent:
                nursery.start_soon(self._look)
            with suppress(OSError):  # ASGI: the client is gone
                if response is None:
                    await self._relay()
                else:
                    await self._end(await self._pass_on(response))
            nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        """Hear when the client leaves, or the server gives the request up, and let relay know: a
        send that is under way may not return for a long time.
        """
        try:
            await self._stream.read()
        finally:
            self._stream.leave()
        await self._hooks.release()

    async def _look(self) -> None:
        """The same for HTTP/3, where Hypercorn never tells."""
        while not self._hooks.gone:  # noqa: ASYNC110 - there is no event
            await trio.sleep(LOOK)
        self._stream.leave()

    async def _bound(self) -> None:
        """When relay is done, end a client that has stopped taking what is still on its way to it:
        nothing cancels a send. Until then relay itself bounds it.
        """
        await self._stream.closed.wait()
        over = self._wire.stalled
        while not over:
            before = self._taken()
            await trio.sleep(self._write)
            over = self._telling and self._taken() == before
        if self._http1:
            self._hooks.drop()
        elif await self._hooks.reset(0):
            await self._hooks.release()

    @property
    def _write(self) -> float:
        """Seconds that a write may stay without progress: the route's, once there is one."""
        within = self._wire.write_within
        return within if within != inf else self._worker.config.timeouts.write

    def _taken(self) -> object:
        """See wires.stream_wire."""
        return self._handed, self._hooks.taken()

    async def _tell(self, message: Message) -> None:
        if self._hooks.gone:  # sending to it would be an error
            raise BrokenPipeError
        self._telling = True
        await self._send(message)
        self._telling = False
        self._handed += 1

    async def _relay(self) -> None:
        last = b""
        while data := await self._stream.outgoing():
            last = await self._pass_on(data)
            if self._hooks.crowded:
                await self._room()
        await self._end(last)

    async def _tell_body(self, payload: bytes) -> bytes:
        """Hand the body over, in pieces where a large one could wait without a sign of progress.
        Returns: the last piece, which is still to be told.
        """
        size = self._piece or len(payload)
        while len(payload) > size:
            await self._tell(_body(payload[:size], more=True))
            payload = payload[size:]
        return payload

    async def _pass_on(self, data: bytes) -> bytes:
        """Send what is in `data`. Returns: what ends the response, if it may end now; relay closes
        right behind it.
        """
        reader = self._reader
        started = reader.head is not None
        payload = reader.feed(data)
        while reader.interim:
            await self._hint(reader.interim.pop(0))
        if reader.head is not None and not started:
            fields = [list(field) for field in reader.fields]
            status = reader.head.status
            await self._tell({"type": "http.response.start", "status": status, "headers": fields})
        payload = await self._tell_body(payload)
        if reader.done and self._stream.complete.is_set():
            return payload
        if payload:
            await self._tell(_body(payload, more=True))
        return b""

    async def _hint(self, head: ResponseHead) -> None:
        """A 103, where the server can say it; other interim responses have no word in ASGI."""
        if head.status == 103 and "http.response.early_hint" in self._scope.get("extensions", {}):
            links = [value for name, value in head.fields if name == b"link"]
            await self._tell({"type": "http.response.early_hint", "links": links})

    async def _room(self) -> None:
        """Wait for a client that reads more slowly, but no longer than relay does."""
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await self._stream.closed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            await self._hooks.room()
            nursery.cancel_scope.cancel()

    # -- the end -----------------------------------------------------------------------------------

    async def _end(self, last: bytes) -> None:
        if self._reader.head is None or self._stream.left:
            return  # nobody is there to be told
        if self._reader.eof() and await self._request_read():
            if self._hooks.finishes:
                await self._tell(_body(last, more=True))
                await self._hooks.finish()
            else:
                await self._tell(_body(last, more=False))
        elif not self._stream.left:
            await self._cut()

    async def _cut(self) -> None:
        """Let the client see that the response is not whole, once it has had the time to read."""
        if self._http1:
            await trio.sleep(MOMENT)
            return
        if await self._hooks.reset(self._write):
            if self._hooks.silent:  # HTTP/3 lets an upload go on
                await self._request_read()
            return
        head = self._reader.head
        if await self._request_read() and head is not None and head.framing > 0:
            await self._tell(_body(b"", more=False))

    async def _request_read(self) -> bool:
        """Wait for the rest of the request. Returns: whether the response may end."""
        idle = self._worker.config.timeouts.request_body_idle
        with self._worker.alarms.within(LINGER if self._http1 else idle):
            await self._stream.complete.wait()
        return (self._http1 or self._stream.complete.is_set()) and not self._stream.left


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
