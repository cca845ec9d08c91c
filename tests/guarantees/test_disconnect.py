"""The promise: when the client leaves, in whatever phase, the upstream connection is closed at once and nothing is left
of the exchange: no task, no socket, no descriptor, no place in the pool. The log says who ended it.

Each phase below is a function that brings one exchange there and hands back its upstream's end. Every phase is tried with
every kind of client: a socket, which the engine watches, and the in-memory streams of the embedded form, of which nothing
is known without reading them. What is of such a stream alone is in test_disconnect_stream.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from tests.harness import (
    EVENT_HEAD,
    MemoryPeer,
    RawPeer,
    Relay,
    Upstream,
    chunked,
    route_to,
    running,
    scene,
    settle,
)
from tests.io.upstreams_setup import Blackhole

Phase = Callable[[RawPeer, Relay, Upstream], Awaitable[RawPeer]]
Connect = Callable[[Relay], Awaitable[RawPeer]]
Leave = Callable[[RawPeer], None]

UPLOAD = b"POST /up HTTP/1.1\r\nHost: relay.test\r\nContent-Length: %d\r\n\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET %b HTTP/1.1\r\nHost: relay.test\r\n\r\n"


async def socket_client(relay: Relay) -> RawPeer:
    return await relay.client()


async def memory_client(relay: Relay) -> RawPeer:
    """Its stream takes whatever is written to it."""
    return relay.attach(memory_stream_pair())


async def lockstep_client(relay: Relay) -> RawPeer:
    """Its stream takes nothing until its reader asks."""
    return relay.attach(lockstep_stream_pair())


async def answer_awaited(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    await client.send(GET % b"/")
    peer, _ = await up.request()
    return peer


async def head_unfinished(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await answer_awaited(client, relay, up)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-")
    return peer


async def interim_passed(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await answer_awaited(client, relay, up)
    await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
    assert b" 103 " in await client.head()
    return peer


async def stream_silent(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await answer_awaited(client, relay, up)
    await peer.send(EVENT_HEAD)
    await client.head()
    return peer


async def stream_flowing(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await stream_silent(client, relay, up)
    for n in range(3):
        await peer.send(chunked(b"data: %d\n\n" % n))
        await client.until(b"data: %d\n\n\r\n" % n)
    return peer


async def event_unfinished(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await stream_flowing(client, relay, up)
    await peer.send(chunked(b"data: half an ev"))
    [transfer] = relay.worker.registry
    await settle(lambda: transfer.flow.held > 0)
    return peer


async def body_of_known_length(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await answer_awaited(client, relay, up)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    await client.until(b"12345")
    return peer


async def write_blocked(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    """The client does not read, so relay waits for it."""
    peer = await answer_awaited(client, relay, up)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    if isinstance(client, MemoryPeer):
        await client.head()  # its stream takes not even that unasked
    await settle(lambda: len(relay.worker.registry) == 1)
    [transfer] = relay.worker.registry
    async with trio.open_nursery() as sending:

        async def send() -> None:
            while True:
                await peer.stream.send_all(bytes(65536))

        sending.start_soon(send)
        await settle(lambda: transfer.paused)
        sending.cancel_scope.cancel()
    return peer


async def upload_under_way(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    await client.send(UPLOAD % 1_000_000 + b"x" * 1000)
    peer, _ = await up.request()
    await peer.exactly(1000)
    return peer


async def upload_blocked(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    """The upstream does not read what the client sends."""
    await client.send(UPLOAD % 1_000_000_000)
    peer, _ = await up.request()
    with trio.move_on_after(0.001) as scope:
        while True:
            await client.stream.send_all(bytes(65536))
            scope.deadline = trio.current_time() + 0.05
    return peer


async def upload_answered_early(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    peer = await upload_under_way(client, relay, up)
    await peer.send(EVENT_HEAD + chunked(b"data: early\n\n"))
    await client.until(b"data: early\n\n\r\n")
    return peer


async def upload_complete(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    await client.send(UPLOAD % 10 + b"123")
    peer, _ = await up.request()
    await client.send(b"4567890")
    await peer.exactly(10)
    await peer.send(EVENT_HEAD)
    await client.head()
    return peer


async def continue_awaited(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    expecting = (UPLOAD % 10).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    await client.send(expecting)
    peer, head = await up.request()
    assert b"100-continue" in head
    return peer


async def next_request_waiting(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    """A pipelined request stands behind a stream: Go and nginx stop noticing a hang-up then."""
    peer = await stream_flowing(client, relay, up)
    await client.send(GET % b"/next")
    return peer


async def connection_reused(client: RawPeer, relay: Relay, up: Upstream) -> RawPeer:
    """The second exchange on both connections, the engine's state left over from the first."""
    peer = await answer_awaited(client, relay, up)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await client.until(b"ok")
    assert (await relay.line())["ending"] == "complete"
    await client.send(GET % b"/again")
    await peer.head()
    await peer.send(EVENT_HEAD + chunked(b"data: 2\n\n"))
    await client.until(b"data: 2\n\n\r\n")
    return peer


