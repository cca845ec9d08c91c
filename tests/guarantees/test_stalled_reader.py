"""The promise: a reader of an event stream that stalls costs its own stream and no other one. What
is held
for it is bounded, its upstream is held back, and if it goes on it gets every event.
"""

from __future__ import annotations

import trio

from tests.guarantees.event_setup import dechunked
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene, settle

EVENT = b"data: " + b"x" * 10_000 + b"\n\n"
READ = 64 * 1024  # bytes of one read
HELD = 2 * READ  # one read on its way, and one event's tail


async def opened(relay: Relay, up: Upstream) -> tuple[RawPeer, RawPeer]:
    client = await relay.get("/", "Connection: close\r\n")
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD)
    await client.head()
    return client, peer


async def fill(relay: Relay, peer: RawPeer) -> int:
    """Send events until relay takes no more; how many were sent whole."""
    sent = 0
    piece = chunked(EVENT)
    rest = b""
    with trio.move_on_after(0.2) as scope:
        while True:
            rest = piece
            while rest:
                taken = await peer.stream.socket.send(rest)
                rest = rest[taken:]
            sent += 1
            scope.deadline = trio.current_time() + 0.2
    peer.buffer = rest  # what is still to be sent of the last one
    return sent


async def test_it_stalls_alone() -> None:
    async with scene() as (relay, up):
        stalled, source = await opened(relay, up)
        await fill(relay, source)
        reader, other = await opened(relay, up)
        for n in range(20):
            await other.send(chunked(b"data: %d\n\n" % n))
            await reader.until(b"data: %d\n\n" % n)
        stalled.close()
        await relay.line()


async def test_what_is_held_for_it_is_bounded() -> None:
    async with scene() as (relay, up):
        _, source = await opened(relay, up)
        await fill(relay, source)
        [transfer] = relay.worker.registry
        assert transfer.paused
        assert transfer.flow.held + transfer.unsent <= HELD


async def test_it_goes_on_where_it_stopped() -> None:
    """Every event arrives, and no heartbeat or error came between."""
    async with scene('heartbeat = "10ms"') as (relay, up):
        client, source = await opened(relay, up)
        sent = await fill(relay, source)
        await settle(lambda: any(transfer.paused for transfer in relay.worker.registry))
        rest = source.buffer
        got: list[bytes] = []

        async def read() -> None:
            got.append(await client.rest())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await source.stream.send_all(rest + b"0\r\n\r\n")
        body = dechunked(got[0])
        assert body.count(EVENT) == sent + bool(rest)
        assert body.replace(EVENT, b"").replace(b":\n\n", b"") == b""
        assert (await relay.line())["ending"] == "complete"


async def test_the_write_deadline_ends_it_and_its_upstream() -> None:
    async with scene(more='[timeouts]\nwrite = "50ms"') as (relay, up):
        before = relay.inventory()
        client, source = await opened(relay, up)
        try:
            while True:
                await source.stream.send_all(chunked(EVENT))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("client_stalled", "client")
        client.close()
        await relay.nothing_left(before)
