"""The promise: what a client does is never held against its upstream. A client that takes nothing is `client_stalled`,
whatever relay was sending to it, and no url counts as failed for it.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import lockstep_stream_pair

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Relay, Upstream, chunked, scene

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WRITE = 'timeouts = { write = "50ms", response_head = "2s" }'


async def in_lockstep(relay: Relay, up: Upstream, request: bytes = GET) -> tuple[RawPeer, RawPeer]:
    """A client whose connection takes no byte before it is read, and its upstream."""
    client = relay.attach(lockstep_stream_pair())
    await client.send(request)
    peer, _ = await up.request()
    return client, peer


async def blamed(relay: Relay) -> tuple[object, object]:
    """Who is named in the log, once no url counts as failed."""
    line = await relay.line()
    [origin] = [origin for group in relay.worker.groups for origin in group.origins]
    assert origin.failures == 0
    assert origin.streams == 0
    return line["ending"], line["side"]


@pytest.mark.parametrize(
    "early", ["", 'commit = "after 1h"'], ids=["", "with a commitment to come"]
)
async def test_a_client_that_does_not_read_its_103(early: str) -> None:
    async with scene(f"{WRITE}\n{early}") as (relay, up):
        client, peer = await in_lockstep(relay, up)
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await peer.ended()
        assert await blamed(relay) == ("client_stalled", "client")
        client.close()


async def test_a_client_that_does_not_read_its_100() -> None:
    async with scene(WRITE) as (relay, up):
        request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        client, peer = await in_lockstep(relay, up, request)
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.ended()
        assert await blamed(relay) == ("client_stalled", "client")
        client.close()


async def test_a_client_that_leaves_while_it_is_sent_a_103() -> None:
    async with scene(WRITE) as (relay, up):
        client, peer = await in_lockstep(relay, up)
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        client.close()
        await peer.ended()
        assert await blamed(relay) == ("client_left", "client")


async def test_the_time_a_client_takes_to_read_is_not_the_upstreams() -> None:
    """1. A 103 comes. 2. The client reads it later than a response head may take. 3. The upstream answers at once."""
    async with scene('timeouts = { write = "10s", response_head = "300ms" }') as (relay, up):
        client, peer = await in_lockstep(relay, up)
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await trio.sleep(0.5)
        assert (await client.head()).startswith(b"HTTP/1.1 103 ")
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        assert await blamed(relay) == ("complete", "upstream")


async def test_a_client_that_does_not_read_an_early_head() -> None:
    async with scene(f'{WRITE}\ncommit = "after 1ms"') as (relay, up):
        client, peer = await in_lockstep(relay, up)
        await peer.ended()
        assert await blamed(relay) == ("client_stalled", "client")
        client.close()


async def test_a_client_that_does_not_read_its_head() -> None:
    async with scene(WRITE) as (relay, up):
        client, peer = await in_lockstep(relay, up)
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await peer.ended()
        assert await blamed(relay) == ("client_stalled", "client")
        client.close()


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_whoever_takes_nothing_of_a_tunnel(who: str) -> None:
    async with scene(WRITE) as (relay, up):
        request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        client, peer = await in_lockstep(relay, up, request)
        if who == "upstream":
            peer.shrink()
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        await peer.send(switch)
        await client.head()
        if who == "client":
            await peer.send(b"x")
            wanted = ("client_stalled", "client")
        else:
            with trio.fail_after(LIMIT), suppress(trio.BrokenResourceError):
                while True:  # until its buffers are full, and relay has given it up
                    await client.stream.send_all(b"x" * 65536)
            wanted = ("upstream_silent", "upstream")
        assert await blamed(relay) == wanted
        client.close()
