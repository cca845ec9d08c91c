"""The promise: an upstream that fails before it has said anything is left for the next one, and the client sees nothing of
it. Once it has shown itself alive, be it by a comment, never: two beginnings would be one wrong answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair

from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, running
from tests.io.upstreams_setup import refusing_port

LAST = b"0\r\n\r\n"
Fail = Callable[[RawPeer], Awaitable[None]]


@asynccontextmanager
async def two_urls(route: str = "retries = 1") -> AsyncIterator[tuple[Relay, Upstream, Upstream]]:
    """A relay with two urls; which of them is asked first is its own business."""
    one, two = await Upstream.open(), await Upstream.open()
    config = f"""
[upstreams.backend]
urls = ["{one.url}", "{two.url}"]
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
{route}
"""
    try:
        async with running(config) as relay:
            yield relay, one, two
    finally:
        one.close()
        two.close()


async def closes(peer: RawPeer) -> None:
    peer.close()


async def resets(peer: RawPeer) -> None:
    peer.reset()


async def is_unavailable(peer: RawPeer) -> None:
    await peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def is_busy(peer: RawPeer) -> None:
    await peer.send(
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    )


async def breaks_after_its_head(peer: RawPeer) -> None:
    await peer.send(EVENT_HEAD)
    peer.close()


async def breaks_in_its_first_event(peer: RawPeer) -> None:
    await peer.send(EVENT_HEAD + chunked(b"data: ha"))
    peer.close()


async def is_silent(peer: RawPeer) -> None:
    await peer.send(EVENT_HEAD)


FAILURES = [
    closes,
    resets,
    is_unavailable,
    is_busy,
    breaks_after_its_head,
    breaks_in_its_first_event,
    is_silent,
]
ALL = 'retries = 1\nfirst_event = "50ms"\nretry_on = ["refused", "timeout", "502", "503", "504", "429"]'


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
async def test_before_the_first_event(fail: Fail, method: str) -> None:
    async with two_urls(ALL) as (relay, one, two):
        before = relay.inventory()
        client = await relay.client()
        body = "" if method == "GET" else "Content-Length: 5\r\n"
        await client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n{body}\r\n".encode())
        if body:
            await client.send(b"12345")
        first, head = await one.request()
        await fail(first)
        second, again = await two.request()
        assert head.split(b"\r\n")[0] == again.split(b"\r\n")[0]
        if body:
            assert await second.exactly(5) == b"12345"
        if fail in (is_unavailable, is_busy, is_silent):
            await first.rest()  # closed by relay: nobody reads on there
        await second.send(EVENT_HEAD + chunked(b"data: good\n\n") + LAST)
        got = await client.until(LAST)
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert got.endswith(b"\r\n\r\n" + chunked(b"data: good\n\n") + LAST)
        line = await relay.line()
        assert (line["ending"], line["upstream"]) == ("complete", two.url)
        client.close()
        await relay.nothing_left(before)


@pytest.mark.parametrize("split", [False, True])
async def test_a_stream_that_says_a_comment_is_alive(split: bool) -> None:
    """1. The first url sends its head and a comment: it works on the answer. 2. The client has both at once, heartbeats
    come, and nobody else is asked. 3. No event comes in time: that is an error event."""
    async with two_urls(ALL.replace("50ms", "1s") + '\nheartbeat = "100ms"') as (relay, one, _):
        client = await relay.get()
        peer, _ = await one.request()
        await peer.send(EVENT_HEAD)
        comment = chunked(b": thinking\n\n")
        if split:
            await peer.send(comment[:9])
        await peer.send(comment[9:] if split else comment)
        await client.until(b": thinking\n\n\r\n")
        await client.until(b":\n\n\r\n")
        assert b'"code":"upstream_silent"' in await client.rest()
        line = await relay.line()
        assert (line["ending"], line["upstream"]) == ("upstream_silent", one.url)


async def test_the_head_is_not_held_where_no_other_try_is_possible() -> None:
    """A body that is too large to be sent twice: there is nothing to wait for."""
    async with two_urls(ALL.replace("50ms", "1h")) as (relay, one, _):
        client = await relay.client()
        size = 200_000
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        first, _head = await one.request()
        await client.send(bytes(size))
        await first.exactly(size)
        await first.send(EVENT_HEAD)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_the_byte_clock_goes_from_byte_to_byte_with_retries_too() -> None:
    """Half a comment, then its other half, each within `idle` of the one before, both together not."""
    route = 'retries = 1\nheartbeat = "off"\ntimeouts = { idle = "1s" }'
    async with two_urls(route) as (relay, one, _):
        client = await relay.get()
        peer, _ = await one.request()
        await peer.send(EVENT_HEAD)
        for piece in (b": th", b"ink", b"ing\n\n"):
            await trio.sleep(0.6)  # the clock is real: three of these are longer than `idle`
            await peer.send(chunked(piece))
        assert await client.until(b": thinking\n\n\r\n")


@pytest.mark.parametrize("date", [False, True])
async def test_a_url_that_asks_for_patience_is_given_it(date: bool) -> None:
    """Retry-After in both of its forms (RFC 9110 §10.2.3): an hour is not waited for, and the answer goes to the client."""
    async with two_urls(ALL) as (relay, one, _):
        client = await relay.get()
        peer, _ = await one.request()
        after = b"Wed, 25 Nov 2099 12:00:00 GMT" if date else b"3600"
        await peer.send(b"HTTP/1.1 503 No\r\nRetry-After: %b\r\nContent-Length: 0\r\n\r\n" % after)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert after in head


async def test_an_upload_under_way_goes_to_the_next_url_whole() -> None:
    """1. Half of an upload is there. 2. The first url answers 503. 3. The second gets both
    halves."""
    async with two_urls(ALL) as (relay, one, two):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        first, _ = await one.request()
        await first.exactly(5)
        await is_unavailable(first)
        second, _ = await two.request()
        assert await second.exactly(5) == b"12345"
        await client.send(b"67890")
        assert await second.exactly(5) == b"67890"
        await second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await relay.line())["bytes_in"] == 10


async def test_a_stream_that_stays_silent_beside_an_upload() -> None:
    """The same where the first url had sent its head."""
    async with two_urls(ALL) as (relay, one, two):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        first, _ = await one.request()
        await first.exactly(5)
        await is_silent(first)
        second, _ = await two.request()
        await client.send(b"67890")
        assert await second.exactly(10) == b"1234567890"
        await second.send(EVENT_HEAD + chunked(b"data: good\n\n") + LAST)
        await client.until(b"data: good\n\n\r\n" + LAST)
        assert (await relay.line())["ending"] == "complete"


async def test_an_upload_too_large_to_keep_is_not_sent_twice() -> None:
    async with two_urls(ALL) as (relay, one, _):
        client = await relay.client()
        size = 200_000
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        first, _head = await one.request()
        await client.send(bytes(size))
        await first.exactly(size)
        await is_unavailable(first)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
        assert (await relay.line())["upstream"] == one.url


async def test_after_the_first_event_never() -> None:
    async with two_urls(ALL) as (relay, one, two):
        client = await relay.get()
        first, _ = await one.request()
        await first.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        first.close()
        assert b'"code":"upstream_broke"' in await client.rest()
        assert (await relay.line())["ending"] == "upstream_broke"
        await relay.get("/next")
        _, head = await two.request()
        assert head.startswith(b"GET /next ")


async def test_nothing_is_retried_that_the_route_does_not_name() -> None:
    async with two_urls('retries = 1\nretry_on = ["refused"]') as (relay, one, _):
        client = await relay.get()
        first, _head = await one.request()
        await is_unavailable(first)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_without_retries_the_answer_is_the_answer() -> None:
    async with two_urls("") as (relay, one, _):
        client = await relay.get()
        first, _head = await one.request()
        await is_unavailable(first)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_a_refused_dial_is_never_the_clients_affair() -> None:
    """Nothing was sent, so the next url is tried whatever the route says."""
    up = await Upstream.open()
    config = f"""
