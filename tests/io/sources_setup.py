"""What the tests of sources stand on: a backend driven by hand, and clients that read events."""

from __future__ import annotations

import json
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from relay.http.bodies import body_reader
from relay.http.framing import CHUNKED
from relay.sse.event import EventParser
from tests.harness import RawPeer, Relay, Upstream

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Asked(NamedTuple):
    """A request that reached the backend, and the connection to answer it on."""

    peer: RawPeer
    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """Method and target."""
        return self.head.partition(b" HTTP/1.1\r\n")[0]

    async def answer(
        self, status: int, body: object = b"", *, kind: str = "application/json", close: bool = True
    ) -> None:
        """A whole response; what is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        head += "Connection: close\r\n\r\n" if close else "\r\n"
        await self.peer.send(head.encode() + data)
        if close:
            self.peer.close()


class Backend:
    """Accepts one connection for each request, unless told that one is reused.

    Resource handling: `close` closes every connection of the test, the clients' too.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.url = upstream.url
        self._peers: list[RawPeer] = []

    async def asked(self, peer: RawPeer | None = None) -> Asked:
        """The next request, on a new connection or on `peer`."""
        if peer is None:
            peer = self.kept(await self.upstream.accept())
        head = await peer.head()
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return Asked(peer, head, await peer.exactly(length))

    def nobody_waits(self) -> bool:
        """Whether no connection is waiting to be accepted."""
        return not select.select([self.upstream.listener.socket], [], [], 0)[0]

    async def post(
        self,
        relay: Relay,
        path: str,
        body: object,
        peer: RawPeer | None = None,
        fields: str = "",
    ) -> RawPeer:
        """A client that has sent a POST; what is not bytes goes as JSON."""
        peer = peer or self.kept(await relay.client())
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: relay.test\r\n{fields}Content-Length: {len(data)}\r\n\r\n"
        await peer.send(head.encode() + data)
        return peer

    def kept(self, peer: RawPeer) -> RawPeer:
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        self.upstream.close()
        for peer in self._peers:
            peer.close()


@asynccontextmanager
async def opened() -> AsyncIterator[Backend]:
    backend = Backend(await Upstream.open())
    try:
        yield backend
    finally:
        backend.close()


class Response:
    """A response as it comes in at the client."""

    def __init__(self, peer: RawPeer, head: bytes) -> None:
        self.peer = peer
        self.head = head
        self.status = int(head.split(b" ", 2)[1])
        self.clean = False  # the last chunk was seen
        self.comments = 0
        self._reader = body_reader(CHUNKED, "upstream")
        self._parser = EventParser(silent=True)
        self._events: list[dict[str, object]] = []

    async def event(self) -> dict[str, object]:
        """The next event's JSON; comments are counted."""
        while not self._events:
            assert await self._more(), "the stream ended before an event"
        return self._events.pop(0)

    async def comment(self) -> None:
        """Wait until one more heartbeat has come than was seen before."""
        seen = self.comments
        while self.comments == seen:
            assert await self._more(), "the stream ended before a heartbeat"

    async def events(self) -> list[dict[str, object]]:
        """All events that are still to come, to the end of the stream, clean or cut."""
        while await self._more():
            pass
        return self._events

    async def json(self) -> object:
        """The body of a response that is no stream."""
        length = int(self.head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return json.loads(await self.peer.exactly(length))

    async def _more(self) -> bool:
        if self._reader.done:
            return False
        data = await self.peer.some()
        if not data:
            return False
        for event in self._parser.feed(self._reader.feed(data)):
            self.comments += len(event.comments)
            if event.data is not None:
                self._events.append(json.loads(event.data))
        if self._reader.done:
            self.clean = True
            self.peer.buffer = self._reader.surplus
        return True


async def response(peer: RawPeer) -> Response:
    return Response(peer, await peer.head())


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
