"""The promise: whatever an upstream sends as an event stream, it is held up to a bound that the
configuration names, and brings nothing but its own stream to an end.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.core.coded import coded
from tests.guarantees.event_setup import dechunked
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene, settle

LIMIT = 64 * 1024
TRANSLATED = 'translate = "t"'
MORE = f'[limits]\nmax_event = "{LIMIT // 1024}KiB"\n[translations.t.message]\n'


async def stream(relay: Relay, up: Upstream) -> tuple[RawPeer, RawPeer]:
    client = await relay.get("/", "Connection: close\r\n")
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD)
    await client.head()
    return client, peer


async def flood(peer: RawPeer, piece: bytes) -> None:
    """Send it again and again, until relay has closed the connection."""
    try:
        while True:
            await peer.stream.send_all(piece)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize("piece", [b"x" * 4000, b"xx", b"data: x\n"], ids=len)
async def test_an_event_without_end_ends_a_translated_stream(piece: bytes) -> None:
    """1. The route translates. 2. Its upstream begins an event and goes on for ever. 3. At
    `max_event` the client is told, the upstream is closed, and the log names it.
    """
    async with scene(TRANSLATED, more=MORE) as (relay, up):
        client, peer = await stream(relay, up)
        await peer.send(chunked(b'data: {"a": 1}\n\n'))
        await client.until(b'"a":1}\n\n\r\n')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, peer, chunked(*[piece] * (16_000 // len(piece))))
            line = await relay.line()
        assert (line["ending"], line["side"], line["events"]) == ("event_too_large", "upstream", 1)
        [event] = dechunked(await client.rest()).split(b"\n\n")[:-1]
        assert b'"code":"event_too_large"' in event


async def test_what_is_held_is_counted() -> None:
    """The tail of a translated stream too is in `held`, and never more than `max_event`."""
    async with scene(TRANSLATED, more=MORE) as (relay, up):
        _, peer = await stream(relay, up)
        await peer.send(chunked(b"data: " + b"x" * (LIMIT - 6)))
        [transfer] = relay.worker.registry
        await settle(lambda: transfer.flow.held == LIMIT)
        assert transfer.ending is None


@pytest.mark.parametrize("unit", [b":\n\n", b"\n", b"x\r\r", b"id\ndata\n\n"], ids=repr)
async def test_a_flood_of_the_shortest_blocks_is_relayed(unit: bytes) -> None:
    """1. A stream has begun. 2. Its upstream sends a megabyte of comments of three bytes. It ended
    with a fault of ours.
    """
    async with scene() as (relay, up):
        client, peer = await stream(relay, up)
        sent = b"data: 1\n\n" + unit * (1_000_000 // len(unit)) + b"data: 2\n\n"
        got: list[bytes] = []

        async def read() -> None:
            got.append(await client.rest())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for at in range(0, len(sent), 60_000):
                await peer.send(chunked(sent[at : at + 60_000]))
            await peer.send(b"0\r\n\r\n")
        assert dechunked(got[0].removesuffix(b"0\r\n\r\n")) == sent
        line = await relay.line()
        assert line["ending"] == "complete"


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_a_reader_that_stops_before_the_largest_events(coding: str) -> None:
    """1. Events are as long as may be held, and come in small pieces. 2. The client stops reading. 3. One event
    and two reads are held at most, and upstream is not read any more.
    """
    async with scene(more=MORE) as (relay, up):
        client = await relay.client()
        client.shrink()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        fields = b"Content-Encoding: gzip\r\n" if coding else b""
        await peer.send(EVENT_HEAD[:-2] + fields + b"\r\n")
        await client.head()
        await settle(lambda: len(relay.worker.registry) == 1)
        event = b"data: " + bytes(range(32, 127)) * ((LIMIT - 8) // 95) + b"\n\n"
        pieces = chunked(coded(event, level=0) if coding else event)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, peer, pieces)
            most = 0

            def stuck() -> bool:
                nonlocal most
                [transfer] = relay.worker.registry
                most = max(most, transfer.flow.held + transfer.unsent)
                return transfer.paused and transfer.unsent > 0

            await settle(stuck)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert stuck()
            assert most <= LIMIT + 2 * 65536 + 100
            client.close()
            await relay.line()
            nursery.cancel_scope.cancel()
