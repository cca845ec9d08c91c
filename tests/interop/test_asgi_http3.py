"""relay inside Hypercorn over HTTP/3, where aioquic is installed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.interop import origin as bytes_of
from tests.interop.asgi_front import Broken, Front, start_front
from tests.interop.processes import Server, free_port, start_hypercorn, wait_until
from tests.interop.reading import calls

aioquic = pytest.importorskip("aioquic", reason="HTTP/3 needs aioquic")

from aioquic.asyncio.client import connect  # noqa: E402
from aioquic.asyncio.protocol import QuicConnectionProtocol  # noqa: E402
from aioquic.h3.connection import H3Connection  # noqa: E402
from aioquic.h3.events import DataReceived, HeadersReceived  # noqa: E402
from aioquic.quic.configuration import QuicConfiguration  # noqa: E402
from aioquic.quic.events import StreamReset  # noqa: E402

LIMIT = 60.0  # seconds for one test's client, on cores that are busy with something else
REQUEST_CANCELLED = 0x10C  # RFC 9114 §8.1: what a browser says
INTERNAL_ERROR = 0x102
CONFIG = """
[server]
access_log = "stdout"
[upstreams.origin]
url = "{origin}"
[upstreams.broken]
url = "{broken}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
[[routes]]
path = "/broken/{{rest...}}"
upstream = "broken"
upstream_path = "/{{rest}}"
"""
BROKEN = {
    b"/events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n11\r\ndata: 1\n\ndata: ha\r\n"
}


class Client(QuicConnectionProtocol):
    """One HTTP/3 connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._news = asyncio.Event()
        self.status: dict[int, bytes] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        for found in self._http.handle_event(event):
            if isinstance(found, HeadersReceived):
                self.status[found.stream_id] = dict(found.headers)[b":status"]
            elif isinstance(found, DataReceived):
                self.bodies[found.stream_id] += found.data
            if getattr(found, "stream_ended", False):
                self.ended.add(found.stream_id)  # type: ignore[attr-defined]
        self._news.set()

    def request(self, path: str | bytes, body: bytes | None = None) -> int:
        stream = self._quic.get_next_available_stream_id()
        method = b"GET" if body is None else b"POST"
        fields = [(b":method", method), (b":scheme", b"https"), (b":authority", b"localhost")]
        raw = path.encode() if isinstance(path, str) else path
        self._http.send_headers(stream, [*fields, (b":path", raw)], body is None)
        if body is not None:
            self._http.send_data(stream, body, True)
        self.bodies[stream] = b""
        self.transmit()
        return stream

    def leave(self, stream: int) -> None:
        self._quic.stop_stream(stream, REQUEST_CANCELLED)
        self.transmit()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()


Play = Callable[[Client], Coroutine[Any, Any, None]]


def play(front: Front, script: Play) -> None:
    """Run a script with a connection of its own, which is closed behind it."""
    settings = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, server_name="localhost"
    )
    port = int(front.options["--quic-bind"].rpartition(":")[2])

    async def run() -> None:
        async with connect(
            "127.0.0.1", port, configuration=settings, create_protocol=Client
        ) as client:
            async with asyncio.timeout(LIMIT):  # inside: a client that failed is closed whole
                await script(client)  # type: ignore[arg-type]

    asyncio.run(run())


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def front(origin: Server) -> Iterator[Front]:
    broken = Broken(BROKEN)
    config = CONFIG.format(origin=origin.url, broken=broken.url)
    with start_front(config, "--quic-bind", f"127.0.0.1:{free_port()}") as running:
        yield running
    broken.close()


def nothing_runs(origin: Server) -> None:
    wait_until(
        "nothing runs", lambda: all(call["state"] != "running" for call in calls(origin, "/events"))
    )


def test_twenty_streams_one_left_and_the_connection_closed(front: Front, origin: Server) -> None:
    async def script(client: Client) -> None:
        streams = [client.request("/events?every=200") for _ in range(20)]

        def enough(body: bytes) -> bool:
            return body.count(b"\n\n") >= 5

        await client.until(lambda: all(enough(client.bodies[stream]) for stream in streams))
        client.leave(streams[0])
        client.bodies[streams[1]] = b""
        await client.until(lambda: enough(client.bodies[streams[1]]))
        await asyncio.to_thread(
            front.wait_for_record, at="end", path="/events", ending="client_left"
        )

    play(front, script)
    nothing_runs(origin)
    assert "Traceback" not in front.server.stderr.text, front.server.stderr.text


def test_a_cut_stream_is_reset(front: Front) -> None:
    async def script(client: Client) -> None:
        stream = client.request("/broken/events")
        await client.until(lambda: stream in client.resets)
        assert client.resets[stream] == INTERNAL_ERROR
        assert stream not in client.ended
        assert client.bodies[stream].startswith(b"data: 1\n\ndata: {")

    play(front, script)


def test_bodies_both_ways(front: Front) -> None:
    size = 3_000_000

    async def script(client: Client) -> None:
        up = client.request("/digest", b"".join(bytes_of.big(300_000)))
        down = client.request(f"/big?{size}")
        await client.until(lambda: {up, down} <= client.ended)
        assert client.status[up] == b"200"
        assert b'"size": 300000' in client.bodies[up]
        assert len(client.bodies[down]) == size

    play(front, script)


def test_an_early_answer(front: Front) -> None:
    async def script(client: Client) -> None:
        stream = client.request("/early", b"".join(bytes_of.big(500_000)))
        await client.until(lambda: stream in client.ended)
        assert client.status[stream] == b"413"
        hello = client.request("/hello")
        await client.until(lambda: hello in client.ended)

    play(front, script)


def test_what_one_connection_sends_ends_that_one_alone(origin: Server) -> None:
    """In a server that relay starts: HTTP/3 is one task for all connections, and bare Hypercorn ends with it."""
    port = free_port()
    options = ("--quic-bind", f"127.0.0.1:{port}")
    config = CONFIG.format(origin=origin.url, broken=origin.url)
    with start_front(config, *options, module="relay.asgi") as front:

        async def attack(client: Client) -> None:
            client.request(b"/\xff")
            await client.wait_closed()

        async def read(client: Client) -> None:
            stream = client.request("/events?every=10")
            await client.until(lambda: client.bodies[stream].count(b"\n\n") > 2)
            for _ in range(3):
                await asyncio.to_thread(play, front, attack)
            client.bodies[stream] = b""
            await client.until(lambda: client.bodies[stream].count(b"\n\n") > 2)

        play(front, read)
        assert front.server.process.poll() is None
