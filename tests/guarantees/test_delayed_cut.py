"""The promise: who is cut off had the time to read why. The upstream is closed at once all the same, and nobody holds a
connection longer than a write may wait.

That a browser sees it is shown in interop/test_cuts_chromium.py; here is when the cut comes, in virtual time.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.wires.delayed_cut import MOMENT, DelayedCut
from relay.wires.socket_wire import SocketWire
from tests.harness import EVENT_HEAD, RawPeer, Relay, chunked, scene, settle
from tests.io.upstreams_setup import data_plane

WORD = b"the last word"
WRITE = 5.0  # seconds


class Ended:
    """A wait under way, on one end of a socket pair (its peer's kernel has a byte when its reader has it)."""

    def __init__(self, wire: SocketWire, peer: socket.socket, clock: MockClock) -> None:
        self.wire = wire
        self.peer = peer
        self.over = trio.Event()
        self._clock = clock

    async def passes(self, seconds: float) -> None:
        self._clock.autojump_threshold = 0.001
        await trio.sleep(seconds)
        self._clock.autojump_threshold = float("inf")
        await wait_all_tasks_blocked(0.002)


@asynccontextmanager
async def parting(clock: MockClock, write: float = WRITE) -> AsyncIterator[Ended]:
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        wire = SocketWire(ours, plane.engine, plane.alarms)
        wire.write_within = write
        await wire.send(WORD)
        ended = Ended(wire, theirs, clock)

        async def wait() -> None:
            await DelayedCut(wire, plane.alarms).wait()
            ended.over.set()

        plane.nursery.start_soon(wait)
        await wait_all_tasks_blocked(0.002)
        yield ended
        wire.close()
        theirs.close()


async def test_the_cut_comes_a_moment_after_the_word_was_taken(mock_clock: MockClock) -> None:
    async with parting(mock_clock) as ended:
        await ended.passes(1.0)
        assert not ended.over.is_set(), "nobody has read it"
        assert ended.peer.recv(100) == WORD
        await ended.passes(0.9 * MOMENT)
        assert not ended.over.is_set()
        await ended.passes(MOMENT)
        assert ended.over.is_set()


async def test_a_reader_that_stopped_is_waited_for_as_long_as_a_write(
    mock_clock: MockClock,
) -> None:
    async with parting(mock_clock) as ended:
        await ended.passes(0.9 * WRITE)
        assert not ended.over.is_set()
        await ended.passes(0.2 * WRITE)
        assert ended.over.is_set()


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
async def test_who_leaves_is_not_waited_for(mock_clock: MockClock, read: bool) -> None:
    async with parting(mock_clock) as ended:
        if read:
            ended.peer.recv(100)
        ended.peer.close()
        await wait_all_tasks_blocked(0.002)
        assert ended.over.is_set(), "in the step that noticed"


async def test_it_is_looked_at_seldom_where_it_takes_long(mock_clock: MockClock) -> None:
    """Every millisecond at first; ten thousand readers that stopped must not keep a worker busy."""
    async with parting(mock_clock) as ended:
        looks = 0
        before = ended.wire.unacknowledged

        def counted() -> int:
            nonlocal looks
            looks += 1
            return before()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SocketWire, "unacknowledged", lambda _: counted())
            await ended.passes(1.0)
        assert looks < 80


@asynccontextmanager
async def unread(more: str, after: str = "abort") -> AsyncIterator[tuple[Relay, RawPeer, RawPeer]]:
    """A stream that was cut; its reader has not taken all of it from the kernel, which has it whole."""
    async with scene(f'after_error = "{after}"', more=more) as (relay, up):
        client = await relay.client()
        client.shrink()
        await client.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: " + b"x" * 100_000 + b"\n\n", b"data: hal"))
        peer.half_close()
        yield relay, client, peer
        client.close()


async def test_the_upstream_is_closed_before_its_reader_sees_the_cut() -> None:
    async with unread("") as (relay, client, peer):
        await peer.ended()
        assert (await relay.line())["ending"] == "upstream_broke", "the books are closed"
        assert sum(origin.streams for group in relay.worker.groups for origin in group.origins) == 0
        assert relay.worker.counters.connections == 1, "its reader is still at it"
        got = await client.rest()
        assert got.count(b"upstream_broke") == 1
        assert not got.endswith(b"0\r\n\r\n")
        await settle(lambda: relay.worker.counters.connections == 0)


@pytest.mark.parametrize("after", ["abort", "close"])
async def test_a_drain_does_not_wait_for_those_who_do_not_read(after: str) -> None:
    async with unread('[timeouts]\ndrain = "300ms"\nwrite = "1h"', after) as (relay, _, peer):
        await peer.ended()
        await relay.line()
        await relay.drained()
