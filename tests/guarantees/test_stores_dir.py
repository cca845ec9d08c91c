"""The directory of streams: a full disk, torn tails, a janitor, and what nobody may leave in it.

Real files; the full disk is a tmpfs of a few pages, where this machine lets the test mount one.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.feeds.endings import bad_end, ended_by_us
from relay.flows.event_log import End, EventLog
from relay.http.bodies import chunk
from relay.observing.ending import COMPLETE, Cause, Ending
from relay.stores.dir_files import Files
from relay.stores.dir_janitor import sweep
from relay.stores.dir_process import Process
from relay.stores.dir_segments import SegmentReader, SegmentWriter, count, split
from relay.stores.dir_store import DirStore
from relay.stores.store import Card, Known, Sealed, StoreUnusable
from tests.guarantees.resume_setup import LOGS, event, ground, keeping
from tests.harness import chunked, settle

LAST = chunked(b"data: last\n\n") + b"0\r\n\r\n"
GIB = 1 << 30


def card(number: int, *, key: str = "k", request: bytes = b"r", keep: float = 300.0) -> Card:
    return Card(
        identity=number.to_bytes(16, "big"),
        id=f"{number:022d}",
        key=key,
        owner=b"o" * 16,
        route="/logs",
        request=request,
        begun_by_get=True,
        number=number,
        limit=1000,
        keep=keep,
    )


def nobody(name: str) -> None:
    """Told of a process that is gone."""


def dead(name: str) -> bool:
    return False


def alive(name: str) -> bool:
    return True


# -- segments ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(f"{tmp_path}/kept")


def chunks(first: int, number: int) -> list[bytes]:
    return [chunk(b"data: %d\n\n" % n) for n in range(first, first + number)]


def test_a_reader_follows_over_segments_and_sees_each_event_once(files: Files) -> None:
    files.enter(card(1), "p", alive)
    writer = SegmentWriter(files, card(1).identity, 100)
    reader = SegmentReader(files, card(1).identity)
    seen: list[bytes] = []
    for at in range(1, 400, 3):
        writer.append(at, chunks(at, 3))
        while True:
            first, events = reader.read()
            if not events:
                break
            assert first == len(seen) + 1
            seen += events
    assert seen == chunks(1, 399)
    assert len(files.segments(card(1).identity)) <= 2
    assert count(files, card(1).identity) == 399
    late = SegmentReader(files, card(1).identity)
    first, events = late.read()
    assert first > 300
    assert events == chunks(first, len(events))
    for each in (reader, late, writer):
        each.close()


def test_a_slow_reader_finds_a_hole_and_not_a_renumbering(files: Files) -> None:
    files.enter(card(1), "p", alive)
    writer = SegmentWriter(files, card(1).identity, 100)
    reader = SegmentReader(files, card(1).identity)
    writer.append(1, chunks(1, 2))
    assert reader.read() == (1, chunks(1, 2))
    for at in range(3, 400):
        writer.append(at, chunks(at, 1))
    got: list[int] = []
    while True:
        first, events = reader.read()
        if not events:
            break
        assert events == chunks(first, len(events))
        got += range(first, first + len(events))
    assert got[-1] == 399
    assert got == sorted(set(got))
    reader.close()
    writer.close()


def test_a_torn_tail_at_any_byte_is_no_event(files: Files) -> None:
    files.enter(card(1), "p", alive)
    writer = SegmentWriter(files, card(1).identity, 1 << 20)
    writer.append(1, chunks(1, 3))
    writer.close()
    path = Path(files.run(card(1).identity)) / "s-1"
    whole = path.read_bytes()
    more = chunk(b"data: the fourth\r\n\r\n")
    for cut in range(len(more)):
        path.write_bytes(whole + more[:cut])
        assert count(files, card(1).identity) == 3
        assert split(whole + more[:cut])[0] == chunks(1, 3)


def test_a_segment_without_events_is_passed_over(files: Files) -> None:
    """
    1. The disk is full when a segment begins, and until the log in memory has lost the event it was for.
    2. A reader that stands there goes on with the next segment.
    """
    files.enter(card(1), "nobody", alive)
    folder = Path(files.run(card(1).identity))
    (folder / "s-1").write_bytes(b"".join(chunks(1, 2)) + b"0\r\n")
    (folder / "s-3").write_bytes(b"0\r\n")
    (folder / "s-7").write_bytes(b"".join(chunks(7, 2)))
    reader = SegmentReader(files, card(1).identity)
    assert reader.read() == (1, chunks(1, 2))
    assert reader.read() == (7, chunks(7, 2))
    assert reader.read() == (9, [])
    (folder / "s-7").write_bytes(b"".join(chunks(7, 2)) + b"0\r\n")
    assert reader.read() == (9, [])
    reader.close()


def test_an_event_that_is_larger_than_a_read(files: Files) -> None:
    files.enter(card(1), "p", alive)
    writer = SegmentWriter(files, card(1).identity, 1 << 22)
    large = chunk(b"data: " + b"x" * 3_000_000 + b"\n\n")
    writer.append(1, [chunk(b"data: a\n\n"), large, chunk(b"data: b\n\n")])
    reader = SegmentReader(files, card(1).identity)
    seen: list[bytes] = []
    while events := reader.read()[1]:
        seen += events
    assert (len(seen), seen[1]) == (3, large)
    reader.close()
    writer.close()


# -- keys, claims, ends ------------------------------------------------------------------------------------------


def test_of_two_that_ask_the_same_one_begins(files: Files) -> None:
    assert files.enter(card(1), "p", alive) is None
    repeated = files.enter(card(2), "q", alive)
    assert isinstance(repeated, Known)
    assert repeated.id == card(1).id
    assert files.card(card(2).identity) is None  # nothing of it is left
    assert files.enter(card(3, request=b"other"), "q", alive) is None
    assert [known.id for known in files.look(None, "k", alive).below] == [card(1).id, card(3).id]


def test_a_candidate_whose_owner_is_dead_holds_up_nobody(files: Files) -> None:
    files.enter(card(1), "p", alive)
    lost = files.enter(card(2), "q", dead)
    assert lost is not None
    assert lost.lost
    ending = ended_by_us(Cause.LOST)
    files.seal(card(1).identity, Sealed(End(clean=False), ending, 0, time.time() + 10))
    assert files.enter(card(2), "q", dead) is None


def test_the_key_never_goes_back(files: Files) -> None:
    for number in (1, 2, 3):
        files.enter(card(number, request=b"%d" % number), "p", alive)

    def current() -> list[str]:
        return [known.id for known in files.look(None, "k", alive).below if known.current]

    files.head(card(2), [])
    assert current() == [card(2).id]
    files.head(card(1), [])  # begun earlier
    assert current() == [card(2).id]
    files.head(card(3), [])
    assert current() == [card(3).id]
    files.forget(card(3))
    assert current() == []
    assert len(files.look(None, "k", alive).below) == 2


def test_what_is_looked_at_does_not_grow_with_what_has_ended(files: Files) -> None:
    """A client that posts message after message below one key does not make each of them dearer than the last."""
    done = Sealed(End(clean=True), COMPLETE, 0, time.time() + 100)
    for number in range(1, 100):
        files.enter(card(number, request=b"%d" % number), "p", alive)
        files.head(card(number), [])
        files.seal(card(number).identity, done)
    files.enter(card(100, request=b"100"), "p", alive)
    below = files.look(None, "k", alive).below
    assert len(below) <= 20
    assert [known.id for known in below if known.current] == [card(99).id]
    assert [known.id for known in below if known.candidate] == [card(100).id]


def test_the_first_end_stands(files: Files) -> None:
    files.enter(card(1), "p", alive)
    first = Sealed(End(clean=True), COMPLETE, 7, time.time() + 10)
    second = Sealed(End(clean=False, over=True), ended_by_us(Cause.STOPPED), 9, time.time() + 10)
    assert files.seal(card(1).identity, first) == first
    assert files.seal(card(1).identity, second) == first
    assert files.seal(card(2).identity, second) is None


# -- whose it is -------------------------------------------------------------------------------------------------


def test_a_directory_that_others_may_read_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    open_to_all.chmod(0o755)
    with pytest.raises(StoreUnusable, match="chmod 700"):
        Files(str(open_to_all))


def test_a_process_is_alive_as_long_as_it_has_its_lock(files: Files) -> None:
    gone: list[str] = []
    one, other = Process(files, gone.append), Process(files, gone.append)
    assert one.alive(other.name)
    other.tell(one.name, b"hello")
    assert one.sock.recv(100) == b"hello"
    name = other.name
    other.close()
    assert not one.alive(name)
    one.tell(name, b"hello")
    assert gone == [name]
    one.close()
    assert os.listdir(files.processes) == []


def test_what_a_full_queue_does_not_take_is_said_again(files: Files) -> None:
    one, other = Process(files, nobody), Process(files, nobody)
    asked: list[int] = []
    one.again = lambda: asked.append(1)
    for number in range(100):
        one.tell(other.name, b"%d" % number)
    heard: list[bytes] = []
    other.sock.setblocking(False)
    while True:
        try:
            heard.append(other.sock.recv(100))
        except BlockingIOError:
            if one.tell_again() and not heard[len(heard) :]:
                break
    while True:
        try:
            heard.append(other.sock.recv(100))
        except BlockingIOError:
            break
    assert asked
    assert heard == [b"%d" % number for number in range(100)]
    one.close()
    other.close()


# -- the janitor -------------------------------------------------------------------------------------------------


def aged(path: str, seconds: float = 1000) -> None:
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            os.utime(f"{folder}/{name}", (time.time() - seconds,) * 2)


def test_what_is_past_its_time_and_what_belongs_to_nobody_goes(files: Files) -> None:
    for number in (1, 2, 3):
        files.enter(card(number, request=b"%d" % number), "nobody", alive)
        files.head(card(number), [])
    done = End(clean=True)
    files.seal(card(1).identity, Sealed(done, COMPLETE, 0, time.time() - 1))
    files.seal(card(2).identity, Sealed(done, COMPLETE, 0, time.time() + 100))
    aged(files.run(card(3).identity))  # its owner is dead, and nobody has asked for it
    os.mkdir(f"{files.root}/runs/{'ab' * 16}")
    os.mkdir(f"{files.root}/keys/left")
    Path(f"{files.root}/keys/left/r-00").touch()
    aged(f"{files.root}/keys/left")
    aged(f"{files.root}/runs/{'ab' * 16}")
    Path(f"{files.processes}/dead.lock").touch()
    sweep(files, GIB)
    assert os.listdir(f"{files.root}/runs") == [card(2).identity.hex()]
    assert os.listdir(f"{files.root}/keys") == ["k"]
    assert os.listdir(files.processes) == []


def test_above_the_space_finished_runs_go_first(files: Files) -> None:
    process = Process(files, nobody)
    for number in range(1, 7):
        files.enter(card(number, request=b"%d" % number), process.name, alive)
        writer = SegmentWriter(files, card(number).identity, 5000)
        for at in range(1, 21):
            writer.append(at, [chunk(b"data: " + b"x" * 500 + b"\n\n")])
        writer.close()
        if number % 2:
            files.seal(
                card(number).identity, Sealed(End(clean=True), COMPLETE, 20, time.time() + 99)
            )
    sweep(files, 50_000)
    left = {int(name, 16) for name in os.listdir(f"{files.root}/runs")}
    assert left == {2, 4, 5, 6}
    sweep(files, 20_000)
    left = {int(name, 16) for name in os.listdir(f"{files.root}/runs")}
    assert left == {2, 4, 6}
    assert all(len(files.segments(card(number).identity)) == 1 for number in left)
    process.close()


# -- a full disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let the test mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_costs_the_readers_of_the_owner_nothing(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """1. A run is kept in a directory. 2. The disk is full. 3. Its reader gets everything, the log says it once. 4. There is
    room again. 5. What was missed is there, for who looks from elsewhere."""
    caplog.set_level(logging.INFO)
    server = f'[streams]\nstore = "dir:{small}/kept"\n'
    async with ground(server=server) as g:
        store: Any = g.relay.worker.feeds.elsewhere.store  # type: ignore[union-attr]
        reader, peer = await g.begun()
        await peer.send(event(1))
        await reader.until(1)
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        for number in range(2, 200):
            await peer.send(event(f"{number} " + "y" * 100))
        await reader.until(199)
        assert store.errors["append"] == 1
        said = [each for each in caplog.messages if "fails" in each]
        assert len(said) == 1
        other, other_peer = await g.begun(path="/logs/8")  # a new one, too
        await other_peer.send(event("new"))
        await other.until(1)
        joined = await g.read(path="/at/8")
        await joined.until(1)
        await trio.to_thread.run_sync(filler.unlink)
        await settle(lambda: any("written again" in each for each in caplog.messages))
        [known] = [each for each in g.runs if each.id == reader.run]
        assert count(store.files, known.identity) == 199
        await peer.send(LAST)
        await other_peer.send(LAST)
        for each in (reader, other, joined):
            await each.rest()
            assert each.ended == "clean"
        again = await g.read(path="/at/7", cursor=f"{reader.run}-197")
        await again.rest()
        assert [each.split()[0] for each in again.data] == ["198", "199", "last"]
        g.relay.faults.clear()  # that the disk was full was said as an error


# -- the contract of a store -------------------------------------------------------------------------------------


class Owned:
    """An owner without readers."""

    def __init__(self) -> None:
        self.log = EventLog(1000)
        self.watched: list[int] = []
        self.ended: list[Sealed] = []

    def last_words(self) -> tuple[End, Ending]:
        raise AssertionError("a directory loses nothing")

    def kept_elsewhere(self) -> None:
        pass

    def watched_elsewhere(self, processes: int) -> None:
        self.watched.append(processes)

    def ended_elsewhere(self, sealed: Sealed) -> None:
        self.log.seal(sealed.end)
        self.ended.append(sealed)


class Mirrored:
    """A reader that remembers what it was told."""

    def __init__(self) -> None:
        self.fields: object = None
        self.events: list[tuple[int, bytes]] = []
        self.end: Sealed | None = None

    def head(self, fields: object) -> None:
        self.fields = fields

    def take(self, first: int, events: list[bytes]) -> None:
        assert self.end is None
        self.events += list(enumerate(events, first))

    def ended(self, sealed: Sealed) -> None:
        assert self.end is None
        self.end = sealed

    def last_words(self) -> tuple[End, object]:
        return End(clean=False), ended_by_us(Cause.LOST)


async def test_two_stores_over_one_directory(tmp_path: Path) -> None:
    root = f"{tmp_path}/kept"
    one = card(1)._replace(limit=1 << 20)
    here, there = DirStore(root, lambda: GIB), DirStore(root, lambda: GIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        owner, reader = Owned(), Mirrored()
        journal = await here.begin(one)
        assert not isinstance(journal, Known)
        journal.owner = owner
        tail = await there.read(card(1).identity, reader)  # type: ignore[arg-type]
        assert tail is not None
        await settle(lambda: owner.watched == [1])
        await journal.head([(b"x-a", b"b")])
        await settle(lambda: reader.fields == [(b"x-a", b"b")])
        for number in range(1, 2001):
            owner.log.append(b"data: %d\n\n" % number)
            journal.grown()
        await settle(lambda: len(reader.events) == 2000)
        assert [number for number, _ in reader.events] == list(range(1, 2001))
        ending = ended_by_us(Cause.STOPPED)
        end = End(clean=False, over=True)
        stands = await there.seal(card(1).identity, end, ending)
        assert stands is not None
        assert stands.last == 2000
        await settle(lambda: owner.ended == [stands] and reader.end == stands)
        journal.grown()
        assert journal.seal(End(clean=True), COMPLETE) == stands
        tail.close()
        nursery.cancel_scope.cancel()
    assert os.listdir(f"{root}/processes") == []


def test_the_words_of_a_bad_end_do_not_depend_on_who_finds_it() -> None:
    from relay.config import loads

    text = '[upstreams.m]\nurl = "http://127.0.0.1:1"\n[[routes]]\npath = "/x"\nmethods = ["GET"]\n'
    config = loads(text + 'upstream = "m"\n[routes.resume]\n', {})
    [route] = config.routes
    end = bad_end(route, "r" * 22, ended_by_us(Cause.LOST))
    assert b"id: " + b"r" * 22 + b"-end" in end.last_words


async def test_an_end_that_its_owner_has_not_heard_of_yet() -> None:
    """
    1. A run that nobody watches.
    2. Another process puts down its end, and the word of it has not come to the owner yet.
    3. Who asks the owner for the run gets all of it, with its end; nothing is wrong afterwards, and the next one too.
    """
    with keeping("dir"):
        async with ground(LOGS) as place:
            first, peer = await place.begun()
            await peer.send(event(1) + event(2))
            await first.until(2)
            first.close()
            feeds = place.relay.worker.feeds
            [run] = feeds.book.runs
            await settle(lambda: not run.viewers)
            assert feeds.elsewhere is not None
            files = feeds.elsewhere.store.files  # type: ignore[attr-defined]
            ending = ended_by_us(Cause.STOPPED)
            files.seal(run.identity, Sealed(End(clean=True), ending, 2, time.time() + 100))
            for _ in range(2):
                again = await place.read(path="/at/7")
                await again.rest()
                assert (again.data, again.ended) == (["1", "2"], "clean")
            line = await place.line(at="end", how="replay")
            assert line["ending"] != "fault"
