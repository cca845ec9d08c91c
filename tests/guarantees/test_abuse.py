"""The promise: one client's greed is that client's affair. Each test is one attack of
docs/how-to/harden.md, and what it gets."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from relay.config.values import Limits
from relay.exchange import tally
from relay.exchange.admission import Admission
from relay.exchange.tally import Claims
from relay.sources.reply import Reply
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene, settle

GET = b"GET %b HTTP/1.1\r\nHost: relay.test\r\n\r\n"
EVENTS = b"GET %b HTTP/1.1\r\nHost: relay.test\r\nAccept: text/event-stream\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


async def from_address(relay: Relay, address: str) -> RawPeer:
    """A client with another address of this machine."""
    stream = await trio.open_tcp_stream("127.0.0.1", relay.port, local_address=address)
    peer = RawPeer(stream)
    relay.clients.append(peer)
    return peer


async def asked(client: RawPeer, up: Upstream, path: bytes = b"/") -> None:
    await client.send(GET % path)
    peer, _ = await up.request()
    await peer.send(NO_CONTENT)
    assert b" 204 " in await client.head()
    peer.close()


async def streaming(client: RawPeer, up: Upstream) -> RawPeer:
    await client.send(EVENTS % b"/s")
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
    await client.until(b"data: 0\n\n\r\n")
    return peer


# -- many connections of one address ---------------------------------------------------------------

TWO = "[limits]\nconnections_per_address = 2\n"


async def test_a_connection_too_many_is_refused_and_a_place_comes_free_again() -> None:
    async with scene(more=TWO) as (relay, up):
        before = relay.inventory()
        first, second = await relay.client(), await relay.client()
        await asked(first, up)
        await asked(second, up)
        third = await relay.client()
        head = await third.head()
        assert b" 429 " in head
        assert b"retry-after: 1\r\n" in head
        assert b'"too_many_connections"' in await third.rest()
        line = await relay.line(status=429)
        assert (line["ending"], line["side"]) == ("shed", "client")
        first.close()
        await settle(lambda: relay.worker.counters.connections == 1)
        await asked(await relay.client(), up)
        for client in relay.clients:
            client.close()
        await relay.nothing_left(before)
        assert not relay.worker.admission.connections_of("127.0.0.1")


async def test_other_addresses_are_not_touched() -> None:
    async with scene(more=TWO) as (relay, up):
        for _ in range(2):
            await asked(await relay.client(), up)
        await asked(await from_address(relay, "127.0.0.2"), up)


async def test_the_connections_of_a_trusted_proxy_are_not_counted() -> None:
    more = '[server]\ntrusted_proxies = ["127.0.0.1"]\n' + TWO
    async with scene(more=more) as (relay, up):
        for _ in range(4):
            await asked(await relay.client(), up)


# -- many streams of one address -------------------------------------------------------------------

ONE_STREAM = "[limits]\nstreams_per_address = 1\n"


async def test_a_stream_too_many_is_refused_and_requests_are_not() -> None:
    async with scene(more=ONE_STREAM) as (relay, up):
        before = relay.inventory()
        first = await relay.client()
        peer = await streaming(first, up)
        second = await relay.client()
        await second.send(EVENTS % b"/s")  # refused before anybody is dialled
        head = await second.head()
        assert b" 429 " in head
        assert b"retry-after: " in head
        assert b'"too_many_streams"' in await second.until(b"}}")
        assert (await relay.line())["ending"] == "shed"
        await asked(second, up)  # the same connection, and no stream
        await peer.send(b"0\r\n\r\n")
        await first.until(b"0\r\n\r\n")
        peer.close()
        again = await streaming(first, up)
        again.close()
        for client in relay.clients:
            client.close()
        await relay.nothing_left(before)


async def test_a_stream_that_nobody_announced_is_refused_when_it_shows() -> None:
    """1. A stream is under way. 2. A request that does not say it wants events. 3. The upstream
    answers with some: 429 instead, and the upstream is closed."""
    async with scene(more=ONE_STREAM) as (relay, up):
        first = await relay.client()
        await streaming(first, up)
        second = await relay.client()
        await second.send(GET % b"/s")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        assert b" 429 " in await second.head()
        await peer.ended()


async def test_streams_are_counted_by_the_client_behind_a_trusted_proxy() -> None:
    more = '[server]\ntrusted_proxies = ["127.0.0.1"]\n' + ONE_STREAM
    async with scene(more=more) as (relay, up):
        one, other = b"192.0.2.1", b"192.0.2.2"
        for address, status in ((one, b" 200 "), (other, b" 200 "), (one, b" 429 ")):
            client = await relay.client()
            field = b"\r\nX-Forwarded-For: " + address + b"\r\n\r\n"
            await client.send((EVENTS % b"/s").replace(b"\r\n\r\n", field))
            if status == b" 200 ":
                peer, _ = await up.request()
                await peer.send(EVENT_HEAD)
            assert status in await client.head()


# -- many requests of one address ------------------------------------------------------------------

SLOW_RATE = '[limits]\nrequest_rate = "1/m"\nrequest_burst = 3\n'


async def test_requests_above_the_rate_are_told_when_to_come_back() -> None:
    async with scene(more=SLOW_RATE) as (relay, up):
        client = await relay.client()
        await client.send(GET % b"/" * 3)
        for _ in range(3):
            peer, _ = await up.request()
            await peer.send(NO_CONTENT)
            assert b" 204 " in await client.head()
        await client.send(GET % b"/")
        head = await client.head()
        assert b" 429 " in head
        wait = int(head.partition(b"retry-after: ")[2].partition(b"\r\n")[0])
        assert 0 < wait <= 60
        assert b'"too_many_requests"' in await client.until(b"}}")
        await asked(await from_address(relay, "127.0.0.2"), up)


async def test_a_refused_upload_is_not_read() -> None:
    """The answer comes at once, and the connection closes behind it."""
    async with scene(more=SLOW_RATE.replace("3", "1")) as (relay, up):
        client = await relay.client()
        await asked(client, up)
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nxxx")
        head = await client.head()
        assert b" 429 " in head
        assert b"connection: close\r\n" in head
        client.half_close()
        await client.rest()


# -- slow senders and heads without end ------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "])
async def test_a_head_that_trickles_in_ends_by_its_absolute_deadline(sent: bytes) -> None:
    async with scene(more='[timeouts]\nrequest_head = "200ms"\n') as (relay, _):
        before = relay.inventory()
        client = await relay.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, client, sent)
            answer = await client.rest()
            nursery.cancel_scope.cancel()
        assert (b" 408 " in answer) is bool(sent)
        client.close()
        await relay.nothing_left(before)


async def trickle(client: RawPeer, first: bytes) -> None:
    """A byte every 20 ms, for ever: no pause is long enough for a timer per read."""
    if not first:
        return
    await client.send(first)
    while True:
        await trio.sleep(0.02)
        try:
            await client.send(b"x")
        except trio.BrokenResourceError:
            return


async def test_a_body_slower_than_the_least_rate_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from relay.exchange import upload

    monkeypatch.setattr(upload, "SLOW_START", 0.1)
    async with scene("limits.request_body_rate = '1KiB/s'") as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        peer, _ = await up.request()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, client, b"x")
            assert b" 408 " in await client.head()
            nursery.cancel_scope.cancel()
        await peer.rest()
        assert (await relay.line())["ending"] == "client_stalled"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 20_000, b" 431 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000, b" 431 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", b" 431 "),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n", b" 413 "),
    ],
)
async def test_what_is_too_large_is_refused(data: bytes, status: bytes) -> None:
    async with scene(more='[limits]\nrequest_body = "1MiB"\n') as (relay, _):
        client = await relay.client()
        await client.send(data)
        head = await client.head()
        assert status in head or b" 414 " in head
        client.close()


# -- the table does not grow -----------------------------------------------------------------------


def request(books: Admission, address: str, now: float) -> Reply | None:
    """One request of an address; its refusal, if any."""
    return Claims().add(books.of(address), now, events=False)


def test_a_million_addresses_are_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request from another address: only the last MOST are remembered; those in use stay."""
    monkeypatch.setattr(tally, "MOST", 1000)
    books = Admission(Limits(request_rate=1.0, connections_per_address=5, streams_per_address=5))
    assert books.connect("192.0.2.1", 0.0)
    [(streams, key)] = books.of("192.0.2.2")
    streams.open_stream(key, 0.0)
    for n in range(20_000):
        assert request(books, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0) is None
    assert len(books) <= 1000
    books.disconnect("192.0.2.1")
    streams.close_stream(key)


