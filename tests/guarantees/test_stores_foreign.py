"""What stands in a store and is not what relay wrote: torn, foreign, of another version, or made to hurt.

Files, before whatever is written over them: two runs of one key in a directory, one of them healthy.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from relay.feeds.endings import ended_by_us
from relay.flows.event_log import End, EventLog
from relay.http.bodies import Fields, chunk
from relay.observing.ending import COMPLETE, Cause, Ending
from relay.stores.dir_files import LARGEST, Files
from relay.stores.dir_janitor import sweep
from relay.stores.dir_segments import SegmentReader, SegmentWriter, split
from relay.stores.dir_store import DirStore
from relay.stores.redis_tail import chunks_in
from relay.stores.store import Card, Known, Sealed
from relay.stores.written import NotOurs, as_json, read_card, read_end, read_fields, written_card
from tests.harness import LIMIT, settle

GIB = 1 << 30
PROCESS = "0123456789abcdef"


def card(number: int) -> Card:
    return Card(
        identity=number.to_bytes(16, "big"),
        id=f"{number:022d}",
        key="k",
        owner=b"o" * 16,
        route="/logs",
        request=b"%d" % number,
        begun_by_get=True,
        number=number,
        limit=1000,
        keep=300.0,
    )


BROKEN, HEALTHY = card(1), card(2)


def alive(name: str) -> bool:
    return True


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Two runs that have ended."""
    files = Files(f"{tmp_path}/kept")
    for one in (BROKEN, HEALTHY):
        files.enter(one, PROCESS, alive)
        files.head(one, [(b"x-a", b"b")])
        Path(f"{files.run(one.identity)}/s-1").write_bytes(chunk(b"data: 1\n\n"))
        files.seal(one.identity, Sealed(End(clean=True), COMPLETE, 1, time.time() + 100))
    return files


def aged(path: str) -> None:
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            os.utime(f"{folder}/{name}", (time.time() - 1000,) * 2, follow_symlinks=False)


def written(name: str, data: bytes) -> Callable[[Files], None]:
    return lambda files: write(f"{files.run(BROKEN.identity)}/{name}", data)


def write(path: str, data: bytes) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path).write_bytes(data)


