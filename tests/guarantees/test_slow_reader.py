"""The promise: a side that reads slowly slows the other side down and costs no memory, in both
directions; a side that stops reading is ended by the write deadline.
"""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import pytest
import trio

from tests.harness import EVENT_HEAD, RawPeer, chunked, scene, settle

OFFERED = 100 * 1024 * 1024  # bytes
PIECE = bytes(64 * 1024)
# What memory may grow by while OFFERED bytes are on their way: two reads, and the allocator's own
# freedom. Without backpressure it would be OFFERED.
ALLOWED = 8 * 1024 * 1024
PAGE = resource.getpagesize()


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def offer(peer: RawPeer, size: int, sent: list[int]) -> None:
    """Send `size` bytes as fast as they are taken; stop quietly where the connection ends."""
    try:
        while sent[0] < size:
            await peer.stream.send_all(PIECE)
            sent[0] += len(PIECE)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def still(sent: list[int]) -> int:
    """Wait until no more is taken: twice the same after every buffer had its time."""
    before = -1
    while sent[0] != before:
        before = sent[0]
        await trio.sleep(0.05)
    return before


@pytest.mark.parametrize("framing", ["length", "chunked", "events"])
async def test_a_client_that_reads_late(framing: str) -> None:
    """1. The upstream offers 100 MB. 2. The client reads nothing: the upstream is held. 3. It
    reads: all comes."""
    piece = PIECE if framing == "length" else chunked(PIECE[: 64 * 1024 - 10])
    heads = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % OFFERED,
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "events": EVENT_HEAD,
    }
    if framing == "events":
        piece = chunked(b"data: " + b"x" * (64 * 1024 - 20) + b"\n\n")
    async with scene() as (relay, up), trio.open_nursery() as nursery:
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(heads[framing])
        await client.head()
        gc.collect()
        before = memory()
        sent = [0]

        async def offer_pieces() -> None:
            while sent[0] < OFFERED:
                await peer.stream.send_all(piece)
                sent[0] += len(piece)
            if framing != "length":
                await peer.stream.send_all(b"0\r\n\r\n")

        nursery.start_soon(offer_pieces)
        held = await still(sent)
        # The buffers of four sockets: 32 MiB is the kernel's most for one
        assert held < OFFERED / 2
        assert memory() - before < ALLOWED
        got = 0
        while got < OFFERED:
            data = await client.stream.receive_some(1 << 20)
            assert data
            got += len(data)
            if got % (16 << 20) < len(data):
                assert memory() - before < ALLOWED
        line = await relay.line() if framing == "length" else None
        assert line is None or line["ending"] == "complete"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upstream_that_reads_late(framing: str) -> None:
    """The same the other way: an upload of 100 MB."""
    size = b"Content-Length: %d" % OFFERED
    field = size if framing == "length" else b"Transfer-Encoding: chunked"
    piece = PIECE if framing == "length" else chunked(PIECE)
    async with scene() as (relay, up), trio.open_nursery() as nursery:
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
        peer, _ = await up.request()
        gc.collect()
        before = memory()
        sent = [0]

        async def offer_pieces() -> None:
            for _ in range(OFFERED // len(PIECE)):
                await client.stream.send_all(piece)
                sent[0] += len(piece)
            if framing == "chunked":
                await client.stream.send_all(b"0\r\n\r\n")

        nursery.start_soon(offer_pieces)
        held = await still(sent)
        # The buffers of four sockets: 32 MiB is the kernel's most for one
        assert held < OFFERED / 2
        assert memory() - before < ALLOWED
        got = 0
        while got < OFFERED:
            data = await peer.stream.receive_some(1 << 20)
            assert data
            got += len(data)
            if got % (16 << 20) < len(data):
                assert memory() - before < ALLOWED
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert b" 204 " in await client.head()
        line = await relay.line()
        assert line["ending"] == "complete"


async def test_a_client_that_stops_reading_is_ended() -> None:
    async with (
        scene(more='[timeouts]\nwrite = "50ms"') as (relay, up),
        trio.open_nursery() as nursery,
    ):
        before = relay.inventory()
        client = await relay.get()
        client.shrink()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % OFFERED)
        nursery.start_soon(offer, peer, OFFERED, [0])
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("client_stalled", "client")
        await peer.rest()
        await settle(lambda: relay.inventory().sockets == before.sockets)


async def test_an_upstream_that_stops_reading_is_ended_by_its_head_deadline() -> None:
    """1. The upload does not move. 2. The write deadline gives it up, then the answer is awaited,
    absolutely."""
    times = '[timeouts]\nwrite = "50ms"\nresponse_head = "50ms"'
    async with scene(more=times) as (relay, up), trio.open_nursery() as nursery:
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % OFFERED)
        peer, _ = await up.request()
        nursery.start_soon(offer, client, OFFERED, [0])
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_silent", "upstream")
        await peer.rest()
        client.close()


async def test_a_reader_that_is_slow_but_alive_stays() -> None:
    """1. The kernel holds megabytes for the client. 2. It reads, at a pace. 3. The socket is
    writable again
    only when a third of that is gone, long after the write deadline; progress is what counts."""
    size = 64 * 1024 * 1024
    times = '[timeouts]\nwrite = "400ms"'
    async with scene(more=times) as (relay, up), trio.open_nursery() as nursery:
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        nursery.start_soon(offer, peer, size, [0])
        for _ in range(150):
            assert await client.stream.receive_some(16384)
            await trio.sleep(0.01)
        assert len(relay.worker.registry) == 1
        client.close()
        assert (await relay.line())["ending"] == "client_left"


async def test_an_upstream_that_takes_an_upload_slowly_stays() -> None:
    """The same the other way."""
    size = 64 * 1024 * 1024
    times = '[timeouts]\nwrite = "400ms"\nresponse_head = "400ms"'
    async with scene(more=times) as (relay, up), trio.open_nursery() as nursery:
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        peer, _ = await up.request()
        nursery.start_soon(offer, client, size, [0])
        for _ in range(150):
            assert await peer.stream.receive_some(16384)
            await trio.sleep(0.01)
        client.reset()  # an end would stay behind the bytes that nobody takes
        assert (await relay.line())["ending"] == "client_left"
