"""Large chunks go from socket to socket, unseen: the client gets the same body, and hears of every end as of any other."""

from __future__ import annotations

import random
import socket

import pytest
import trio

from relay.http.bodies import ChunkReader
from tests.harness import RawPeer, Relay, Upstream, scene

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SIZES = [65_536, 65_536, 3, 300_000, 40_000, 32_768, 1_000_000, 10, 10, 65_536, 65_536]
LINE = b"%x\r\n"


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


WHOLE = b"".join(payload(size) for size in SIZES)
WIRE = b"".join(LINE % size + payload(size) + b"\r\n" for size in SIZES) + b"0\r\nx-sum: 1\r\n\r\n"


async def started(relay: Relay, upstream: Upstream) -> tuple[RawPeer, RawPeer]:
    client = await relay.get("/big")
    asked, _ = await upstream.request()
    await asked.send(HEAD)
    assert b"chunked" in await client.head()
    return client, asked


async def body_of(client: RawPeer) -> ChunkReader:
    """The body up to its end, decoded strictly; its payload is WHOLE."""
    reader, got = ChunkReader("upstream"), b""
    with trio.fail_after(20):
        while not reader.done:
            data = await client.some()
            assert data, "the connection ended"
            got += reader.feed(data)
    assert got == WHOLE
    return reader


@pytest.mark.parametrize("seed", range(5))
async def test_the_body_arrives_whatever_comes_when(seed: int) -> None:
    """1. Chunks, large and small, in pieces of any size. 2. The client has all of it, and the connection goes on."""
    dice = random.Random(seed)
    async with scene() as (relay, upstream):
        client, asked = await started(relay, upstream)

        async def send() -> None:
            rest = WIRE
            while rest:
                size = dice.choice([1, 5, 1000, 65_536, 65_545, 400_000])
                await asked.send(rest[:size])
                rest = rest[size:]
                if dice.random() < 0.3:
                    await trio.testing.wait_all_tasks_blocked()  # relay has taken it

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            reader = await body_of(client)
        assert reader.trailers == [(b"x-sum", b"1")]
        line = await relay.line(path="/big")
        assert line["ending"] == "complete"
        await client.send(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"GET /next" in (await asked.head())


async def test_a_client_that_does_not_read_holds_the_upstream_back() -> None:
    """1. A client reads nothing for a while. 2. It has the same body."""
    async with scene() as (relay, upstream):
        client, asked = await started(relay, upstream)
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.send, WIRE)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await body_of(client)


@pytest.mark.parametrize("at", [10, 50_000, 65_536 + 7, 65_536 + 8, 65_536 + 12, 200_000])
async def test_an_upstream_that_breaks_in_a_large_chunk_leaves_an_unfinished_body(at: int) -> None:
    """1. The upstream closes within a chunk, or between two. 2. The client has what came, and no end of a body."""
    async with scene() as (relay, upstream):
        client, asked = await started(relay, upstream)
        await asked.send(WIRE[:at])
        asked.close()
        got = await client.rest()
        reader = ChunkReader("upstream")
        assert WHOLE.startswith(reader.feed(got))
        assert not reader.done
        assert (await relay.line(path="/big"))["ending"] == "upstream_broke"


async def test_what_may_not_stand_between_two_chunks_ends_the_body() -> None:
    async with scene() as (relay, upstream):
        client, asked = await started(relay, upstream)
        large = LINE % 65_536 + payload(65_536)
        await asked.send(large + b"\r\n" + large + b"0\r\n\r\n")
        got = await client.rest()
        reader = ChunkReader("upstream")
        assert reader.feed(got) == payload(65_536) * 2
        assert not reader.done


async def test_a_client_that_leaves_in_a_large_chunk_stops_the_upstream() -> None:
    async with scene() as (relay, upstream):
        client, asked = await started(relay, upstream)
        await asked.send(WIRE[:200_000])
        await client.exactly(150_000)
        client.close()
        await asked.rest()