# phase → (status, phase) in the log
PHASES: dict[Phase, tuple[int, str]] = {
    answer_awaited: (499, "request"),
    head_unfinished: (499, "request"),
    interim_passed: (499, "request"),
    stream_silent: (200, "body"),
    stream_flowing: (200, "body"),
    event_unfinished: (200, "body"),
    body_of_known_length: (200, "body"),
    write_blocked: (200, "body"),
    upload_under_way: (499, "request"),
    upload_blocked: (499, "request"),
    upload_answered_early: (200, "body"),
    upload_complete: (200, "body"),
    continue_awaited: (499, "request"),
    next_request_waiting: (200, "body"),
    connection_reused: (200, "body"),
}
# Not with a stream that takes everything.
NEEDS_A_FULL_STREAM = (write_blocked, upload_blocked)


def fin(client: RawPeer) -> None:
    client.half_close()


def rst(client: RawPeer) -> None:
    client.reset()


leaving = pytest.mark.parametrize("leave", [fin, rst])
CLIENTS: tuple[Connect, ...] = (socket_client, memory_client, lockstep_client)
connecting = pytest.mark.parametrize("connect", CLIENTS, ids=lambda connect: connect.__name__)


async def gone(peer: RawPeer) -> None:
    """Wait for the end of an upstream connection; what was on its way may still come before it."""
    await peer.rest()


@leaving
@pytest.mark.parametrize(
    ("connect", "phase"),
    [
        pytest.param(connect, phase, id=f"{connect.__name__}-{phase.__name__}")
        for connect in CLIENTS
        for phase in PHASES
        if connect is not memory_client or phase not in NEEDS_A_FULL_STREAM
    ],
)
async def test_the_upstream_is_closed(connect: Connect, phase: Phase, leave: Leave) -> None:
    status, reached = PHASES[phase]
    async with scene() as (relay, up):
        before = relay.inventory()
        client = await connect(relay)
        peer = await phase(client, relay, up)
        leave(client)
        await gone(peer)
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("client_left", "client")
        assert (line["status"], line["phase"]) == (status, reached)
        await relay.nothing_left(before)


async def test_a_reset_overtakes_pipelined_requests() -> None:
    """1. A stream is under way. 2. The client pipelines until every buffer is full. 3. It resets.

    (Its FIN would stay behind those bytes, in its own kernel: nobody could see it.)
    """
    async with scene() as (relay, up):
        before = relay.inventory()
        client = await relay.client()
        peer = await stream_flowing(client, relay, up)
        with trio.move_on_after(0.001) as scope:
            while True:
                await client.stream.send_all(GET % b"/next" * 1000)
                scope.deadline = trio.current_time() + 0.05
        client.reset()
        await gone(peer)
        assert (await relay.line())["ending"] == "client_left"
        await relay.nothing_left(before)


@leaving
async def test_while_waiting_for_a_connection_slot(leave: Leave) -> None:
    """1. The only slot is taken. 2. A second client connects, asks and leaves. 3. The slot comes
    free.
    4. Nobody asks the upstream on its behalf."""
    async with scene(more="[limits]\nconnections = 1") as (relay, up):
        before = relay.inventory()
        first = await relay.client()
        peer = await answer_awaited(first, relay, up)
        second = await relay.get("/second")
        leave(second)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await first.head()
        first.close()
        peer.close()
        assert (await relay.line())["status"] == 204
        await relay.get("/third")
        _, head = await up.request()
        assert head.startswith(b"GET /third ")
        assert (await relay.line(path="/second"))["status"] == 499
        relay.clients[-1].close()
        assert (await relay.line(path="/third"))["status"] == 499
        await relay.nothing_left(before)


@leaving
@connecting
async def test_while_dialling(connect: Connect, leave: Leave) -> None:
    """The upstream's address answers no SYN."""
    hole = Blackhole()
    async with running(route_to(f"http://127.0.0.1:{hole.port}")) as relay:
        before = relay.inventory()
        client = await connect(relay)
        await client.send(GET % b"/")
        await settle(lambda: relay.inventory().streams == 1)
        leave(client)
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "dial", 499)
        await relay.nothing_left(before)
    hole.close()


@leaving
@connecting
async def test_while_the_tls_handshake_stalls(connect: Connect, leave: Leave) -> None:
    """The upstream takes the ClientHello and says nothing."""
    up = await Upstream.open()
    async with running(route_to(up.url.replace("http:", "https:"))) as relay:
        before = relay.inventory()
        client = await connect(relay)
        await client.send(GET % b"/")
        peer = await up.accept()
        await peer.exactly(1)
        leave(client)
        await gone(peer)
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "dial", 499)
        await relay.nothing_left(before)
    up.close()


@leaving
@connecting
async def test_after_an_early_head(connect: Connect, leave: Leave) -> None:
    """200 is out, the upstream still thinks."""
    async with scene('commit = "after 1ms"') as (relay, up):
        before = relay.inventory()
        client = await connect(relay)
        peer = await answer_awaited(client, relay, up)
        await client.head()
        leave(client)
        await gone(peer)
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "request", 200)
        await relay.nothing_left(before)


