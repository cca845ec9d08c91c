"""The promise: a relay that is stopped and goes on has cut nobody (test_process_stood_still.py tells why, clock by clock).

A real process gets SIGSTOP for longer than its clocks. Meanwhile everybody else does what it should, so that all of it
lies in the kernel, or in the pipes of the ASGI server, when relay goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.guarantees.relay_processes import upstream
from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Upstream, chunked
from tests.interop.asgi_front import start_plain_front
from tests.interop.processes import Server, start_relay

STREAMS = 70
CLOCK = 3.0  # seconds of every clock: until all is prepared, on two busy cores
STOP = 4.5  # seconds
EVENT = chunked(b"data: here\n\n")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONFIG = """
[server]
listen = "${{LISTEN:-127.0.0.1:0}}"
[timeouts]
connect = "3s"
response_head = "3s"
request_head = "3s"
keep_alive = "3s"
request_body_idle = "3s"
idle = "3s"
write = "3s"
drain = "200ms"
[upstreams.backend]
url = "{url}"
keepalive_idle = "0s"
[upstreams.health]
url = "{health}"
[upstreams.health.health]
interval = "50ms"
timeout = "3s"
fall = 1
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
heartbeat = "off"
[[routes]]
path = "/first"
upstream = "backend"
first_event = "3s"
[[routes]]
path = "/events"
upstream = "backend"
event_idle = "3s"
[[routes]]
path = "/answer"
source = "answer"
[routes.answer]
upstream = "backend"
path = "/"
text = "text"
timeout = "3s"
"""
Scenario = Callable[["Ground"], Awaitable[None]]


class Ground:
    """One relay, its upstreams, and the two moments that all scenarios share."""

    def __init__(self, server: Server, up: Upstream, health: Upstream) -> None:
        self.server = server
        self.up = up
        self.health = health
        self.stopped = trio.Event()  # relay stands still: do now what should not be blamed
        self.woken = trio.Event()  # it goes on
        self.asking = trio.Lock()  # whose request the upstream accepts next
        self._ready = 0
        self._clients: list[RawPeer] = []  # kept, so that `upstream` closes them

    async def prepared(self) -> None:
        """This scenario waits for the stop."""
        self._ready += 1
        await self.stopped.wait()

    async def stop_once(self, scenarios: int) -> None:
        """When all scenarios are prepared: SIGSTOP, the time, SIGCONT."""
        with trio.fail_after(LIMIT):
            while self._ready < scenarios:  # noqa: ASYNC110
                await trio.sleep(0.005)
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        await trio.sleep(0.3)  # the last of what was under way is in the kernel
        self.stopped.set()
        await trio.sleep(STOP)
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        self.woken.set()

    @property
    def pids(self) -> list[int]:
        task = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        return [*map(int, task.read_text().split())] or [self.server.pid]

    async def client(self, data: bytes) -> RawPeer:
        peer = await RawPeer.connect(self.server.port)
        self._clients.append(peer)
        await peer.send(data)
        return peer

    async def ask(self, head: str, body: bytes = b"") -> tuple[RawPeer, RawPeer]:
        """A request, and the upstream's end of it."""
        async with self.asking:
            request = f"{head} HTTP/1.1\r\nHost: relay.test\r\n"
            if body:
                request += "Content-Length: 10\r\n"
            client = await self.client(request.encode() + b"\r\n" + body)
            peer, _ = await self.up.request()
            return client, peer


async def stream(ground: Ground, path: str, first: bytes) -> None:
    client, peer = await ground.ask(f"GET {path}")
    await peer.send(EVENT_HEAD + first)
    await client.until(b"\r\n\r\n" + first)
    await ground.prepared()
    await peer.send(EVENT)
    await ground.woken.wait()
    await client.until(EVENT)
    await peer.send(EVENT + b"0\r\n\r\n")  # and it goes on
    await client.until(EVENT + b"0\r\n\r\n")


async def quiet_stream(ground: Ground) -> None:
    await stream(ground, "/idle", EVENT)


async def first_event(ground: Ground) -> None:
    await stream(ground, "/first", b"")


async def event_idle(ground: Ground) -> None:
    await stream(ground, "/events", EVENT)


async def response_head(ground: Ground) -> None:
    client, peer = await ground.ask("GET /head")
    await ground.prepared()
    await peer.send(OK)
    await ground.woken.wait()
    assert (await client.head()).startswith(b"HTTP/1.1 200")


