"""Whatever is cut where, the union of what a reader got is the original, or says what is missing."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel

from tests.guarantees.resume_setup import LOGS, STORES, Reader, event, ground, keeping
from tests.harness import EVENT_HEAD, RawPeer, chunked, settle


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    with keeping(request.param):
        yield request.param


RECORDED = (
    b"data: one\n\n"
    b"event: x\r\ndata: two\r\ndata: lines\r\n\r\n"
    b": a comment\n\n"
    b"id: up-3\ndata: three\n\n"
    b"data: four\r\r"
    b"retry: 5\n\n"
    b"data: \xc3\xa4\xf0\x9f\x98\x80\n\n"
    b"data: last\n\n"
)
EVENTS = ["one", "two\nlines", "three", "four", "ä😀", "last"]


def without_ids(payload: bytes) -> bytes:
    return re.sub(rb"id: [A-Za-z0-9_-]{22}-(\d+|end)(\r\n|\n|\r)", b"", payload)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("cut", range(0, len(RECORDED) + 1, 3))
async def test_a_reader_is_cut_at_any_byte_and_comes_back(cut: int) -> None:
    """1. Some of the stream has come. 2. The reader's connection breaks. 3. It comes back with the last id that it has seen
    whole. 4. All of it together is the original, byte for byte but for ids and comments."""
    async with ground() as g:
        reader, peer = await g.begun()
        if cut:
            await peer.send(chunked(RECORDED[:cut]))
        [run] = g.runs
        await settle(lambda: run.viewers > 0 and run.last >= _whole(RECORDED[:cut]))
        await reader.until(run.last)
        seen = reader.ids[-1] if reader.ids else None
        reader.close()
        again = await g.read(cursor=seen)
        await peer.send(
            chunked(RECORDED[cut:]) + b"0\r\n\r\n" if cut < len(RECORDED) else b"0\r\n\r\n"
        )
        await again.rest()
        assert reader.data + again.data == EVENTS
        assert again.ended == "clean"
        union = (without_ids(reader.payload) + without_ids(again.payload)).replace(
            b"retry: 5\n", b""
        )
        assert union == RECORDED.replace(b": a comment\n\n", b"").replace(b"retry: 5\n\n", b"")


def _whole(part: bytes) -> int:
    """How many events have come whole."""
    return len(re.findall(rb"(?>data:[^\r\n]*(?>\r\n|\n|\r))++(?>\r\n|\n|\r)", part))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("cut", range(1, len(RECORDED), 7))
async def test_an_upstream_that_breaks_at_any_byte_never_looks_whole(cut: int) -> None:
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(chunked(RECORDED[:cut]))
        await reader.until(_whole(RECORDED[:cut]))
        peer.close()
        await reader.rest()
        assert (reader.ended, reader.codes) == ("cut", ["upstream_broke"])
        whole = reader.data[:-1]
        assert whole == EVENTS[: len(whole)]
        for after in range(len(whole) + 1):
            cursor = f"{reader.run}-{after}" if after else None
            again = await g.read(path="/at/7", cursor=cursor)
            await again.rest()
            assert (again.data[:-1], again.codes, again.ended) == (
                whole[after:],
                ["upstream_broke"],
                "cut",
            )


async def test_a_lone_first_event_before_a_long_silence_reaches_everybody_at_once() -> None:
    """Nobody's batch: the event is handed on in the step in which its last byte came, and nothing behind it is needed."""
    async with ground() as g:
        reader, peer = await g.begun()
        others = [await g.read() for _ in range(20)]
        await peer.send(event("alone"))
        for each in (reader, *others):
            await each.until(1)
            assert each.data == ["alone"]


@pytest.mark.parametrize("seed", range(12))
async def test_readers_that_come_and_go_get_the_original(seed: int) -> None:
    """Readers join, break off and resume while events come as fast as they are written: no hole, no double, one request."""
    rng = random.Random(seed)
    count = 400
    async with ground() as g:
        first, peer = await g.begun()
        wanted = [str(number) for number in range(count)]

        async def write() -> None:
            at = 0
            while at < count:
                many = rng.randrange(1, 20)
                await peer.send(b"".join(event(n) for n in range(at, min(at + many, count))))
                at += many
                if rng.random() < 0.5:
                    await trio.lowlevel.checkpoint()
            await peer.send(b"0\r\n\r\n")

        async def read() -> None:
            got: list[str] = []
            cursor = None
            while len(got) < count:
                reader: Reader = await g.read(path="/at/7", cursor=cursor)
                stop = rng.randrange(1, count)
                while reader.ended is None and len(reader.events) < stop:
                    await reader.some()
                got += reader.data
                cursor = reader.ids[-1] if reader.ids else cursor
                reader.close()
            assert got == wanted

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(5):
                nursery.start_soon(read)
            nursery.start_soon(first.rest)
        assert first.data == wanted


async def test_a_slow_reader_in_a_flood_is_told_of_one_gap_and_slows_nobody() -> None:
    async with ground(LOGS + 'log = "64KiB"\n') as g:
        quick, peer = await g.begun()
        slow = await g.ask()
        # Not as small as it goes: it is to be overtaken, and then to read on in a moment.
        slow.peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await slow.head()
        await settle(lambda: g.relay.worker.feeds.book.runs[0].viewers == 2)
        text = "x" * 1000
        for start in range(0, 6000, 50):
            await peer.send(b"".join(event(f"{n} {text}") for n in range(start, start + 50)))
            await quick.until(start + 50)
        await peer.send(b"0\r\n\r\n")
        await slow.rest()
        numbers = [int(each.split()[0]) for each in slow.data if text in each]
        gaps = [at for at, each in enumerate(slow.data) if text not in each]
        assert len(gaps) == 1
        assert numbers[: gaps[0]] == list(range(gaps[0]))
        assert numbers[gaps[0] :] == list(range(numbers[gaps[0]], 6000))
        line = await g.relay.line(how="join")
        assert line["ending"] == "complete"


async def test_the_run_survives_the_client_that_began_it() -> None:
    """Its connection breaks inside an event; the request's body, fields and log are the run's own."""
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(chunked(b"data: ha"))
        reader.peer.reset()
        run = g.relay.worker.feeds.book.runs[0]
        await settle(lambda: run.viewers == 0)
        again = await g.read()
        await peer.send(chunked(b"lf\n\n") + b"0\r\n\r\n")
        await again.rest()
        assert again.data == ["half"]


async def test_two_runs_on_one_client_connection() -> None:
    """Keep-alive: the end of one run's view leaves the connection for the next request."""
    async with ground() as g:
        peer = await g.relay.client()
        for key in ("1", "2"):
            await peer.send(b"GET /logs/%b HTTP/1.1\r\nHost: x\r\n\r\n" % key.encode())
            up, _ = await g.taken()
            await up.send(EVENT_HEAD + chunked(b"data: %b\n\n" % key.encode()) + b"0\r\n\r\n")
            reader = Reader(_Shared(peer))
            await reader.head()
            await reader.rest()
            assert (reader.data, reader.ended) == ([key], "clean")


class _Shared(RawPeer):
    """The same connection for one reader after the other."""

    def __init__(self, peer: RawPeer) -> None:
        super().__init__(peer.stream)