@leaving
@connecting
async def test_while_a_first_event_is_awaited(connect: Connect, leave: Leave) -> None:
    """The head is in, and held back until the upstream has proved itself."""
    async with scene("retries = 1") as (relay, up):
        before = relay.inventory()
        client = await connect(relay)
        peer = await answer_awaited(client, relay, up)
        await peer.send(EVENT_HEAD + chunked(b": think"))
        await settle(lambda: relay.inventory().streams == 1)
        leave(client)
        await gone(peer)
        line = await relay.line()
        assert (line["ending"], line["status"]) == ("client_left", 499)
        await relay.nothing_left(before)


async def in_a_tunnel(relay: Relay, up: Upstream) -> tuple[RawPeer, RawPeer]:
    client = await relay.get("/ws", UPGRADE)
    peer, _ = await up.request()
    await peer.send(SWITCHING)
    await client.head()
    await client.send(b"ping")
    assert await peer.exactly(4) == b"ping"
    return client, peer


async def test_a_reset_in_a_tunnel() -> None:
    async with scene() as (relay, up):
        before = relay.inventory()
        client, peer = await in_a_tunnel(relay, up)
        client.reset()
        await gone(peer)
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "tunnel", 101)
        await relay.nothing_left(before)


async def test_an_end_in_a_tunnel_is_passed_on() -> None:
    """A tunnel has half-close: the end goes to the upstream, whose own end ends the exchange."""
    async with scene() as (relay, up):
        before = relay.inventory()
        client, peer = await in_a_tunnel(relay, up)
        client.close()
        await peer.ended()
        peer.close()
        assert (await relay.line())["phase"] == "tunnel"
        await relay.nothing_left(before)


@connecting
async def test_between_two_requests(connect: Connect) -> None:
    async with scene() as (relay, up):
        before = relay.inventory()
        client = await connect(relay)
        peer = await answer_awaited(client, relay, up)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.head()
        assert (await relay.line())["ending"] == "complete"
        client.close()
        await relay.nothing_left(before)


@leaving
@connecting
async def test_in_the_middle_of_a_request_head(connect: Connect, leave: Leave) -> None:
    async with scene() as (relay, _):
        before = relay.inventory()
        client = await connect(relay)
        await client.send(b"GET / HTTP/1.1\r\nHo")
        if connect is socket_client:
            await settle(lambda: relay.inventory().connections == 1)
        leave(client)
        await relay.nothing_left(before)


class TestHalfCloseKept:
    """half_close = "keep": a client that says no more still wants its answer."""

    async def test_the_answer_arrives(self) -> None:
        async with scene('half_close = "keep"') as (relay, up):
            client = await relay.client()
            peer = await stream_silent(client, relay, up)
            client.half_close()
            await peer.send(chunked(b"data: 1\n\n") + b"0\r\n\r\n")
            assert b"data: 1\n\n" in await client.rest()
            assert (await relay.line())["ending"] == "complete"

    async def test_before_the_answer(self) -> None:
        async with scene('half_close = "keep"') as (relay, up):
            client = await relay.get()
            client.half_close()
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert (await client.rest()).endswith(b"ok")
            assert (await relay.line())["ending"] == "complete"

    async def test_after_the_whole_of_an_upload(self) -> None:
        async with scene('half_close = "keep"') as (relay, up):
            client = await relay.client()
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n123")
            peer, _ = await up.request()
            await client.send(b"45")
            client.half_close()
            assert await peer.exactly(5) == b"12345"
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert (await client.rest()).endswith(b"ok")
            assert (await relay.line())["ending"] == "complete"

    @pytest.mark.parametrize(
        "phase", [answer_awaited, stream_silent, upload_under_way], ids=lambda p: p.__name__
    )
    async def test_a_reset_still_ends_it(self, phase: Phase) -> None:
        async with scene('half_close = "keep"') as (relay, up):
            before = relay.inventory()
            client = await relay.client()
            peer = await phase(client, relay, up)
            client.reset()
            await gone(peer)
            assert (await relay.line())["ending"] == "client_left"
            await relay.nothing_left(before)

    async def test_a_full_close_is_seen_with_the_next_bytes(self) -> None:
        """TCP cannot tell a half-close from a close before something was written; a heartbeat is
        enough."""
        async with scene('half_close = "keep"\nheartbeat = "20ms"') as (relay, up):
            before = relay.inventory()
            client = await relay.client()
            peer = await stream_silent(client, relay, up)
            client.close()
            await gone(peer)
            assert (await relay.line())["ending"] == "client_left"
            await relay.nothing_left(before)

    async def test_an_upload_cut_short_is_no_request(self) -> None:
        async with scene('half_close = "keep"') as (relay, up):
            before = relay.inventory()
            client = await relay.client()
            peer = await upload_under_way(client, relay, up)
            client.half_close()
            await gone(peer)
            assert (await relay.line())["ending"] == "client_left"
            await relay.nothing_left(before)
