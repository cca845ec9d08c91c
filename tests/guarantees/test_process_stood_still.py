"""The promise: a process that stood still blames nobody for it. Whatever the clock, what had come by the time it went
on counts, and the time it stood still is not the others'.

1. Relay waits for somebody, and a clock runs. 2. It stands still: SIGSTOP, a frozen container, a paused machine; here
a clock that jumps, in test_process_stopped.py a real SIGSTOP. 3. Meanwhile the other one does what it should: the bytes
lie in the kernel. 4. Relay goes on.

Two lengths: far longer than the clock, and so short that the clock is only just missed, which nothing can tell from a
busy machine.
"""

from __future__ import annotations

import os
import socket
import ssl
from math import inf
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.config.values import HealthCheck
from relay.upstreams.group import Group
from relay.upstreams.health import check
from relay.upstreams.origin import Origin
from relay.wires.alarms import LOOK
from tests.guarantees.resume_setup import LOGS, Reader, event, ground
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, running, scene
from tests.io.sources_setup import opened
from tests.io.test_sources_answer import ASK, pipeline
from tests.io.upstreams_setup import data_plane, http, upstream

MANY = 10  # of each: Trio runs what is ready in any order
CLOCK = 1.0  # seconds: every clock of these tests
EVENT = chunked(b"data: here\n\n")
POST = b"POST / HTTP/1.1\r\nHost: relay.test\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def now(peer: RawPeer, data: bytes) -> None:
    """Into the kernel, without a turn for anybody."""
    assert os.write(peer.stream.socket.fileno(), data) == len(data)


class Time:
    """Virtual time. From deadline to deadline while the process runs; it jumps where the process stands still."""

    def __init__(self, clock: MockClock, short: bool) -> None:
        self._clock = clock
        self._short = short

    async def quiet(self) -> None:
        for _ in range(3):
            await wait_all_tasks_blocked(0.002)

    async def passes(self, seconds: float) -> None:
        await self.quiet()
        self._clock.autojump_threshold = 0.001
        await trio.sleep(seconds)
        self._clock.autojump_threshold = inf
        await self.quiet()

    async def almost(self) -> None:
        """Let the clocks run, for a short stop until just before they ring."""
        await self.quiet()
        if self._short:
            await self.passes(CLOCK - 0.03)

    async def stop(self) -> None:
        """The process stands still until after the clocks."""
        self._clock.jump(0.05 if self._short else 2.5 * CLOCK)
        await self.quiet()
        await self.passes(LOOK * 2)
        self._clock.autojump_threshold = 0.5  # what does not come now never does, and LIMIT says so


@pytest.fixture(params=["short", "long"])
def time(request: pytest.FixtureRequest, mock_clock: MockClock) -> Time:
    return Time(mock_clock, request.param == "short")


def times(**seconds: str) -> str:
    return "[timeouts]\n" + "".join(f'{key} = "{value}"\n' for key, value in seconds.items())


async def streams(relay: Relay, up: Upstream, first: bytes) -> list[tuple[RawPeer, RawPeer]]:
    """MANY event streams under way: the clients, and the upstream's ends."""
    pairs = []
    for _ in range(MANY):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + first)
        await client.until(b"\r\n\r\n" + first)
        pairs.append((client, peer))
    return pairs


@pytest.mark.parametrize(
    ("route", "first"),
    [
        ('timeouts = { idle = "1s" }', EVENT),
        ('first_event = "1s"', b""),
        ('event_idle = "1s"', EVENT),
    ],
    ids=["idle", "first event", "event idle"],
)
async def test_streams(mock_clock: MockClock, time: Time, route: str, first: bytes) -> None:
    async with scene(route + '\nheartbeat = "off"') as (relay, up):
        pairs = await streams(relay, up, first)
        await time.almost()
        for _, peer in pairs:
            now(peer, EVENT)
        await time.stop()
        for client, _ in pairs:
            assert await client.until(EVENT) == EVENT
        assert all(transfer.ending is None for transfer in relay.worker.registry)
        assert len(relay.worker.registry) == MANY


@pytest.mark.parametrize("heartbeat", ["off", "300ms"])
async def test_a_silent_stream_still_ends(mock_clock: MockClock, heartbeat: str) -> None:
    """The stop costs the clock no more than its own time."""
    time = Time(mock_clock, short=False)
    route = f'timeouts = {{ idle = "1s" }}\nheartbeat = "{heartbeat}"'
    async with scene(route) as (relay, up):
        pairs = await streams(relay, up, EVENT)
        await time.stop()
        assert len(relay.worker.registry) == MANY
        await time.passes(CLOCK)
        for client, _ in pairs:
            assert b"upstream_silent" in await client.rest()