[upstreams.backend]
urls = ["http://127.0.0.1:{refusing_port()}", "{up.url}"]
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
"""
    async with running(config) as relay:
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345")
        peer, _ = await up.request()
        assert await peer.exactly(5) == b"12345"
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    up.close()


async def test_the_last_url_is_heard_whatever_it_says() -> None:
    """1. The first url is silent. 2. So is the second: its head is passed on, and the silence told
    in the stream."""
    async with two_urls(ALL) as (relay, one, two):
        client = await relay.get()
        await is_silent((await one.request())[0])
        await is_silent((await two.request())[0])
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert b'"code":"upstream_silent"' in await client.rest()
        assert (await relay.line())["ending"] == "upstream_silent"


async def test_a_long_retry_after_is_the_clients_to_wait() -> None:
    async with two_urls(ALL) as (relay, one, _):
        client = await relay.get()
        first, _head = await one.request()
        busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
        await first.send(busy)
        assert b"retry-after: 3600" in await client.head()


async def test_an_upload_on_an_in_memory_stream_has_one_reader() -> None:
    """1. Half of an upload is there. 2. The first url sends its head, and no event. 3. Whoever fed
    it must stop
    before the next one is fed: a stream has one reader."""
    async with two_urls(ALL) as (relay, one, two):
        client = relay.attach(memory_stream_pair())
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        first, _ = await one.request()
        await first.exactly(5)
        await is_silent(first)
        second, _ = await two.request()
        await client.send(b"67890")
        assert await second.exactly(10) == b"1234567890"
        await second.send(EVENT_HEAD + chunked(b"data: good\n\n") + LAST)
        await client.until(b"data: good\n\n\r\n" + LAST)
        client.close()


async def test_a_client_on_an_in_memory_stream_leaves_the_second_url() -> None:
    """1. The upload is whole. 2. The first url fails. 3. While the second thinks, the client
    leaves."""
    async with two_urls(ALL) as (relay, one, two):
        before = relay.inventory()
        client = relay.attach(memory_stream_pair())
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        first, _ = await one.request()
        await client.send(b"67890")
        await first.exactly(10)
        await is_unavailable(first)
        second, _ = await two.request()
        assert await second.exactly(10) == b"1234567890"
        client.close()
        await second.rest()
        assert (await relay.line())["ending"] == "client_left"
        await relay.nothing_left(before)
