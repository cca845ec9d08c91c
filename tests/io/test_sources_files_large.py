"""Files that are larger than what is sent with their head: nothing of them is held, nothing stays open."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from relay.exchange import file_body
from relay.sources import files as files_source
from tests.harness import LIMIT, RawPeer, Relay, running, settle

SIZE = 16 * 1024 * 1024
CONTENT = os.urandom(64 * 1024) * (SIZE // (64 * 1024))
GET = b"GET /large HTTP/1.1\r\nHost: relay.test\r\n\r\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(CONTENT)
    (tmp_path / "folder").mkdir()
    return tmp_path


@asynccontextmanager
async def serving(site: Path, keys: str = "") -> AsyncIterator[Relay]:
    text = f"""
[[routes]]
path = "/{{rest...}}"
source = "files"
{keys}
[routes.files]
directory = "{site}"
"""
    async with running(text) as relay:
        yield relay


async def body_of(peer: RawPeer) -> bytes:
    head = await peer.head()
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"\r\ncontent-length: %d\r\n" % SIZE in head
    return await peer.exactly(SIZE)


@pytest.mark.parametrize("kind", ["socket", "in memory"])
async def test_a_large_file_is_sent_whole(site: Path, kind: str) -> None:
    async with serving(site) as relay:
        before = relay.inventory()
        peer = await relay.client() if kind == "socket" else relay.attach(memory_stream_pair())
        for _ in range(2):
            await peer.send(GET)
            assert await body_of(peer) == CONTENT
            line = await relay.line()
            assert (line["ending"], line["bytes_out"]) == ("complete", SIZE)
        peer.close()
        await relay.nothing_left(before)


async def test_what_is_not_in_memory_is_read_by_a_thread(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_body, "is_cached", lambda fd, at: False)
    async with serving(site) as relay:
        peer = await relay.client()
        await peer.send(GET)
        assert await body_of(peer) == CONTENT


async def test_a_file_system_without_sendfile(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sendfile(*given: object) -> int:
        raise OSError(errno.EINVAL, "not like this")

    monkeypatch.setattr(os, "sendfile", sendfile)
    async with serving(site) as relay:
        peer = await relay.client()
        await peer.send(GET)
        assert await body_of(peer) == CONTENT


@pytest.mark.parametrize("kind", ["socket", "in memory"])
async def test_clients_that_do_not_read_hold_nothing_of_it(site: Path, kind: str) -> None:
    """1. Forty clients ask for 16 MiB. 2. None of them reads. 3. relay holds a piece for each at most."""
    async with serving(site) as relay:
        before = relay.inventory()
        tracemalloc.start()
        try:
            peers: list[RawPeer] = []
            for _ in range(40):
                if kind == "socket":
                    peer = await relay.client()
                    peer.shrink()
                else:
                    peer = relay.attach(lockstep_stream_pair())  # it buffers nothing
                await peer.send(GET)
                await peer.head()
                peers.append(peer)
            await settle(lambda: not relay.worker.threads.files.borrowed_tokens)
            await trio.testing.wait_all_tasks_blocked()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 1024 * 1024
        for peer in peers:
            peer.close()
        await relay.nothing_left(before)


async def test_a_client_that_leaves_leaves_nothing_open(site: Path) -> None:
    async with serving(site) as relay:
        before = relay.inventory()
        for how in ("close", "reset"):
            peer = await relay.client()
            peer.shrink()
            await peer.send(GET)
            await peer.head()
            getattr(peer, how)()
            line = await relay.line()
            assert (line["ending"], line["phase"]) == ("client_left", "body")
            sent = line["bytes_out"]
            assert isinstance(sent, int)
            assert sent < SIZE
        await relay.nothing_left(before)


async def test_a_client_that_stops_reading_is_ended(site: Path) -> None:
    async with serving(site, 'timeouts = { write = "100ms" }') as relay:
        before = relay.inventory()
        peer = await relay.client()
        peer.shrink()
        await peer.send(GET)
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("client_stalled", "client")
        peer.close()
        await relay.nothing_left(before)


async def test_a_file_that_became_shorter_is_seen_to_be_cut(site: Path) -> None:
    """1. The head promises 16 MiB. 2. The file is truncated. 3. The client gets less, and the connection ends."""
    async with serving(site) as relay:
        peer = await relay.client()
        await peer.send(GET)
        await peer.head()
        os.truncate(site / "large", 1000)
        assert len(await peer.rest()) < SIZE
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_broke", "relay")


async def test_a_file_that_grew_is_sent_as_it_was_promised(site: Path) -> None:
    async with serving(site) as relay:
        peer = await relay.client()
        await peer.send(GET)
        head = await peer.head()
        with (site / "large").open("ab") as file:
            file.write(b"more")
        assert b"content-length: %d\r\n" % SIZE in head
        assert await peer.exactly(SIZE) == CONTENT
        await peer.send(GET)
        assert b"content-length: %d\r\n" % (SIZE + 4) not in await peer.head(), "over MAX_FILE now"


@pytest.mark.parametrize("fields", [b"If-None-Match: *\r\n", b""], ids=["304", "head"])
async def test_an_answer_without_the_body_leaves_nothing_open(site: Path, fields: bytes) -> None:
    async with serving(site) as relay:
        before = relay.inventory()
        peer = await relay.client()
        method = b"GET" if fields else b"HEAD"
        await peer.send(method + b" /large HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 304 " if fields else b"HTTP/1.1 200 ")
        await peer.send(GET)
        assert await body_of(peer) == CONTENT, "the connection is in step"
        peer.close()
        await relay.nothing_left(before)


async def test_gone_while_the_disk_is_waited_for(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The disk hangs. 2. The client leaves: nobody waits. 3. The disk comes back: the file is closed at once."""
    asked, hangs, find = Event(), Event(), files_source.find

    def slowly(directory: Path, path: bytes) -> object:
        asked.set()
        assert hangs.wait(LIMIT)
        return find(directory, path)

    monkeypatch.setattr(files_source, "find", slowly)
    async with serving(site) as relay:
        before = relay.inventory()
        peer = await relay.client()
        await peer.send(GET)
        await settle(asked.is_set)
        peer.close()
        assert (await relay.line())["ending"] == "client_left"
        hangs.set()
        await settle(lambda: relay.worker.threads.files.borrowed_tokens == 0)
        await relay.nothing_left(before)


async def test_a_disk_that_hangs_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = Event()
    monkeypatch.setattr(files_source, "find", lambda *given: hangs.wait(LIMIT))
    async with serving(site, 'timeouts = { response_head = "50ms" }') as relay:
        peer = await relay.client()
        await peer.send(GET)
        assert (await peer.head()).startswith(b"HTTP/1.1 504 ")
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_silent", "relay")
        hangs.set()


async def test_the_slash_of_a_folder_keeps_the_query(site: Path) -> None:
    async with serving(site) as relay:
        for target, location in (
            (b"/folder?a=1&b=%2F?", b"/folder/?a=1&b=%2F?"),
            (b"/folder", b"/folder/"),
        ):
            peer = await relay.client()
            await peer.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            head = await peer.head()
            assert head.startswith(b"HTTP/1.1 308 ")
            assert b"\r\nlocation: %b\r\n" % location in head
