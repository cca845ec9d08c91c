"""The promise of `unavailable = "retry-event"`: a 502, 503 or 504 does not reach an EventSource,
which it
would stop for good; it gets 200 with `retry:` and an error event, and comes back.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.guarantees.event_setup import dechunked, read
from tests.harness import RawPeer, Relay, route_to, running, scene
from tests.io.upstreams_setup import refusing_port

MODE = 'unavailable = "retry-event"\nretry_hint = "2s"'


async def told(relay: Relay, client: RawPeer, code: str) -> int:
    """The client gets an error event and the hint of when to come back, in milliseconds."""
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream\r\n" in head
    assert b"x-accel-buffering: no\r\n" in head
    client.half_close()
    body = dechunked(await client.rest())
    [event] = read(body)
    assert json.loads(event.data)["code"] == code
    line = await relay.line()
    assert line["status"] == 200
    assert line["ending"] != "complete"
    hint = re.search(rb"(?:^|\n)retry: (\d+)\n", body)
    assert hint is not None
    return int(hint[1])


async def test_a_refused_connection() -> None:
    async with running(route_to(f"http://127.0.0.1:{refusing_port()}", MODE)) as relay:
        hints = [await told(relay, await relay.get(), "upstream_unreachable") for _ in range(8)]
    assert all(1000 <= hint <= 3000 for hint in hints)
    assert len(set(hints)) > 1, "the hint is jittered: readers do not come back together"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_upstream_that_is_unavailable(status: int) -> None:
    async with scene(MODE) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\nbody" % status)
        await told(relay, client, f"status_{status}")


async def test_an_upstream_that_breaks() -> None:
    async with scene(MODE) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        peer.close()
        await told(relay, client, "upstream_broke")


@pytest.mark.parametrize("status", [204, 400, 401, 404, 500])
async def test_every_other_status_stays_what_it_is(status: int) -> None:
    """204 and 4xx mean stop, and a 500 is the application's own."""
    async with scene(MODE) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        length = b"" if status == 204 else b"Content-Length: 0\r\n"
        await peer.send(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length))
        assert (await client.head()).startswith(b"HTTP/1.1 %d " % status)


async def test_by_default_the_status_stays() -> None:
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("keys", ["", 'after_error = "close"'])
async def test_head_gets_the_head_alone(keys: str) -> None:
    """1. A HEAD, and nobody behind the route. 2. The same head as for a GET, no body. 3. The connection is in step."""
    config = route_to(f"http://127.0.0.1:{refusing_port()}", MODE + "\n" + keys)
    async with running(config) as relay:
        client = await relay.client()
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-type: text/event-stream\r\n" in head
            assert (await relay.line())["ending"] == "upstream_unreachable"
        client.half_close()
        assert await client.rest() == b""


async def test_it_is_a_whole_answer() -> None:
    """A break behind the hint could cost the reader the hint: browsers drop what they have not read yet."""
    async with running(route_to(f"http://127.0.0.1:{refusing_port()}", MODE)) as relay:
        client = await relay.get()
        await client.head()
        assert b"retry: " in await client.until(b"0\r\n\r\n")
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
