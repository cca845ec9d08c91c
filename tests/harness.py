"""A relay in the test's own process, between a scripted upstream and a raw client, all on real
loopback sockets.

    client (RawPeer) ──► relay ──► Upstream (accepts; each connection a RawPeer the test drives by
    hand)

Order is forced by what has arrived, never by sleeping: a test reads until it sees something, then
goes on. Every wait is
bounded by LIMIT, so a missing byte is a failure and not a hang.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import trio
import trio.testing

from relay.config import loads
from relay.config.values import Config
from relay.exchange.connection import Connection
from relay.exchange.worker import Worker
from relay.serving.server import Server
from relay.wires import delayed_cut
from relay.wires.stream_wire import StreamWire, close_now

MOMENT = delayed_cut.MOMENT
BRIEF = 0.02  # seconds, instead of it
MemoryPair = tuple[
    trio.StapledStream[Any, Any],
    trio.StapledStream[Any, Any],
]
# Seconds any single wait of a test may take, on cores that are busy with something else
LIMIT = 30.0


class RawPeer:
    """One end of a connection, driven byte by byte."""

    everyone: ClassVar[weakref.WeakSet[RawPeer]] = weakref.WeakSet()

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""
        self.everyone.add(self)

    @classmethod
    def open_now(cls) -> int:
        """How many ends the test itself holds open."""
        streams = [peer.stream for peer in cls.everyone]
        return sum(isinstance(s, trio.SocketStream) and s.socket.fileno() >= 0 for s in streams)

    @classmethod
    def close_all(cls) -> None:
        """Close the ends that are still open, where Trio no longer runs."""
        for peer in list(cls.everyone):
            stream = peer.stream
            if isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
                os.close(stream.socket.detach())

    @classmethod
    async def connect(cls, port: int) -> Self:
        with trio.fail_after(LIMIT):
            return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        with trio.fail_after(LIMIT):
            await self.stream.send_all(data)

    async def until(self, marker: bytes) -> bytes:
        """Everything up to and with `marker`; what is behind it stays for the next read."""
        with trio.fail_after(LIMIT):
            while marker not in self.buffer:
                data = await self.stream.receive_some(65536)
                assert data, f"the connection ended before {marker!r}; got {self.buffer!r}"
                self.buffer += data
        end = self.buffer.index(marker) + len(marker)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        with trio.fail_after(LIMIT):
            while len(self.buffer) < size:
                data = await self.stream.receive_some(65536)
                assert data, f"the connection ended after {len(self.buffer)} of {size} bytes"
                self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    async def some(self) -> bytes:
        """What comes next; b"": the connection has ended, clean or reset."""
        found, self.buffer = self.buffer, b""
        if found:
            return found
        with trio.fail_after(LIMIT):
            try:
                return bytes(await self.stream.receive_some(65536))
            except trio.BrokenResourceError:
                return b""

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, clean or reset."""
        with trio.fail_after(LIMIT):
            try:
                while data := await self.stream.receive_some(65536):
                    self.buffer += data
            except trio.BrokenResourceError:
                pass
        found, self.buffer = self.buffer, b""
        return found

    async def ended(self) -> None:
        """Wait until the other end has closed; anything it says meanwhile is an error."""
        assert await self.rest() == b""

    def half_close(self) -> None:
        self.stream.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.stream.socket.close()

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    def shrink(self) -> None:
        """Make this end's receive buffer small, so that a reader that stops is noticed soon."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


class MemoryPeer(RawPeer):
    """The client's end of an in-memory stream (`Relay.attach`)."""

    stream: trio.StapledStream[Any, Any]  # type: ignore[assignment]

    def half_close(self) -> None:
        close_now(self.stream.send_stream)

    def close(self) -> None:
        close_now(self.stream)

    reset = close

    def shrink(self) -> None:
        raise AssertionError("an in-memory stream has no receive buffer")


class Upstream:
    """A listening socket whose connections the test plays by hand."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.listener = listener
        self.peers: list[RawPeer] = []
        self.port: int = listener.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @classmethod
    async def open(cls) -> Self:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        return cls(listener)

    async def accept(self) -> RawPeer:
        with trio.fail_after(LIMIT):
            peer = RawPeer(await self.listener.accept())
        self.peers.append(peer)
        return peer

    async def next_stream(self) -> trio.SocketStream:
        """The next connection, whenever it comes; it is its taker's to close."""
        return await self.listener.accept()

    async def request(self) -> tuple[RawPeer, bytes]:
        """The next connection, and the request head that came on it."""
        peer = await self.accept()
        return peer, await peer.head()

    def close(self) -> None:
        """Stop listening and close what was accepted."""
        self.listener.socket.close()
        for peer in self.peers:
            peer.close()


class Inventory(NamedTuple):
    """What a relay, and the test's own process, hold at one moment."""

    tasks: int
    connections: int  # client connections
    sockets: int  # on the engine
    streams: int  # exchanges that count against an upstream
    transfers: int  # bodies under way
    descriptors: int


