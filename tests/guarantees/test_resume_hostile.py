"""Requests and moments that are meant to harm a resumable route: each ends as the contract says, and leaves nothing."""

from __future__ import annotations

import socket

import pytest
import trio

from relay.observing.ending import Cause
from tests.guarantees.resume_ground import LOGS, chat, event, ground
from tests.harness import EVENT_HEAD, settle

GONE = "A" * 22 + "-3"
BODY = b'{"id":"a"}'


@pytest.mark.parametrize("unwatched", ["0s", "30s", "off"])
@pytest.mark.parametrize("first", ["client", "head"])
async def test_an_answer_that_is_no_stream_and_that_nobody_waits_for_is_let_go(
    unwatched: str, first: str
) -> None:
    """1. A client begins a run. 2. It leaves, before or after a 404 has come whose body goes on. 3. Nobody will read that
    body: the upstream is closed, whatever `unwatched` says, and nothing is kept."""
    async with chat(f'unwatched = "{unwatched}"\n') as g:
        book, feeds = g.relay.worker.feeds.book, g.relay.worker.feeds
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        if first == "client":
            reader.close()
            await settle(lambda: not any(run.viewers for run in book.runs))
        if unwatched != "0s" or first != "client":
            await peer.send(b"HTTP/1.1 404 no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        if first == "head":
            await reader.head()
            reader.close()
        await peer.ended()
        await settle(lambda: not len(feeds))
        assert (len(book), book.bytes) == (0, 0)


class Meanwhile(trio.abc.Instrument):
    """Does something between the step that brought a head and that of the feed which waited for it."""

    def __init__(self, act: object) -> None:
        self.act = act
        self.armed = False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if self.armed and task.name.endswith("Feeds._live"):
            self.armed = False
            self.act()  # type: ignore[operator]


@pytest.mark.parametrize(
    "head", [EVENT_HEAD, b"HTTP/1.1 404 no\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
async def test_a_head_that_comes_in_the_step_of_a_stop_is_too_late(head: bytes) -> None:
    """1. A run waits for its head. 2. The head comes, and in the same step the run is stopped. 3. It stays stopped: its
    client is told so, the key is free, the upstream is closed, and nothing is kept under the key."""
    async with chat() as g:
        book = g.relay.worker.feeds.book
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        await settle(lambda: bool(book.runs))
        [run] = book.runs
        meanwhile = Meanwhile(lambda: run.stop(Cause.STOPPED))
        trio.lowlevel.add_instrument(meanwhile)
        try:
            meanwhile.armed = True
            await peer.send(head)
            await reader.head()
            await reader.rest()
        finally:
            trio.lowlevel.remove_instrument(meanwhile)
        assert not meanwhile.armed
        assert (reader.status, reader.codes, reader.ended) == (200, ["stopped"], "clean")
        await peer.ended()
        assert (len(book), book.bytes, book.current(run.key)) == (0, 0, None)
        assert (await g.read(path="/chat/a/stream")).status == 404


async def test_what_a_slow_reader_still_reads_counts_after_its_time() -> None:
    """1. A run ends and its time is over. 2. Its readers are slow: they read its events still. 3. These take room like any
    other: they count against `space`, and are the first to shrink when it is needed. 4. With the last reader they go."""
    mib = 1 << 20
    server = f"[streams]\nspace = {4 * mib}\n"
    async with ground(LOGS + 'keep = "0s"\nlog = "1MiB"\n', server=server) as g:
        book = g.relay.worker.feeds.book
        readers = []
        for number in range(6):
            reader = await g.ask(path=f"/logs/{number}")
            peer, _ = await g.taken()
            await peer.send(EVENT_HEAD)
            reader.peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            await reader.head()
            readers.append(reader)
            for _ in range(60):
                await peer.send(event("x" * 100_000))
            await peer.send(b"0\r\n\r\n")
            await peer.ended()
            await settle(lambda: not len(g.relay.worker.feeds))
            await settle(lambda: not book.runs)
            assert 0 < book.bytes <= 4 * mib
        for reader in readers:
            reader.close()
        await settle(lambda: book.bytes == 0)
