"""Viewers of one run: every reader gets every event once, in order, whatever the others do; nobody slows the run."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from relay.config.values import Resume, Route, Streams
from relay.feeds.book import Book
from relay.feeds.fanout import SLICE
from relay.feeds.run import Run
from relay.feeds.socket_viewer import SocketViewer
from relay.feeds.stream_viewer import StreamViewer
from relay.feeds.viewer import Viewer
from relay.flows.event_log import End, View
from relay.http.bodies import ChunkReader
from relay.observing.counters import Counters
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.sse.dialects import gap_event
from relay.wires.socket_wire import SocketWire
from relay.wires.stream_wire import StreamWire, close_now
from tests.harness import LIMIT, settle
from tests.io.test_pumps import SILENT_ROUTE
from tests.io.upstreams_setup import Plane, data_plane

COMPLETE = Ending(Side.UPSTREAM, Phase.BODY, Cause.COMPLETE)
BROKE = Ending(Side.UPSTREAM, Phase.BODY, Cause.BROKE)


class Ground:
    """One run and its viewers."""

    def __init__(self, plane: Plane, **resume: Any) -> None:
        self.plane = plane
        self.route: Route = SILENT_ROUTE._replace(resume=Resume(**resume))
        self.book = Book(plane.engine, plane.alarms, Streams())
        self.stopped: list[Cause] = []
        self.run: Run = self.book.begin(
            self.route,
            b"owner",
            "key",
            b"request",
            get=True,
            whose=b"owner",
            stop=self.stopped.append,
        )
        self.run.fields = []
        self.clients: list[Client] = []

    def view(self, after: int) -> View:
        run = self.run

        def gap(cursor: int, first: int) -> tuple[bytes, bool]:
            return gap_event("plain", f"{run.id}-{cursor}", f"{run.id}-{first}")

        return View(run.log, after, gap, chunked=True, hole=False)

    def watch(self, after: int = 0, *, kind: str = "socket", buffer: int | None = None) -> Client:
        """A client that reads from now on."""
        record = Record("id", "c", trio.current_time())
        record.method = "GET"
        counters = Counters().route("r")
        viewer: SocketViewer | StreamViewer
        if kind == "socket":
            ours, theirs = socket.socketpair()
            if buffer is not None:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            ours.setblocking(False)
            wire = SocketWire(ours, self.plane.engine, self.plane.alarms)
            viewer = SocketViewer(
                self.run,
                self.view(after),
                record,
                counters,
                wire,
                self.plane.engine,
                self.plane.alarms,
            )
            client = Client(viewer, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), wire)
        else:
            here, there = trio.testing.memory_stream_pair()
            stream_wire = StreamWire(here, self.plane.alarms)
            stream_wire.watch(self.plane.nursery)  # as its exchange would
            viewer = StreamViewer(self.run, self.view(after), record, counters, stream_wire)
            client = Client(viewer, there, stream_wire)
        self.clients.append(client)
        self.run.enter()
        self.plane.nursery.start_soon(self._serve, viewer, client)
        return client

    async def _serve(self, viewer: SocketViewer | StreamViewer, client: Client) -> None:
        try:
            await viewer.run()
        finally:
            self.run.leave()
            client.over.set()
            client.wire.close()


class Client:
    def __init__(self, viewer: Viewer, stream: Any, wire: Any) -> None:
        self.viewer = viewer
        self.stream = stream
        self.wire = wire
        self.over = trio.Event()
        self.raw = b""

    async def some(self, size: int = 65536) -> bool:
        data = await self.stream.receive_some(size)
        self.raw += data
        return bool(data)

    async def rest(self) -> None:
        with trio.fail_after(LIMIT):
            try:
                while await self.some():
                    pass
            except trio.BrokenResourceError:
                pass

    async def seqs_until(self, last: int) -> list[int | str]:
        with trio.fail_after(LIMIT):
            while last not in self.seqs():
                assert await self.some(), self.seqs()[-3:]
        return self.seqs()

    def seqs(self) -> list[int | str]:
        """What came, in order: sequence numbers, `gap`, `error`."""
        payload = ChunkReader("upstream").feed(self.raw)
        out: list[int | str] = []
        for block in payload.split(b"\n\n")[:-1]:
            if b'"type":"gap"' in block:
                out.append("gap")
            elif b'"type":"error"' in block:
                out.append("error")
            elif match := re.search(rb"id: [A-Za-z0-9_-]{22}-(\d+)\Z", block):
                assert b"data: %b\n" % match[1] in block
                out.append(int(match[1]))
            else:
                assert block == b":"
        return out

    async def close(self) -> None:
        await self.stream.aclose()


def event(seq: int, size: int = 0) -> bytes:
    return b"data: %d\ndata: %b\n\n" % (seq, b"x" * size)


@asynccontextmanager
async def ground(**resume: Any) -> AsyncIterator[Ground]:
    async with data_plane() as plane:
        there = Ground(plane, **resume)
        try:
            yield there
        finally:
            for client in there.clients:
                close_now(client.stream)
        plane.nursery.cancel_scope.cancel()


KINDS = pytest.mark.parametrize("kind", ["socket", "stream"])


@KINDS
async def test_replay_then_live_then_the_end(kind: str) -> None:
    async with ground() as g:
        g.run.append(event(1) + event(2))
        client = g.watch(kind=kind)
        assert await client.seqs_until(2) == [1, 2]
        g.run.append(event(3))
        assert await client.seqs_until(3) == [1, 2, 3]
        g.run.seal(End(clean=True), COMPLETE)
        await client.rest()
        assert client.raw.endswith(b"0\r\n\r\n")
        assert client.viewer.ending == COMPLETE
        assert not client.viewer.abort
        assert client.viewer.events == 3
        assert client.viewer.sent == len(client.raw)


@KINDS
async def test_a_bad_end_is_the_same_for_who_reads_now_and_later(kind: str) -> None:
    async with ground() as g:
        g.run.append(event(1))
        live = g.watch(kind=kind)
        await live.seqs_until(1)
        words = b'data: {"type":"error"}\nid: %b-end\n\n' % g.run.id.encode()
        g.run.seal(End(clean=False, last_words=words, abort=True), BROKE)
        later = g.watch(kind=kind, after=1)
        for client in (live, later):
            await client.rest()
            assert client.seqs()[-1] == "error"
            assert not client.raw.endswith(b"0\r\n\r\n")
            assert (client.viewer.ending, client.viewer.abort, client.viewer.told) == (
                BROKE,
                True,
                True,
            )


@pytest.mark.parametrize("seed", range(30))
async def test_joins_in_the_middle_of_a_flood(seed: int) -> None:
    """No hole and no double at the hand-over from replay to live, wherever a reader joins, resumes or falls behind."""
    rng = random.Random(seed)
    async with ground() as g:
        clients: list[tuple[Client, int]] = []
        last = 0
        for _ in range(300):
            many = rng.choice([1, 1, 1, 5])
            g.run.append(b"".join(event(last + n, rng.randrange(300)) for n in range(1, many + 1)))
            last += many
            if rng.random() < 0.1:
                after = rng.randrange(last + 1)
                kind = rng.choice(["socket", "socket", "stream"])
                clients.append((g.watch(after, kind=kind, buffer=rng.choice([None, 1])), after))
            if rng.random() < 0.3:
                await trio.lowlevel.checkpoint()
            if clients and rng.random() < 0.2:
                client, _ = rng.choice(clients)
                with trio.move_on_after(0.001):
                    await client.some(rng.choice([10, 1000, 100000]))
        g.run.seal(End(clean=True), COMPLETE)
        async with trio.open_nursery() as nursery:
            for client, _ in clients:
                nursery.start_soon(client.rest)
        for client, after in clients:
            assert client.seqs() == list(range(after + 1, last + 1))
            assert client.viewer.sent == len(client.raw)


async def test_more_readers_than_a_slice_get_the_same() -> None:
    async with ground() as g:
        clients = [g.watch() for _ in range(SLICE + 40)]
        await settle(lambda: len(g.run.fanout) == SLICE + 40)
        for seq in range(1, 40):
            g.run.append(event(seq))
            if seq % 3 == 0:
                await trio.lowlevel.checkpoint()
        for client in clients[::37]:
            await client.close()
        g.run.append(event(40))
        g.run.seal(End(clean=True), COMPLETE)
        for number, client in enumerate(clients):
            if number % 37:
                await client.rest()
                assert client.seqs() == list(range(1, 41))
        await settle(lambda: g.run.viewers == 0)
        assert not len(g.run.fanout)
        assert not g.run.fanout.sleepers


async def test_a_slow_reader_is_overtaken_and_told_so_once() -> None:
    async with ground(log=20_000) as g:
        slow, quick = g.watch(buffer=1), g.watch()
        for seq in range(1, 2001):
            g.run.append(event(seq, 500))
            if seq % 20 == 0:
                await quick.seqs_until(seq) if seq % 200 == 0 else await quick.some()
        assert await quick.seqs_until(2000) == list(range(1, 2001))
        got = await slow.seqs_until(2000)
        assert got.count("gap") == 1
        at = got.index("gap")
        assert got[:at] == list(range(1, at + 1))
        assert got[at + 1 :] == list(range(int(got[at + 1]), 2001))
        assert slow.viewer.view.gaps == 1


async def test_readers_that_stand_still_hold_no_memory() -> None:
    """A hundred stalled readers pin one event each at most, and the log its limit."""
    async with ground(log=50_000) as g:
        stalled = [g.watch(buffer=1) for _ in range(100)]
        await settle(lambda: len(g.run.fanout) == 100)
        for seq in range(1, 3001):
            g.run.append(event(seq, 1000))
            if seq % 50 == 0:
                await trio.lowlevel.checkpoint()
        pinned = {
            id(c.viewer.view.pending.obj): memoryview(c.viewer.view.pending.obj).nbytes
            for c in stalled
            if c.viewer.view.pending
        }
        assert sum(pinned.values()) <= 100 * 1200
        assert g.run.log.size <= 50_000


@KINDS
async def test_a_reader_ahead_of_the_log_is_not_told_again(kind: str) -> None:
    async with ground() as g:
        g.run.append(event(1))
        client = g.watch(after=3, kind=kind)
        for seq in (2, 3, 4, 5):
            g.run.append(event(seq))
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert await client.seqs_until(5) == [4, 5]


@KINDS
@pytest.mark.parametrize("cause", [Cause.DRAINED, Cause.MAX_AGE, Cause.STOPPED])
async def test_a_viewer_that_is_sent_away_is_aborted(kind: str, cause: Cause) -> None:
    async with ground() as g:
        g.run.append(event(1))
        client = g.watch(kind=kind)
        await client.seqs_until(1)
        client.viewer.ask(cause)
        await client.rest()
        assert not client.raw.endswith(b"0\r\n\r\n")
        assert client.viewer.abort
        assert client.viewer.ending is not None and client.viewer.ending.cause is cause
        assert g.run.under_way


@KINDS
async def test_a_reader_that_leaves_ends_its_viewer_alone(kind: str) -> None:
    """Also of a stream that is silent: nothing is written that could fail."""
    async with ground() as g:
        staying, leaving = g.watch(kind=kind), g.watch(kind=kind)
        g.run.append(event(1))
        await leaving.seqs_until(1)
        await leaving.close()
        with trio.fail_after(LIMIT):
            await leaving.over.wait()
        assert leaving.viewer.ending is not None and leaving.viewer.ending.cause is Cause.LEFT
        g.run.append(event(2))
        assert await staying.seqs_until(2) == [1, 2]
        assert g.run.viewers == 1
        assert not g.stopped


async def test_heartbeats_are_one_clock_for_all_and_never_inside_an_event() -> None:
    async with ground() as g:
        g.route = g.route._replace(heartbeat=0.02)
        g.run.route = g.route
        clients = [g.watch(kind=kind) for kind in ("socket", "socket", "stream")]
        g.run.append(event(1))
        for client in clients:
            with trio.fail_after(LIMIT):
                while client.raw.count(b"2\r\n:\n\r\n") < 3:
                    await client.some()
            assert client.seqs() == [1]


async def test_the_last_reader_that_leaves_starts_the_clock() -> None:
    async with ground(unwatched=0.05) as g:
        client = g.watch()
        await settle(lambda: g.run.viewers == 1)
        await client.close()
        await settle(lambda: bool(g.stopped))
        assert set(g.stopped) == {Cause.UNWATCHED}  # asked until it is sealed


async def test_nobody_watches_longer_than_the_principal_may() -> None:
    async with data_plane() as plane:
        book = Book(plane.engine, plane.alarms, Streams(unwatched=5))
        route = SILENT_ROUTE._replace(resume=Resume(unwatched_runs=2))
        stopped: list[str] = []

        def begin(name: str, whose: bytes) -> Run:
            run = book.begin(
                route, whose, name, b"", get=False, whose=whose, stop=lambda _: stopped.append(name)
            )
            run.enter()
            run.leave()
            return run

        for number in range(3):
            begin(f"a{number}", b"a")
        assert stopped == ["a0"]
        plane.nursery.cancel_scope.cancel()


async def test_space_is_bounded_and_finished_runs_of_who_has_most_go_first() -> None:
    async with data_plane() as plane:
        book = Book(plane.engine, plane.alarms, Streams(space=200_000))
        route = SILENT_ROUTE._replace(resume=Resume(log=50_000))
        runs: dict[str, Run] = {}
        for owner, count in ((b"few", 1), (b"many", 12)):
            for number in range(count):
                run = book.begin(
                    route, owner, f"{number}", b"", get=False, whose=owner, stop=lambda _: None
                )
                run.fields = []
                book.head(run)
                run.append(event(1, 15_000))
                run.seal(End(clean=True), COMPLETE)
                runs[f"{owner!r}{number}"] = run
        assert book.bytes <= 200_000
        kept = set(book.runs)
        assert runs["b'few'0"] in kept
        assert runs["b'many'0"] not in kept
        assert runs["b'many'11"] in kept
        for number in range(60):  # none of these is finished: their logs are cut, none is lost
            run = book.begin(
                route, b"live", f"l{number}", b"", get=False, whose=b"live", stop=lambda _: None
            )
            run.fields = []
            for seq in range(1, 20):
                run.append(event(seq, 1_000))
            assert run.last == 19
        assert book.bytes <= 60 * 6_000 + 200_000
        for run in book.runs:
            book.forget(run)
        assert (len(book), book.bytes) == (0, 0)
        plane.nursery.cancel_scope.cancel()