class Relay:
    """A running relay: where it listens, what it logged, what it holds."""

    def __init__(
        self, worker: Worker, server: Server, port: int, log: LogPipe, nursery: trio.Nursery
    ) -> None:
        self._nursery = nursery
        self.worker = worker
        self.server = server
        self.port = port
        self.clients: list[RawPeer] = []
        self.stopped = trio.Event()  # the drain is over
        self.faults: list[logging.LogRecord] = []  # clear it where a fault is expected
        self.log = log

    async def client(self) -> RawPeer:
        peer = await RawPeer.connect(self.port)
        self.clients.append(peer)
        return peer

    def attach(self, pair: MemoryPair) -> MemoryPeer:
        """A client on an in-memory stream: its connection is served like any other."""
        ours, theirs = pair
        wire = StreamWire(theirs, self.worker.alarms)
        connection = Connection(self.worker, wire, "192.0.2.1")
        self._nursery.start_soon(connection.run)
        return MemoryPeer(ours)  # type: ignore[arg-type]

    async def get(self, path: str = "/", fields: str = "") -> RawPeer:
        """A client that has sent a GET."""
        peer = await self.client()
        await peer.send(f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n{fields}\r\n".encode())
        return peer

    async def line(self, **wanted: object) -> dict[str, object]:
        """The next line of the access log (of exchanges that ended, unless `at` says otherwise)."""
        wanted.setdefault("at", "end")
        return await self.log.line(wanted)

    async def lines(self, count: int) -> list[dict[str, object]]:
        return [await self.line() for _ in range(count)]

    async def drained(self) -> None:
        """Stop the relay, and wait until it has."""
        self.server.stop()
        with trio.fail_after(LIMIT):
            await self.stopped.wait()

    def inventory(self) -> Inventory:
        """What is held now. Not counted: idle upstream connections, which are kept on purpose, and
        the test's ends."""
        worker = self.worker
        origins = [origin for group in worker.groups for origin in group.origins]
        idle = sum(len(origin.idle) for origin in origins)
        return Inventory(
            tasks(),
            worker.counters.connections,
            len(worker.engine) - idle,
            sum(origin.streams for origin in origins),
            len(worker.registry),
            descriptors() - idle - RawPeer.open_now(),
        )

    async def nothing_left(self, before: Inventory) -> None:
        """Wait until the relay holds what it held before: no task, socket or descriptor more."""
        with trio.move_on_after(LIMIT):
            while self.inventory() != before:  # noqa: ASYNC110 - no event tells of descriptors
                await trio.sleep(0.001)
        now = self.inventory()
        assert now == before, f"{now} != {before}"


class LogPipe:
    """The reading end of the access log."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._buffer = b""

    async def line(self, wanted: dict[str, object]) -> dict[str, object]:
        with trio.fail_after(LIMIT):
            while True:
                while b"\n" not in self._buffer:
                    await trio.lowlevel.wait_readable(self._read_fd)
                    self._buffer += os.read(self._read_fd, 65536)
                text, _, self._buffer = self._buffer.partition(b"\n")
                line: dict[str, object] = json.loads(text)
                if all(line.get(key) == value for key, value in wanted.items()):
                    return line

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self.fd)


@contextmanager
def no_faults() -> Iterator[list[logging.LogRecord]]:
    """Fail if relay logs an error of its own inside the block; what was logged, for a test that
    wants one."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = seen.append  # type: ignore[assignment,method-assign]
    logger = logging.getLogger("relay")
    logger.addHandler(handler)
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
    assert not seen, [record.getMessage() for record in seen]


@asynccontextmanager
async def running(config: Config | str) -> AsyncIterator[Relay]:
    """A relay with this configuration (TOML text) until the block ends; then it is stopped at once.

    A fault of relay's own, logged with its traceback, fails the test. The moment that a reader gets before a cut is short,
    because some hundred tests cut; how long it is for users, test_delayed_cut shows.
    """
    if isinstance(config, str):
        config = loads(config, {})
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    log = LogPipe()
    relay = None
    delayed_cut.MOMENT = BRIEF  # type: ignore[misc]
    try:
        with no_faults() as faults:
            async with trio.open_nursery() as nursery:
                worker = Worker(config, os.dup(log.fd))
                server = Server(worker, [sock])
                stopped = trio.Event()

                async def serve(task_status: trio.TaskStatus[None]) -> None:
                    await server.run(task_status=task_status)
                    stopped.set()

                await nursery.start(serve)
                relay = Relay(worker, server, sock.getsockname()[1], log, nursery)
                relay.faults = faults
                relay.stopped = stopped
                await trio.testing.wait_all_tasks_blocked()  # all of its own tasks have started
                yield relay
                nursery.cancel_scope.cancel()
    finally:
        delayed_cut.MOMENT = MOMENT  # type: ignore[misc]
        log.close()
        sock.close()
        if relay is not None:
            for client in relay.clients:
                client.close()


@asynccontextmanager
async def scene(
    route: str = "", *, more: str = "", upstream_keys: str = ""
) -> AsyncIterator[tuple[Relay, Upstream]]:
    """A relay with one catch-all route, and the upstream behind it."""
    upstream = await Upstream.open()
    try:
        config = route_to(upstream, route, more=more, upstream_keys=upstream_keys)
        async with running(config) as relay:
            yield relay, upstream
    finally:
        upstream.close()


def route_to(
    upstream: Upstream | str, route: str = "", *, more: str = "", upstream_keys: str = ""
) -> str:
    """TOML of a relay with one catch-all route to `upstream`; `route` and `more` are further
    lines."""
    url = upstream if isinstance(upstream, str) else upstream.url
    return f"""
{more}
[upstreams.backend]
url = "{url}"
{upstream_keys}
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
{route}
"""


async def settle(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; bounded by LIMIT."""
    with trio.fail_after(LIMIT):
        while not condition():  # noqa: ASYNC110 - conditions of any kind
            await trio.sleep(0.001)


def descriptors() -> int:
    """How many file descriptors this process has."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def chunked(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in payloads)


EVENT_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
