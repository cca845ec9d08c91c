"""The promise: a model that is dead behind an upstream that keeps sending comments is found out.
Bytes and
events have clocks of their own (the keep-alives of a provider mask a dead model).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.harness import EVENT_HEAD, RawPeer, chunked, scene

# Long beside the 5 ms between two blocks: on busy cores these become many, and no clock of relay's may run out for that.
BYTES = '[timeouts]\nidle = "400ms"'
SILENT_BLOCKS = {
    "comments": b": keep-alive\n\n",
    "ids": b"id: 1\n\n",
    "retries": b"retry: 10\n\n",
    "types without data": b"event: ping\n\n",
    "half a comment": b": ...",
}


@asynccontextmanager
async def repeating(peer: RawPeer, block: bytes) -> AsyncIterator[None]:
    """Send this block every few milliseconds until the block ends."""

    async def send() -> None:
        try:
            while True:
                await peer.stream.send_all(chunked(block))
                await trio.sleep(0.005)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("block", SILENT_BLOCKS.values(), ids=SILENT_BLOCKS)
@pytest.mark.parametrize("clock", ["first_event", "event_idle"])
async def test_blocks_without_data_are_no_events(clock: str, block: bytes) -> None:
    async with scene(f'{clock} = "800ms"', more=BYTES) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        if clock == "event_idle":
            await peer.send(chunked(b"data: 1\n\n"))
        async with repeating(peer, block):
            rest = await client.rest()
            await peer.rest()
        assert b'"code":"upstream_silent"' in rest
        assert b"no event for" in rest
        assert (await relay.line())["ending"] == "upstream_silent"


async def test_events_keep_it_alive() -> None:
    async with scene('event_idle = "800ms"\nfirst_event = "800ms"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        async with repeating(peer, b"data: 1\n\n"):
            await client.exactly(200 * len(chunked(b"data: 1\n\n")))
        client.close()
        assert (await relay.line())["ending"] == "client_left"


async def test_without_the_clock_comments_are_enough() -> None:
    async with scene(more=BYTES) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        async with repeating(peer, b": keep-alive\n\n"):
            await client.exactly(200 * len(chunked(b": keep-alive\n\n")))
        client.close()
        assert (await relay.line())["ending"] == "client_left"