def changed(name: str, **members: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        path = f"{files.run(BROKEN.identity)}/{name}"
        write(path, as_json(json.loads(Path(path).read_bytes()) | members))

    return change


def made(name: str, make: Callable[[str], object]) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        path = f"{files.run(BROKEN.identity)}/{name}"
        os.unlink(path)
        make(path)

    return change


def linked(path: str) -> None:
    os.symlink("/etc/hostname", path)


RUNS: dict[str, Callable[[Files], None]] = {
    "a torn head": written("head", b'{"identity":"00'),
    "another version's head": written("head", b'{"version":9}'),
    "a head that is no object": written("head", b"[]"),
    "a head that is deep": written("head", b"[" * 100_000),
    "a head that is no text": written("head", b"\xff\xfe"),
    "a head without end": written("head", b" " * (LARGEST + 1)),
    "a head of another run": changed("head", identity=HEALTHY.identity.hex()),
    "a key that leads elsewhere": changed("head", key="../../../x"),
    "a process that leads elsewhere": changed("head", process="../../x\0"),
    "a number that is none": changed("head", number="1"),
    "a time that is none": changed("head", keep="long"),
    "a pipe for a head": made("head", os.mkfifo),
    "a folder for a head": made("head", os.mkdir),
    "a link for a head": made("head", linked),
    "torn fields": written("fields", b'[["a"'),
    "fields that split the answer": written("fields", b'[["a","b\\r\\nset-cookie: c"]]'),
    "a field's name that splits it": written("fields", b'[["a: b\\r\\nc","d"]]'),
    "fields that are none": written("fields", b'{"a":1}'),
    "a pipe for fields": made("fields", os.mkfifo),
    "a torn end": written("end", b'{"clean":tr'),
    "an end without a cause": changed("end", ending=["a", "b", "c", "d"]),
    "an end at no event": changed("end", last="x"),
    "an end that is never over": changed("end", until=1e999),
    "an answer that is none": changed("end", answer=[99, [], ""]),
    "a pipe for an end": made("end", os.mkfifo),
}
SEGMENTS: dict[str, bytes] = {
    "a size below zero": b"-6\r\n" * 3,
    "a size that is not what was written": b"+3\r\nabc\r\n",
    "a size in another spelling": b"0x3\r\nabc\r\n",
    "a size without bound": b"fffffffffffffff\r\n" + b"x" * 300_000,
    "a chunk that is longer than its size": b"3\r\nabcd\r\n",
    "no chunk": b"data: 1\n\n" * 10,
    "no line": b"x" * 300_000,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_not_ours_is_not_there_and_goes(files: Files, name: str) -> None:
    """
    1. Something else stands where a file of a run stood.
    2. Whoever looks finds the other run of the key, and not this one; nobody waits, nothing is raised.
    3. The janitor takes it away when it is old, and leaves the other one.
    """
    RUNS[name](files)
    assert files.known(BROKEN.identity, alive) is None
    look = files.look(BROKEN.identity, "k", alive)
    assert look.run is None
    assert [known.card for known in look.below] == [HEALTHY]
    sweep(files, GIB)
    assert files.known(HEALTHY.identity, alive) is not None
    aged(files.run(BROKEN.identity))
    sweep(files, GIB)
    assert not os.path.exists(f"{files.run(BROKEN.identity)}/head")
    assert files.known(HEALTHY.identity, alive) is not None


async def test_no_reader_waits_for_a_run_that_is_not_ours(tmp_path: Path) -> None:
    """Each kind, and each kind of segment, through a store: its reader hears of an end, and the store goes on."""
    root = f"{tmp_path}/kept"
    here, there = DirStore(root, lambda: GIB), DirStore(root, lambda: GIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        number = 10
        for data in SEGMENTS.values():
            number += 1
            one = card(number)._replace(key=f"k{number}")
            await here.begin(one)
            here.files.head(one, [])
            write(f"{root}/runs/{one.identity.hex()}/s-1", chunk(b"data: 1\n\n") + data)
            reader = Ended()
            with trio.fail_after(LIMIT):
                tail = await there.read(one.identity, reader)  # type: ignore[arg-type]
            if tail is not None:
                await settle(lambda reader=reader: reader.end is not None)  # type: ignore[misc]
                tail.close()
            assert all(event.endswith(b"\r\n") for event in reader.events)
        assert there.errors
        nursery.cancel_scope.cancel()


async def test_a_run_that_is_broken_while_it_is_read_ends_for_its_reader(tmp_path: Path) -> None:
    """
    1. A run of a process that lives is read by another one.
    2. Nonsense comes where its next event should be.
    3. The reader is told that it is over, and the store serves the others.
    """
    root = f"{tmp_path}/kept"
    here, there = DirStore(root, lambda: GIB), DirStore(root, lambda: GIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        journal = await here.begin(BROKEN)
        assert not isinstance(journal, Known)
        owner = Owned()
        journal.owner = owner
        await journal.head([])
        reader = Ended()
        tail = await there.read(BROKEN.identity, reader)  # type: ignore[arg-type]
        assert tail is not None
        await settle(lambda: owner.watched == 1)
        owner.log.append(b"data: 1\n\n")
        journal.grown()
        await settle(lambda: len(reader.events) == 1)
        async with await trio.open_file(f"{root}/runs/{BROKEN.identity.hex()}/s-1", "ab") as more:
            await more.write(b"x" * 100)
        owner.log.append(b"data: 2\n\n")  # over the beginning of it
        journal.grown()
        await settle(lambda: reader.end is not None)
        assert reader.events == [chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n")]
        nursery.cancel_scope.cancel()


class Owned:
    """A run of this process."""

    def __init__(self) -> None:
        self.log = EventLog(1000)
        self.watched = 0

    def last_words(self) -> tuple[End, Ending]:
        raise AssertionError

    def kept_elsewhere(self) -> None:
        pass

    def watched_elsewhere(self, processes: int) -> None:
        self.watched = processes

    def ended_elsewhere(self, sealed: Sealed) -> None:
        raise AssertionError


class Ended:
    """A reader that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.end: Sealed | None = None

    def head(self, fields: Fields) -> None:
        pass

    def take(self, first: int, events: list[bytes]) -> None:
        self.events += events

    def ended(self, sealed: Sealed) -> None:
        self.end = sealed

    def last_words(self) -> tuple[End, object]:
        return End(clean=False), ended_by_us(Cause.LOST)


def test_what_else_lies_in_the_directory_stops_no_janitor(files: Files, tmp_path: Path) -> None:
    """
    1. Files, folders and links that are none of relay's lie everywhere; one leads out of the directory.
    2. What is past its time goes all the same, once and again.
    3. What lies behind the link is as it was.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"precious")
    root = files.root
    for name in (".DS_Store", "lost+found", "x" * 32, "ab" * 15):
        Path(f"{root}/runs/{name}").touch()
        Path(f"{root}/keys/{name}").touch()
        Path(f"{root}/processes/{name}").touch()
    os.mkdir(f"{root}/runs/{'cd' * 16}")
    os.mkdir(f"{root}/runs/{'cd' * 16}/deeper")
    os.symlink(outside, f"{root}/runs/{'ef' * 16}")
    os.symlink(outside, f"{root}/keys/elsewhere")
    for name in ("c-x", "a-", "e-00", "r-x", f"c-{9:020d}-{'z' * 32}"):
        Path(f"{root}/keys/k/{name}").touch()
    os.mkdir(f"{root}/keys/k/c-{9:020d}-{'9' * 32}")
    os.mkdir(f"{root}/processes/{PROCESS}.lock")
    os.symlink("/etc/hostname", f"{root}/processes/{'1' * 16}.lock")
    over = Path(f"{files.run(BROKEN.identity)}/end")
    write(str(over), over.read_bytes().replace(b'"until":', b'"until":1,"was":'))
    aged(root)
    for _ in range(2):
        sweep(files, GIB)
        assert files.known(BROKEN.identity, alive) is None
        assert not os.path.exists(f"{files.run(BROKEN.identity)}/head")
        assert [known.card for known in files.look(None, "k", alive).below] == [HEALTHY]
    assert (outside / "mine").read_bytes() == b"precious"


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_that_is_not_ours_is_read_no_further(files: Files, name: str) -> None:
    data = chunk(b"data: 1\n\n") + SEGMENTS[name]
    Path(f"{files.run(BROKEN.identity)}/s-1").write_bytes(data)
    Path(f"{files.run(BROKEN.identity)}/s-next").touch()
    reader = SegmentReader(files, BROKEN.identity)
    assert reader.read() == (1, [chunk(b"data: 1\n\n")])
    with pytest.raises(NotOurs):
        reader.read()
    reader.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, linked])
def test_what_is_no_file_is_no_segment(files: Files, make: Callable[[str], object]) -> None:
    path = f"{files.run(BROKEN.identity)}/s-1"
    os.unlink(path)
    make(path)
    reader = SegmentReader(files, BROKEN.identity)
    with pytest.raises(NotOurs):
        reader.read()
    with pytest.raises(OSError, match=r"Is a|No such|Too many"):
        SegmentWriter(files, BROKEN.identity, 1000).append(1, [chunk(b"data: 1\n\n")])


@pytest.mark.parametrize("name", SEGMENTS)
def test_an_entry_that_is_not_ours_is_read_no_further(name: str) -> None:
    """The same in Redis, where an entry is whole."""
    assert chunks_in(chunk(b"data: 1\n\n") + SEGMENTS[name]) == [chunk(b"data: 1\n\n")]


def test_a_segment_that_is_torn_anywhere_is_not_foreign() -> None:
    data = b"".join(chunk(b"data: %d\n\n" % number) for number in (1, 2, 3)) + b"0\r\n"
    for cut in range(len(data)):
        events, used, _, _ = split(data[:cut])
        assert b"".join(events) == data[:used]


@pytest.mark.parametrize("read", [read_card, read_end, read_fields])
@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"1", b'"a"', b"[]x", b"[[]]", b"{}", b"[1]", b"[" * 10**6, b'["a"]', b"\0"],
)
def test_what_is_not_ours_is_said_to_be_so(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(NotOurs):
        read(data)


def test_what_was_written_is_read() -> None:
    assert read_card(written_card(BROKEN, PROCESS)) == (BROKEN, PROCESS)
    assert read_fields(b'[["a","b\\u00e9\\t"]]') == [(b"a", b"b\xe9\t")]
