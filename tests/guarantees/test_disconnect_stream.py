"""The promise of test_disconnect.py where a client that is not a socket differs: in-memory streams, as in the embedded
form. Such a stream tells of its end only to a reader, so relay reads ahead, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from tests.harness import (
    MemoryPair,
    Upstream,
    route_to,
    running,
    scene,
    settle,
)
from tests.io.upstreams_setup import Blackhole

MakePair = Callable[[], MemoryPair]

GET = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 10\r\n\r\n"

pairs = pytest.mark.parametrize(
    "pair", [memory_stream_pair, lockstep_stream_pair], ids=["memory", "lockstep"]
)


@pairs
async def test_two_requests_on_one_connection(pair: MakePair) -> None:
    """What was read ahead is the next request."""
    async with scene() as (relay, up):
        before = relay.inventory()
        client = relay.attach(pair())
        await client.send(GET)
        peer, _ = await up.request()
        await client.send(GET)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.until(b"ok")
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")
        await client.until(b"two")
        client.close()
        await relay.nothing_left(before)


@pairs
async def test_while_an_answer_is_made_of_a_whole_body(pair: MakePair) -> None:
    """The source has read the request to its end; somebody must go on reading to see the client
    leave."""
    up = await Upstream.open()
    config = f"""
[upstreams.backend]
url = "{up.url}"
[[routes]]
path = "/"
source = "answer"
[routes.answer]
upstream = "backend"
path = "/answer"
text = "response"
"""
    async with running(config) as relay:
        before = relay.inventory()
        client = relay.attach(pair())
        body = b'{"query": 1}'
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        await client.send(body)
        await client.until(b"\n\n\r\n")  # the answer's opening event
        peer, _ = await up.request()
        client.close()
        await peer.rest()
        assert (await relay.line())["ending"] == "client_left"
        await relay.nothing_left(before)
    up.close()


@pairs
async def test_while_dialling_with_a_body_unsent(pair: MakePair) -> None:
    """1. Half of a body is there, its upstream's address answers nothing. 2. The client leaves."""
    hole = Blackhole()
    async with running(route_to(f"http://127.0.0.1:{hole.port}")) as relay:
        before = relay.inventory()
        client = relay.attach(pair())
        await client.send(POST + b"123")
        await settle(lambda: relay.inventory().streams == 1)
        client.close()
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "dial", 499)
        await relay.nothing_left(before)
    hole.close()


@pairs
async def test_a_tunnel(pair: MakePair) -> None:
    """Its end is passed on, as on a socket; a half-close leaves the other direction open."""
    async with scene() as (relay, up):
        before = relay.inventory()
        client = relay.attach(pair())
        upgrade = b"Connection: upgrade\r\nUpgrade: echo\r\n\r\n"
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade)
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
        await client.head()
        await client.send(b"last words")
        client.half_close()
        assert await peer.rest() == b"last words"
        await peer.send(b"and mine")
        assert await client.exactly(8) == b"and mine"
        peer.close()
        await client.ended()
        assert (await relay.line())["ending"] == "complete"
        await relay.nothing_left(before)


async def test_an_upload_larger_than_what_is_read_ahead() -> None:
    """Backpressure reaches an in-memory client: nobody reads on for an upstream that does not."""
    size = 1_000_000
    async with scene() as (relay, up), trio.open_nursery() as nursery:
        client = relay.attach(lockstep_stream_pair())
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        nursery.start_soon(client.stream.send_all, b"x" * size)
        peer, _ = await up.request()
        assert (await peer.exactly(size)).count(b"x") == size
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        assert (await relay.line())["ending"] == "complete"
        client.close()