async def test_a_stop_after_the_other_is_no_way_to_live_for_ever(mock_clock: MockClock) -> None:
    time = Time(mock_clock, short=False)
    async with scene('timeouts = { idle = "1s" }') as (relay, up):
        [(client, _), *_] = await streams(relay, up, EVENT)
        for _ in range(12):
            await time.stop()
        assert b"upstream_silent" in await client.rest()


async def test_the_response_head(mock_clock: MockClock, time: Time) -> None:
    async with scene(more=times(response_head="1s")) as (relay, up):
        pairs = []
        for _ in range(MANY):
            client = await relay.get()
            pairs.append((client, (await up.request())[0]))
        await time.almost()
        for _, peer in pairs:
            now(peer, OK)
        await time.stop()
        for client, _ in pairs:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert all(state.up and not state.failures for state in relay.worker.url_states())


@pytest.mark.parametrize("big", [False, True], ids=["kept", "unseen"])
async def test_an_upload(mock_clock: MockClock, time: Time, big: bool) -> None:
    """`big`: past what is kept for a second attempt, so that the rest passes without being seen."""
    sent = 100_000 if big else 1
    async with scene(more=times(request_body_idle="1s")) as (relay, up):
        pairs = []
        for _ in range(MANY):
            client = await relay.client()
            await client.send(POST % (sent + 5) + bytes(sent))
            peer, _ = await up.request()
            await peer.exactly(sent)
            pairs.append((client, peer))
        await time.almost()
        for client, _ in pairs:
            now(client, b"12345")
        await time.stop()
        for client, peer in pairs:
            assert await peer.exactly(5) == b"12345"
            await peer.send(OK)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_the_least_rate_of_an_upload(mock_clock: MockClock) -> None:
    time = Time(mock_clock, short=False)
    async with scene(more='[limits]\nrequest_body_rate = "1KiB/s"') as (relay, up):
        client = await relay.client()
        await client.send(POST % 20_000)
        peer, _ = await up.request()
        for _ in range(4):
            now(client, bytes(4000))
            await time.stop()
            await peer.exactly(4000)
        await client.send(bytes(4000))
        await peer.exactly(4000)


@pytest.mark.parametrize("served", [False, True], ids=["a head", "keep-alive"])
async def test_requests(mock_clock: MockClock, time: Time, served: bool) -> None:
    async with scene(more=times(request_head="1s", keep_alive="1s")) as (relay, up):
        clients = []
        for _ in range(MANY):
            client = await relay.client()
            clients.append(client)
            if served:
                await client.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
                peer, _ = await up.request()
                await peer.send(OK + b"")
                await client.until(b"ok")
                peer.close()
            else:
                await client.send(b"GET / HTTP/1.1\r\n")
        await time.almost()
        for client in clients:
            if served:
                now(client, b"GET / HTTP/1.1\r\n")
            now(client, b"Host: relay.test\r\n\r\n")
        await time.stop()
        for _ in clients:
            peer, _ = await up.request()
            await peer.send(OK)
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("kind", ["events", "bytes"])
async def test_a_client_that_reads_again(mock_clock: MockClock, time: Time, kind: str) -> None:
    """1. The client takes no more. 2. While relay stands still it reads all that the kernel has."""
    async with scene(more=times(write="1s")) as (relay, up):
        client = await relay.client()
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        await client.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        peer, _ = await up.request()
        if kind == "events":
            await peer.send(EVENT_HEAD)
            piece = chunked(b"data: " + b"x" * 60_000 + b"\n\n")
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            piece = bytes(60_000)
        await client.head()
        [transfer] = relay.worker.registry
        while not transfer.paused:
            await peer.send(piece)
            await time.quiet()
        await time.almost()
        read_all(client)
        await time.stop()
        read_all(client)
        await time.passes(CLOCK / 2)
        assert transfer.ending is None


def read_all(client: RawPeer) -> None:
    try:
        while os.read(client.stream.socket.fileno(), 1 << 20):
            pass
    except BlockingIOError:
        pass


