"""A relay with one resumable route, the upstream behind it, and readers that tell events apart."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from itertools import cycle
from typing import NamedTuple

import pytest
import trio

from relay.feeds.run import Run
from relay.http.bodies import ChunkReader
from relay.sse.event import Event, EventParser
from tests.guarantees.redis_server import shared_redis
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, running

ROUTE = """
[upstreams.backend]
url = "{url}"
keepalive_idle = "0s"
[[routes]]
path = "{path}"
methods = ["{method}"]
upstream = "backend"
heartbeat = "off"
{route}
[routes.resume]
{resume}
{more}
"""
CHAT = 'principal = "{cookie.user}"\nkey = "{body.id}"\nat = "/chat/{key}/stream"\n'
LOGS = 'principal = "public"\nkey = "{id}"\nat = "/at/{key}"\n'
OURS = re.compile(r"([A-Za-z0-9_-]{22})-(\d+|end)")


class Answer(NamedTuple):
    """A response head."""

    status: int
    fields: dict[str, str]


class Reader:
    """A client of a stream: its head, its events as they come, and how it ended."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.status = 0
        self.fields: dict[str, str] = {}
        self.events: list[Event] = []
        self.ids: list[str] = []
        self.payload = b""
        self.ended: str | None = None  # "clean" | "cut"
        self._chunks = ChunkReader("upstream")
        self._parser = EventParser()

    async def head(self) -> Answer:
        raw = (await self.peer.head()).decode("latin-1")
        first, *lines = raw.rstrip("\r\n").split("\r\n")
        self.status = int(first.split()[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.fields[name.lower()] = value.strip()
        return Answer(self.status, self.fields)

    async def body(self) -> bytes:
        """The body of an answer that is no stream."""
        return await self.peer.exactly(int(self.fields.get("content-length", 0)))

    async def some(self) -> None:
        """What comes next."""
        data = await self.peer.some()
        if not data:
            self.ended = "cut"
            return
        payload = self._chunks.feed(data)
        self.payload += payload
        for event in self._parser.feed(payload):
            self.events.append(event)
            self.ids.append(event.id if event.id is not None else self.ids[-1] if self.ids else "")
        if self._chunks.done:
            self.ended = "clean"

    async def until(self, count: int) -> list[Event]:
        """The first `count` events."""
        while len(self.events) < count:
            await self.some()
            assert self.ended is None or len(self.events) >= count, (self.ended, self.events)
        return self.events[:count]

    async def rest(self) -> list[Event]:
        """All events, to the end."""
        while self.ended is None:
            await self.some()
        return self.events

    @property
    def data(self) -> list[str]:
        return [event.data or "" for event in self.events]

    @property
    def codes(self) -> list[str]:
        """The codes, or types, of what relay said itself."""
        out = []
        for event in self.events:
            if event.data and event.data.startswith('{"type"'):
                value = json.loads(event.data)
                out.append(value.get("code", value["type"]))
        return out

    @property
    def run(self) -> str:
        return self.fields["relay-run"]

    def close(self) -> None:
        self.peer.close()


class Ground:
    """The relay and its upstream. With several relays over one store each request goes to the next of them."""

    def __init__(self, relays: list[Relay], upstream: Upstream) -> None:
        self.relay = relays[0]
        self.relays = relays
        self.upstream = upstream
        self._next = cycle(relays)

    @property
    def runs(self) -> list[Run]:
        """Of all relays, those that they own."""
        return [run for relay in self.relays for run in relay.worker.feeds.book.runs]

    @property
    def streams(self) -> int:
        """Runs under way."""
        return sum(len(relay.worker.feeds) for relay in self.relays)

    async def line(self, **wanted: object) -> dict[str, object]:
        """The next line of the access logs that is wanted."""
        found: list[dict[str, object]] = []
        async with trio.open_nursery() as nursery:

            async def look(relay: Relay) -> None:
                found.append(await relay.line(**wanted))
                nursery.cancel_scope.cancel()

            for relay in self.relays:
                nursery.start_soon(look, relay)
        return found[0]

    async def ask(
        self,
        method: str = "GET",
        path: str = "/logs/7",
        *,
        body: bytes | None = None,
        cursor: str | None = None,
        user: str | None = "ann",
        fields: str = "",
        at: int | None = None,
    ) -> Reader:
        """A client that has sent a request."""
        lines = f"{method} {path} HTTP/1.1\r\nHost: relay.test\r\n{fields}"
        if user is not None:
            lines += f"Cookie: user={user}\r\n"
        if cursor is not None:
            lines += f"Last-Event-ID: {cursor}\r\n"
        if body is not None:
            lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        relay = next(self._next) if at is None else self.relays[at]
        peer = await relay.client()
        await peer.send(lines.encode("latin-1") + b"\r\n" + (body or b""))
        return Reader(peer)

    async def read(self, *args: str, **more: object) -> Reader:
        """The same, with its head read."""
        reader = await self.ask(*args, **more)  # type: ignore[arg-type]
        await reader.head()
        return reader

    async def taken(self) -> tuple[RawPeer, bytes]:
        """The next request at the upstream, its body read."""
        peer, head = await self.upstream.request()
        if size := re.search(rb"content-length: (\d+)", head.lower()):
            await peer.exactly(int(size[1]))
        return peer, head

    async def begun(self, *args: str, **more: object) -> tuple[Reader, RawPeer]:
        """A run under way: its first reader, and the upstream's end."""
        reader = await self.ask(*args, **more)  # type: ignore[arg-type]
        peer, _ = await self.taken()
        await peer.send(EVENT_HEAD)
        await reader.head()
        return reader, peer


def event(text: str | int) -> bytes:
    return chunked(f"data: {text}\n\n".encode())


@asynccontextmanager
async def ground(
    resume: str = LOGS,
    *,
    path: str = "/logs/{id}",
    method: str = "GET",
    route: str = "",
    more: str = "",
    server: str = "",
) -> AsyncIterator[Ground]:
    upstream = await Upstream.open()
    try:
        async with AsyncExitStack() as stack:
            if kept.relays:
                if "[streams]" not in server:
                    server += "[streams]\n"
                if kept.redis:
                    where = f'store = "{kept.redis}"\nprefix = "{secrets.token_hex(8)}:"'
                else:
                    directory = stack.enter_context(tempfile.TemporaryDirectory())
                    where = f'store = "dir:{directory}/kept"'
                server = server.replace("[streams]", f"[streams]\n{where}")
            config = server + ROUTE.format(
                url=upstream.url, path=path, method=method, route=route, resume=resume, more=more
            )
            relays = [
                await stack.enter_async_context(running(config)) for _ in range(kept.relays or 1)
            ]
            yield Ground(relays, upstream)
    finally:
        upstream.close()


class Kept:
    """Where the grounds of this test keep their streams: 0 in memory, else as many relays over one directory, or Redis."""

    relays = 0
    redis = ""


kept = Kept()
STORES = {"memory": 0, "dir": 1, "two relays": 2, "redis": 2}


# Marks of tests that use a fixture `store`, which calls `keeping`.
ONE_PROCESS = pytest.mark.parametrize("store", ["memory", "dir"], indirect=True)
MEMORY = pytest.mark.parametrize("store", ["memory"], indirect=True)  # looks into the book of runs


@contextmanager
def keeping(where: str) -> Iterator[None]:
    kept.relays = STORES[where]
    kept.redis = shared_redis().url if where == "redis" else ""
    try:
        yield
    finally:
        kept.relays = 0
        kept.redis = ""


def chat(resume: str = "", **more: str) -> AbstractAsyncContextManager[Ground]:
    """A ground whose streams are a user's chats, begun by POST."""
    return ground(CHAT + resume, path="/chat", method="POST", **more)
