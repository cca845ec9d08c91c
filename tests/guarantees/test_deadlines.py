"""The promise: no peer can hold a connection by sending a little now and then. Deadlines of heads
are
absolute, deadlines of bodies ask for progress.

A trickling peer sends a byte every few milliseconds, so every clock that starts anew with each read
would never run out. Nothing here measures how long it took: a deadline that does not come is a test
that runs into the harness's LIMIT.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.harness import EVENT_HEAD, RawPeer, chunked, route_to, running, scene, settle
from tests.io.upstreams_setup import Blackhole

TRICKLE = 0.005  # seconds between two bytes


@asynccontextmanager
async def trickling(peer: RawPeer, data: bytes) -> AsyncIterator[None]:
    """Send `data` byte by byte, again and again, until the block ends or nobody listens."""

    async def send() -> None:
        try:
            while True:
                for n in range(len(data)):
                    await peer.stream.send_all(data[n : n + 1])
                    await trio.sleep(TRICKLE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        yield
        nursery.cancel_scope.cancel()


def times(**seconds: str) -> str:
    return "[timeouts]\n" + "\n".join(f'{name} = "{value}"' for name, value in seconds.items())


async def test_a_request_head_that_trickles() -> None:
    async with scene(more=times(request_head="100ms")) as (relay, _):
        client = await relay.client()
        async with trickling(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100):
            assert (await client.head()).startswith(b"HTTP/1.1 408 ")
        line = await relay.line()
        assert (line["ending"], line["side"], line["phase"]) == ("client_stalled", "client", "head")


async def test_a_second_request_head_that_trickles() -> None:
    """The clock of a head starts with its turn, not with the connection."""
    async with scene(more=times(request_head="100ms")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await trio.sleep(0.15)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.until(b"ok")
        async with trickling(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100):
            assert (await client.head()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("served", [False, True], ids=["fresh", "kept alive"])
async def test_a_connection_that_says_nothing(served: bool) -> None:
    """There is nothing to answer: it is closed without a word."""
    async with scene(more=times(**{"keep_alive" if served else "request_head": "100ms"})) as (
        relay,
        up,
    ):
        client = await relay.client()
        if served:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.until(b"ok")
        await client.ended()


async def test_a_kept_connection_has_a_time_of_its_own() -> None:
    """1. A request is served. 2. The time of a head passes in silence. 3. The next request is served too. 4. Half a head
    comes: from its first byte it has the time of a head."""
    async with scene(more=times(request_head="100ms", keep_alive="20s")) as (relay, up):
        client = await relay.client()
        peer = None
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            peer = peer or await up.accept()
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.until(b"ok")
            await trio.sleep(0.25)
        await client.send(b"GET / HTTP/1.1\r\nHost:")
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")


async def test_a_drain_does_not_wait_for_a_kept_connection() -> None:
    async with scene(more=times(keep_alive="off", drain="20s")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.until(b"ok")
        await relay.drained()
        await client.ended()


@pytest.mark.parametrize("served", [False, True], ids=["fresh", "kept alive"])
async def test_empty_lines_are_no_progress(served: bool) -> None:
    async with scene(more=times(request_head="100ms", keep_alive="20s")) as (relay, up):
        client = await relay.client()
        if served:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.until(b"ok")
        await client.send(b"\r\n\r\n")
        await client.rest()


async def test_a_request_body_that_stops() -> None:
    async with scene(more=times(request_body_idle="50ms")) as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        peer, _ = await up.request()
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("client_stalled", "client")


async def test_a_request_body_that_trickles() -> None:
    """The least rate ends it, after its grace."""
    limits = '[limits]\nrequest_body_rate = "1KiB/s"'
    async with scene(more=limits) as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        await up.request()
        async with trickling(client, b"x"):
            assert (await client.head()).startswith(b"HTTP/1.1 408 ")
        assert (await relay.line())["ending"] == "client_stalled"


async def test_an_upload_may_take_longer_than_the_answer() -> None:
    """The clock of the response's head starts when the request is out."""
    async with scene(more=times(response_head="100ms")) as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
        peer, _ = await up.request()
        for _ in range(40):
            await client.send(b"x")
            await trio.sleep(TRICKLE)
        await peer.exactly(40)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize("body", [b"", b"Content-Length: 5\r\n"], ids=["get", "after an upload"])
async def test_a_response_head_that_does_not_come(body: bytes) -> None:
    async with scene(more=times(response_head="50ms")) as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + body + b"\r\n")
        peer, _ = await up.request()
        if body:
            await client.send(b"12345")
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_silent", "upstream")


async def test_a_response_head_that_trickles() -> None:
    async with scene(more=times(response_head="100ms")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        async with trickling(peer, b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000):
            assert (await client.head()).startswith(b"HTTP/1.1 504 ")


async def test_interim_heads_that_trickle() -> None:
    """103 after 103 is no answer."""
    async with scene(more=times(response_head="150ms")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        async with trickling(peer, b"HTTP/1.1 103 Early Hints\r\n\r\n"):
            assert b" 504 " in await client.until(b" 504 ")


async def test_a_dial_that_does_not_come_through() -> None:
    hole = Blackhole()
    config = route_to(f"http://127.0.0.1:{hole.port}", more=times(connect="50ms"))
    async with running(config) as relay:
        client = await relay.get()
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("upstream_unreachable", "dial")
    hole.close()


async def test_a_body_that_stops() -> None:
    async with scene(more=times(idle="50ms")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await client.until(b"12345")
        assert await client.rest() == b""
        await peer.rest()
        assert (await relay.line())["ending"] == "upstream_silent"


async def test_a_stream_that_stops_although_relay_sends_heartbeats() -> None:
    async with scene('heartbeat = "10ms"', more=times(idle="100ms")) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        rest = await client.rest()
        assert chunked(b":\n\n") in rest
        assert b'"code":"upstream_silent"' in rest
        await peer.rest()
        assert (await relay.line())["ending"] == "upstream_silent"


async def test_a_tunnel_in_which_nothing_moves() -> None:
    async with scene(more=times(idle="50ms")) as (relay, up):
        client = await relay.get("/", "Connection: upgrade\r\nUpgrade: echo\r\n")
        peer, _ = await up.request()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        await client.head()
        await client.rest()
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("upstream_silent", "tunnel")


async def test_a_client_that_stops_reading() -> None:
    async with scene(more=times(write="50ms")) as (relay, up):
        client = await relay.get()
        client.shrink()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        try:
            while True:
                await peer.stream.send_all(chunked(b"data: " + b"x" * 60_000 + b"\n\n"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        assert (await relay.line())["ending"] == "client_stalled"
        await settle(lambda: relay.inventory().connections == 0)
        client.close()


async def test_an_idle_upstream_connection_is_closed_first() -> None:
    """relay closes before the upstream would, so no request meets a connection that is ending."""
    async with scene(upstream_keys='keepalive_idle = "50ms"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.until(b"ok")
        await peer.ended()