async def test_a_connection(mock_clock: MockClock, time: Time, tmp_path: Path) -> None:
    """A unix socket's queue is full, and nothing tells when it is not: it has to be tried."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "up"))
    listener.listen(0)
    filler = socket.socket(socket.AF_UNIX)
    filler.connect(str(tmp_path / "up"))
    config = f"""
{times(connect="1s")}
[upstreams.backend]
url = "unix:{tmp_path}/up"
[[routes]]
path = "/"
upstream = "backend"
"""
    async with running(config) as relay:
        client = await relay.get()
        await time.almost()
        accepted, _ = listener.accept()
        await time.stop()
        ours, _ = listener.accept()
        peer = RawPeer(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        await peer.head()
        await peer.send(OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert all(not state.failures for state in relay.worker.url_states())
        for sock in (accepted, filler, listener, ours):
            sock.close()


async def test_a_tls_handshake(mock_clock: MockClock, tmp_path: Path) -> None:
    """TLS 1.2 needs one more round trip after what lies in the kernel: the stop must not have eaten its time."""
    time = Time(mock_clock, short=False)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("127.0.0.1").configure_cert(context)
    up = await Upstream.open()
    keys = f'tls_ca = "{tmp_path}/ca.pem"'
    config = f"""
{times(connect="1s")}
[upstreams.backend]
url = "https://127.0.0.1:{up.port}"
{keys}
[[routes]]
path = "/"
upstream = "backend"
"""
    async with running(config) as relay:
        client = await relay.get()
        peer = await up.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(await peer.stream.receive_some(65536))
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        await time.almost()
        now(peer, outgoing.read())
        await time.stop()
        for step in (tls.do_handshake, tls.read):
            while True:
                try:
                    done = step()
                    break
                except ssl.SSLWantReadError:
                    now(peer, outgoing.read())
                    incoming.write(await peer.stream.receive_some(65536))
        assert done
        assert done.startswith(b"GET / HTTP/1.1\r\n")
        tls.write(OK)
        now(peer, outgoing.read())
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert all(not state.failures for state in relay.worker.url_states())
    up.close()


async def test_a_health_check(mock_clock: MockClock, time: Time) -> None:
    changes: list[bool] = []
    up = await Upstream.open()
    async with data_plane() as plane:
        settings = HealthCheck(interval=100.0, timeout=CLOCK, fall=1)
        group = Group(upstream(http(up.port), health=settings), plane.engine, plane.alarms)

        def report(_: Origin, is_up: bool, __: str) -> None:
            changes.append(is_up)

        plane.nursery.start_soon(check, group, report)
        peer, _ = await up.request()
        await time.almost()
        now(peer, OK)
        await time.stop()
        assert changes == []
        assert group.up(trio.current_time())
        group.close()
    up.close()


async def test_an_answer_of_several_steps(mock_clock: MockClock, time: Time) -> None:
    """source = "answer": one deadline for the dial, the head and the last byte."""
    async with opened() as backend, running(pipeline(backend.url, 'timeout = "1s"')) as relay:
        client = await backend.post(relay, "/ask", ASK)
        asked = await backend.asked()
        await time.almost()
        body = b'{"response": "because"}'
        now(asked.peer, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await time.stop()
        assert b'"complete"' in await client.until(b'"complete"')


async def test_another_try_before_the_first_event(mock_clock: MockClock, time: Time) -> None:
    async with scene('retries = 1\nfirst_event = "1s"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        await time.almost()
        now(peer, EVENT)
        await time.stop()
        await client.until(EVENT)
        assert all(not state.failures for state in relay.worker.url_states())


async def test_a_tunnel(mock_clock: MockClock, time: Time) -> None:
    async with scene(more=times(idle="1s")) as (relay, up):
        client = await relay.get("/", "Connection: upgrade\r\nUpgrade: websocket\r\n")
        peer, _ = await up.request()
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
        await peer.send(switch + b"Upgrade: websocket\r\n\r\n")
        await client.head()
        await time.almost()
        now(client, b"up")
        await time.stop()
        assert await peer.exactly(2) == b"up"
        await peer.send(b"down")
        assert await client.exactly(4) == b"down"


async def test_a_run_whose_reader_comes_back(mock_clock: MockClock, time: Time) -> None:
    """Its connection waits in the listen queue while the time without a reader runs out."""
    async with ground(LOGS + 'unwatched = "1s"\n') as g:
        reader, peer = await g.begun("GET", "/logs/7")
        await peer.send(event(1))
        await reader.until(1)
        reader.close()
        await time.almost()
        back = socket.create_connection(("127.0.0.1", g.relay.port))
        back.sendall(b"GET /logs/7 HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        await time.stop()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(back))
        again = Reader(RawPeer(stream))
        await again.head()
        assert again.run == reader.run
        await peer.send(event(2) + b"0\r\n\r\n")
        assert [found.data for found in await again.rest()] == ["1", "2"]
        again.close()


async def test_a_viewer_that_reads_again(mock_clock: MockClock, time: Time) -> None:
    async with ground(LOGS, route='timeouts = { write = "1s" }') as g:
        reader = await g.ask("GET", "/logs/7")
        client = reader.peer
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        peer, _ = await g.taken()
        await peer.send(EVENT_HEAD)
        await reader.head()
        [viewer] = g.relay.worker.registry
        while not viewer.paused:
            await peer.send(chunked(b"data: " + b"x" * 60_000 + b"\n\n"))
            await time.quiet()
        await time.almost()
        read_all(client)
        await time.stop()
        read_all(client)
        await time.passes(CLOCK / 2)
        assert viewer.ending is None
