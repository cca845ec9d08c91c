"""The promise: every buffer, list and cache that docs/technical-notes/limits.md names is bounded, whatever a peer does.
Each test here tries to pass a bound; those of events, sources and the log are with their own tests.

What relay holds in Python objects is measured by tracemalloc while a flood is stuck; what the kernel holds of it is the
kernel's.
"""

from __future__ import annotations

import gc
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
import trio.testing

from relay.admin import control
from relay.admin.control import RemoteControl, answer, open_slot, tell
from relay.exchange.connection import LINGER_BYTES
from relay.http import heads
from relay.http.bodies import MAX_TRAILERS
from relay.wires.stream_wire import READ_AHEAD, StreamWire
from relay.wires.wire import READ_SIZE
from tests.harness import LIMIT, RawPeer, chunked, scene, settle

KERNEL = 16 * 1024 * 1024  # bytes, at least what the socket buffers of two connections hold
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def flood(peer: RawPeer, piece: bytes, most: int = 4 * KERNEL) -> int:
    """Send `piece` again and again, until nothing is taken for a while. Returns: how many bytes were."""
    sent = 0
    sock = peer.stream.socket
    with suppress(OSError):
        while sent < most:
            with trio.move_on_after(0.3) as stuck:
                rest = memoryview(piece)
                while rest:
                    taken = await sock.send(rest)
                    sent += taken
                    rest = rest[taken:]
            if stuck.cancelled_caught:
                break
    return sent


@contextmanager
def held_at_most(size: int) -> Iterator[None]:
    """What is allocated in the block and still held at its end is at most `size` bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= size, f"{held} bytes are held"


# -- one connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_tunnel_whose_other_side_reads_nothing(side: str) -> None:
    """One read of the flood is held, and the rest stays with the kernel and its sender."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(UPGRADE)
        peer, _ = await up.request()
        await peer.send(SWITCHED)
        await client.head()
        piece = bytes(READ_SIZE)
        with held_at_most(READ_SIZE + 64 * 1024):
            assert await flood(client if side == "client" else peer, piece) < KERNEL


async def test_an_upload_to_an_upstream_that_reads_nothing() -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(POST)
        await up.request()
        piece = chunked(bytes(READ_SIZE))
        with held_at_most(3 * READ_SIZE + 64 * 1024):
            assert await flood(client, piece) < KERNEL


async def test_an_upload_in_the_form_without_sockets() -> None:
    """A Trio stream cannot tell of a hang-up without being read: it is read ahead, up to a bound."""
    async with scene() as (relay, up):
        client = relay.attach(trio.testing.memory_stream_pair())
        await client.send(POST)
        await up.request()
        for _ in range(400):
            await client.send(chunked(bytes(READ_SIZE)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        [wire] = [each for each in gc.get_objects() if type(each) is StreamWire]
        assert READ_AHEAD <= len(wire.ahead) < READ_AHEAD + READ_SIZE
        client.close()


async def test_the_trailers_of_a_request() -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(POST + chunked(b"x") + b"0\r\n")
        peer, _ = await up.request()
        assert await flood(client, b"X-A: " + b"y" * 1000 + b"\r\n") < KERNEL
        assert b" 400 " in await client.head()
        assert len(await peer.rest()) < MAX_TRAILERS


async def test_what_is_read_behind_an_early_answer() -> None:
    """1. An upload is refused at once. 2. Its client reads nothing and goes on. 3. So many bytes are taken off, lest a
    reset destroy the answer; then the connection ends."""
    async with scene(more='[limits]\nrequest_body = "10B"') as (relay, _):
        client = await relay.client()
        await client.send(POST + chunked(bytes(100)))
        sent = await flood(client, bytes(READ_SIZE), most=100 * LINGER_BYTES)
        assert sent < LINGER_BYTES + KERNEL
        await settle(lambda: relay.inventory().connections == 0)


# -- a worker ----------------------------------------------------------------------------------------


def test_heads_that_may_come_again() -> None:
    """So many, none of them large, whatever comes: a head of a million clients is a million heads."""
    for size in (10, 1000, heads.MEMO_BYTES, 8000):
        for number in range(2 * heads.MEMO_HEADS):
            pad = b"X-A: %d%b\r\n" % (number, b"y" * size)
            heads.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + pad + b"\r\n", 64 * 1024)
            heads.parse_response(b"HTTP/1.1 200 OK\r\n" + pad + b"\r\n", b"GET", 64 * 1024)
    for memo in (heads.requests_seen, heads.responses_seen):
        assert len(memo) == heads.MEMO_HEADS
        assert max(map(len, memo)) <= heads.MEMO_BYTES


async def test_an_answer_of_a_worker_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out, as one that is stuck is; the other one is there."""
    monkeypatch.setattr(control, "MAX_ANSWER", 100_000)
    slots = [open_slot(), open_slot()]
    values = [{"x": "y" * 200_000}, {"x": "y"}]
    try:
        async with trio.open_nursery() as nursery:
            for (_, end), value in zip(slots, values, strict=True):
                nursery.start_soon(answer, end, {"snapshot": lambda *_, value=value: value})
            with trio.fail_after(LIMIT):
                found = await RemoteControl([asker for asker, _ in slots]).snapshot()
            assert found == {1: {"x": "y"}}
            nursery.cancel_scope.cancel()
    finally:
        for asker, end in slots:
            asker.close()
            end.close()


def test_messages_to_a_worker_that_takes_none() -> None:
    """The queue is the kernel's, and bounded; whoever tells is not held up."""
    asker, end = open_slot()
    ours, theirs = socket.socketpair()
    try:
        with pytest.raises(BlockingIOError):  # noqa: PT012
            for _ in range(100_000):
                tell(asker, {"do": "state"}, [theirs.fileno()])
    finally:
        for sock in (asker, end, ours, theirs):
            sock.close()