async def upload(ground: Ground) -> None:
    client, peer = await ground.ask("POST /upload", b"12345")
    await peer.exactly(5)
    await ground.prepared()
    await client.send(b"67890")
    await ground.woken.wait()
    assert await peer.exactly(5) == b"67890"
    await peer.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200")


async def request_head(ground: Ground) -> None:
    client = await ground.client(b"GET /slow HTTP/1.1\r\n")
    await ground.prepared()
    await client.send(b"Host: relay.test\r\n\r\n")
    await served(ground, client)


async def keep_alive(ground: Ground) -> None:
    client, peer = await ground.ask("GET /kept")
    await peer.send(OK)
    await client.until(b"ok")
    peer.close()
    await ground.prepared()
    await client.send(b"GET /again HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    await served(ground, client)


async def served(ground: Ground, client: RawPeer) -> None:
    """A request on its way reaches the upstream, and is answered."""
    await ground.woken.wait()
    async with ground.asking:
        peer, _ = await ground.up.request()
    await peer.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    peer.close()


async def reader(ground: Ground) -> None:
    """1. A client takes no more, until relay's write waits. 2. It reads all that there is."""
    client, peer = await ground.ask("GET /big")
    await peer.send(EVENT_HEAD)
    await client.head()
    piece = chunked(b"data: " + b"x" * 65_000 + b"\n\n")
    sent = 0
    with trio.move_on_after(0.1) as scope:
        while True:
            await peer.stream.send_all(piece[sent % len(piece) :])
            sent += len(piece)
            scope.deadline = trio.current_time() + 0.1
    await ground.prepared()
    with trio.move_on_after(STOP / 2):
        while await client.stream.receive_some(1 << 20):
            pass
    await ground.woken.wait()
    got = 0
    with trio.fail_after(LIMIT):
        while got < 1000:  # what relay still held, so it was not ended
            data = await client.stream.receive_some(1 << 20)
            assert data
            got += len(data)


async def checked(ground: Ground) -> None:
    """A health check is under way."""
    peer, _ = await ground.health.request()
    await ground.prepared()
    await peer.send(OK)
    await ground.woken.wait()
    await ground.health.request()  # the next one: the verdict on the first is out
    assert " is down" not in ground.server.stderr.text


async def answered(ground: Ground) -> None:
    async with ground.asking:
        head = b"POST /answer HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 2\r\n\r\n{}"
        client = await ground.client(head)
        peer, _ = await ground.up.request()
    await ground.prepared()
    await peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"text": "here"}')
    await ground.woken.wait()
    assert b'"complete"' in await client.until(b'"complete"')


OF_ANY: list[Scenario] = [first_event, event_idle, response_head, upload, checked, answered]
OF_RELAY: list[Scenario] = [request_head, keep_alive, reader]  # in an ASGI server they are its own


def started_by_relay(config: str) -> object:
    return start_plain_front(config, "--keep-alive", "3", module="relay.asgi")


@asynccontextmanager
async def grounds(start: Callable[[str], object]) -> AsyncIterator[Ground]:
    async with upstream() as up, upstream() as health:
        with start(CONFIG.format(url=up.url, health=health.url)) as server:  # type: ignore[attr-defined]
            yield Ground(server, up, health)


@pytest.mark.parametrize(
    ("start", "scenarios"),
    [
        (start_relay, OF_ANY + OF_RELAY),
        (start_plain_front, OF_ANY),
        (started_by_relay, [*OF_ANY, keep_alive]),
    ],
    ids=["relay", "asgi", "asgi, started by relay"],
)
async def test_nobody_is_blamed_for_a_stop(
    start: Callable[[str], object], scenarios: list[Scenario]
) -> None:
    scenarios = scenarios + [quiet_stream] * STREAMS
    failed: list[str] = []

    async def run(scenario: Scenario) -> None:
        try:
            await scenario(ground)
        except (Exception, trio.TooSlowError) as error:
            failed.append(f"{scenario.__name__}: {error!r}")

    async with grounds(start) as ground, trio.open_nursery() as nursery:
        nursery.start_soon(ground.stop_once, len(scenarios))
        for scenario in scenarios:
            nursery.start_soon(run, scenario)
    assert not failed
    endings = {record["ending"] for record in ground.server.records if record["at"] == "end"}
    assert endings <= {"complete", "client_left", "upstream_broke", "drained"}
