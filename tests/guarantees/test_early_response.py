"""The promise: an upstream that answers before it has read the whole request is heard at once, and
its
answer reaches the client although the client is still sending.
"""

from __future__ import annotations

import pytest
import trio

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, chunked, scene

SIZE = 50 * 1024 * 1024
POST = b"POST / HTTP/1.1\r\nHost: relay.test\r\nContent-Length: %d\r\n\r\n" % SIZE
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nsmall"


async def upload(peer: RawPeer) -> None:
    """Send on until the body is whole or nobody takes it."""
    try:
        for _ in range(SIZE // 65536):
            await peer.stream.send_all(bytes(65536))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@pytest.mark.parametrize("closes", [False, True], ids=["stays", "closes"])
async def test_it_reaches_a_client_that_is_still_sending(closes: bool) -> None:
    """1. The client uploads and does not look up. 2. The upstream answers, and perhaps closes. 3.
    The answer is
    whole although much was never read: no reset overtakes it."""
    async with scene() as (relay, up), trio.open_nursery() as nursery:
        before = relay.inventory()
        client = await relay.client()
        await client.send(POST)
        peer, _ = await up.request()
        nursery.start_soon(upload, client)
        await peer.exactly(100_000)
        await peer.send(TOO_LARGE)
        if closes:
            peer.close()
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in head
        assert await client.exactly(5) == b"small"
        assert (await relay.line())["status"] == 413
        with trio.fail_after(LIMIT):
            await client.rest()
        client.close()
        await relay.nothing_left(before)


async def test_the_upload_goes_on_beside_a_stream() -> None:
    """Both directions at the same time, as long as both last."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        await client.head()
        for n in range(5):
            await client.send(chunked(b"question %d" % n))
            await peer.until(chunked(b"question %d" % n))
            await peer.send(chunked(b"data: answer %d\n\n" % n))
            await client.until(chunked(b"data: answer %d\n\n" % n))
        await client.send(b"0\r\n\r\n")
        await peer.until(b"0\r\n\r\n")
        await peer.send(b"0\r\n\r\n")
        assert await client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert (await relay.line())["ending"] == "complete"


async def test_the_response_ends_first() -> None:
    """The connection ends behind the response: what the client still sends can be no request."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        peer, _ = await up.request()
        await peer.exactly(5)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
        await client.send(b"67890GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.rest() == b""
        assert (await relay.line())["ending"] == "complete"
        await peer.rest()  # neither is the upstream's connection used again


async def test_a_refusal_of_the_expectation() -> None:
    """1. The client waits for 100. 2. The upstream answers 417. 3. The body is never sent, the
    connection ends."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        )
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 417 ")
        assert b"connection: close" in head


async def test_the_expectation_is_met_by_the_upstream_alone() -> None:
    """100 comes when the upstream says it, not before."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        peer, head = await up.request()
        assert b"expect: 100-continue" in head
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"12345")
        assert await peer.exactly(5) == b"12345"
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        assert (await relay.line())["ending"] == "complete"


async def test_a_refusal_of_relays_own() -> None:
    """A body over the limit: told before it is read, and told so that it arrives."""
    limits = '[limits]\nrequest_body = "1KiB"'
    async with scene(more=limits) as (relay, _), trio.open_nursery() as nursery:
        client = await relay.client()
        await client.send(POST)
        nursery.start_soon(upload, client)
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        assert b"body_too_large" in await client.rest()
        client.close()