def test_an_ipv6_client_is_its_64() -> None:
    books = Admission(Limits(request_rate=1.0, request_burst=2))
    assert request(books, "2001:db8::1", 0.0) is None
    assert request(books, "2001:db8::ffff:1", 0.0) is None
    assert request(books, "2001:db8::2", 0.0) is not None
    assert request(books, "2001:db8:0:1::2", 0.0) is None
    assert len(books) == 2


def test_an_ipv4_client_is_itself_in_either_form() -> None:
    books = Admission(Limits(request_rate=1.0, request_burst=1))
    assert request(books, "192.0.2.1", 0.0) is None
    assert request(books, "::ffff:192.0.2.1", 0.0) is not None
    assert request(books, "192.0.2.2", 0.0) is None


def test_a_peer_without_an_address_is_not_limited() -> None:
    books = Admission(Limits(request_rate=1.0, request_burst=1, streams_per_address=1))
    for _ in range(10):
        assert request(books, "unix", 0.0) is None
    assert not books.of("unix")


@given(st.lists(st.floats(0.0, 30.0), max_size=60), st.integers(1, 10), st.floats(0.1, 10.0))
def test_the_bucket_never_gives_more_than_burst_and_rate(
    pauses: list[float], burst: int, rate: float
) -> None:
    books = Admission(Limits(request_rate=rate, request_burst=burst))
    now, given_out = 0.0, 0
    for pause in pauses:
        now += pause
        given_out += request(books, "192.0.2.1", now) is None
        assert given_out <= burst + now * rate + 1e-6


def test_who_waits_as_long_as_told_gets_in() -> None:
    books = Admission(Limits(request_rate=0.3, request_burst=1))
    assert request(books, "192.0.2.1", 0.0) is None
    refused = request(books, "192.0.2.1", 1.0)
    assert refused is not None
    [wait] = [int(value) for name, value in refused.fields if name == b"retry-after"]
    assert request(books, "192.0.2.1", 1.0 + wait) is None
