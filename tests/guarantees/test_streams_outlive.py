"""The promise: a stream outlives its reader's process, and its owner's death is told.

Real processes over one directory: four workers, a relay that takes over from another, and kills.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.guarantees.relay_processes import children_of, owner_of, stop, wait_gone
from tests.guarantees.resume_setup import LOGS, ROUTE, Ground, Reader, event
from tests.guarantees.test_restart import Unit
from tests.harness import LIMIT, RawPeer, Upstream, chunked
from tests.interop.processes import Server, start_relay

STREAMS = int(os.environ.get("RELAY_STREAMS", "40"))
READERS = 16  # by the kernel's hash all of them at one of four workers once in 4**15
LAST = chunked(b"data: last\n\n") + b"0\r\n\r\n"


class Served:
    """A relay in its own processes, as a ground asks it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.clients: list[RawPeer] = []

    async def client(self) -> RawPeer:
        self.clients.append(await RawPeer.connect(self.server.port))
        return self.clients[-1]

    @property
    def workers(self) -> list[int]:
        """Those that serve."""
        return children_of(self.server.pid)


class Outside(Ground):
    """A ground of processes. Its peers stay open until the end of the test."""

    def __init__(self, relay: Served, upstream: Upstream) -> None:
        super().__init__([relay], upstream)  # type: ignore[list-item]
        self.peers: list[RawPeer] = []

    async def taken(self) -> tuple[RawPeer, bytes]:
        peer, head = await super().taken()
        self.peers.append(peer)
        return peer, head


def config(up: Upstream, workers: int, store: str, drain: str = "2s") -> str:
    resume = LOGS + 'stop = true\nunwatched = "10m"\n'
    return (
        f'[server]\nlisten = "${{LISTEN}}"\nworkers = {workers}\n[streams]\nstore = "{store}"\n'
        f'[timeouts]\ndrain = "{drain}"\n'
        + ROUTE.format(
            url=up.url, path="/logs/{id}", method="GET", route="", resume=resume, more=""
        )
    )


@asynccontextmanager
async def workers(count: int = 4, store: str = "auto") -> AsyncIterator[tuple[Ground, Served]]:
    up = await Upstream.open()
    try:
        with start_relay(config(up, count, store)) as server:
            served = Served(server)
            yield Outside(served, up), served
    finally:
        up.close()
        RawPeer.close_all()


async def spread(g: Ground, served: Served, path: str = "/logs/7") -> list[Reader]:
    """Readers of one stream at several workers."""
    readers = [await g.read(path=path) for _ in range(READERS)]
    places = {owner_of(served.workers, reader.peer) for reader in readers}
    assert len(places) > 1
    return readers


async def test_any_worker_serves_any_stream_over_one_upstream_request() -> None:
    async with workers() as (g, served):
        first, peer = await g.begun()
        await peer.send(event(1) + event(2))
        readers = await spread(g, served)
        assert {reader.run for reader in readers} == {first.run}
        for number in range(3, 200):
            await peer.send(event(number))
        await peer.send(LAST)
        for reader in (first, *readers):
            await reader.rest()
            assert reader.data == [*map(str, range(1, 200)), "last"]
            assert reader.ids == [f"{first.run}-{n}" for n in range(1, 201)]
            assert reader.ended == "clean"
        later = [await g.read(cursor=f"{first.run}-150", path="/at/7") for _ in range(READERS)]
        for reader in later:
            await reader.rest()
            assert (len(reader.events), reader.ended) == (50, "clean")


async def test_a_stop_at_another_worker_stops_the_run() -> None:
    """1. A run is under way. 2. DELETE comes to every worker in turn. 3. Within two seconds the upstream is closed, and all
    readers have the terminal event; what is kept says so to whoever asks."""
    async with workers() as (g, served):
        stopped = 0
        for number in range(8):
            path = f"/logs/{number}"
            first, peer = await g.begun(path=path)
            await peer.send(event(1))
            await first.until(1)
            asked = await g.read("DELETE", f"/at/{number}")
            assert asked.status == 204
            own = owner_of(served.workers, first.peer) == owner_of(served.workers, asked.peer)
            stopped += not own
            with trio.fail_after(2):
                await peer.ended()
            await first.rest()
            assert first.codes == ["stopped"]
            later = await g.read(path=f"/at/{number}")
            await later.rest()
            assert later.codes == ["stopped"]
        assert stopped


async def test_the_readers_of_a_killed_owner_are_told() -> None:
    """1. A run has readers at several workers. 2. Its owner is killed. 3. Within ten seconds everyone else has all events
    and the end `lost`. 4. The key is free."""
    async with workers() as (g, served):
        first, peer = await g.begun()
        await peer.send(event(1) + event(2))
        readers = await spread(g, served)
        for reader in readers:
            await reader.until(2)
        owner = owner_of(served.workers, first.peer)
        others = [each for each in readers if owner_of(served.workers, each.peer) != owner]
        os.kill(owner, signal.SIGKILL)
        with trio.fail_after(10):
            for reader in others:
                await reader.rest()
        for reader in others:
            assert (reader.data[:2], reader.codes, reader.ended) == (["1", "2"], ["lost"], "cut")
            assert reader.ids[-1] == f"{first.run}-end"
        again, _ = await g.begun()
        assert again.run != first.run


async def test_who_asks_for_the_run_of_a_dead_owner_is_told_at_once() -> None:
    async with workers(2) as (g, served):
        first, peer = await g.begun()
        await peer.send(event(1))
        await first.until(1)
        owner = owner_of(served.workers, first.peer)
        os.kill(owner, signal.SIGKILL)
        await wait_gone(owner)
        with trio.fail_after(2):
            resumed = await g.read(path="/at/7", cursor=f"{first.run}-1")
            await resumed.rest()
        assert (resumed.codes, resumed.ids[-1]) == (["lost"], f"{first.run}-end")


async def test_the_readers_of_a_killed_worker_do_not_keep_a_run_alive() -> None:
    """1. The last readers of a run are at another worker. 2. That one is killed. 3. The owner learns that nobody watches."""
    async with workers(2) as (g, served):
        first, peer = await g.begun(path="/logs/7")
        await peer.send(event(1))
        owner = owner_of(served.workers, first.peer)
        readers = await spread(g, served)
        elsewhere = [each for each in readers if owner_of(served.workers, each.peer) != owner]
        await elsewhere[0].until(1)
        for each in (first, *readers):
            if each not in elsewhere:
                each.close()
        await peer.send(event(2))
        await elsewhere[0].until(2)
        asked = await g.read("DELETE", "/at/7")
        assert asked.status == 204
        with trio.fail_after(LIMIT):
            await peer.ended()


@pytest.mark.parametrize("how", ["takeover", "systemd"])
async def test_a_relay_that_takes_over_serves_what_the_old_one_still_owns(
    how: str, tmp_path: Path
) -> None:
    """1. Streams under way, of nobody in particular. 2. Another takes over the address, or has the same socket of systemd's;
    the old one drains. 3. Its readers are sent away, come back with their cursors to the new one, and miss nothing, while
    the old one still reads the upstreams; that so many are unwatched for a moment stops none of them.

    Five hundred: RELAY_STREAMS=500
    """
    up = await Upstream.open()
    try:
        with ExitStack() as stack:
            text = config(up, 2, f"dir:{tmp_path}/kept", drain=f"{20 + STREAMS / 5:g}s")
            if how == "systemd":
                sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
                unit = Unit(tmp_path, text.replace("${LISTEN}", "fd:web"), {"web": sock})
                old = stack.enter_context(unit.start())
                old.address = f"127.0.0.1:{sock.getsockname()[1]}"
            else:
                old = stack.enter_context(start_relay(text))
            g = Outside(Served(old), up)
            begun = [await g.begun(path=f"/logs/{number}") for number in range(STREAMS)]
            for reader, peer in begun:
                await peer.send(event(1))
                await reader.until(1)
            listen = {"LISTEN": f"127.0.0.1:{old.port}"}
            new = unit.start() if how == "systemd" else start_relay(text, listen, "--takeover")
            successor = stack.enter_context(new)
            os.kill(old.pid, signal.SIGTERM)
            for number, (reader, peer) in enumerate(begun):
                await reader.rest()
                assert reader.ended == "cut"
                await peer.send(event(2))
                seen = [each.rpartition("-")[2] for each in reader.ids if each]
                resumed = await g.read(path=f"/at/{number}", cursor=f"{reader.run}-{seen[-1]}")
                assert resumed.status == 200
                assert owner_of(children_of(successor.pid), resumed.peer)
                await peer.send(event(3) + LAST)
                await resumed.rest()
                data = [text for text in reader.data + resumed.data if not text.startswith("{")]
                assert data == ["1", "2", "3", "last"]
                assert (resumed.run, resumed.ended) == (reader.run, "clean")
            with trio.fail_after(LIMIT):
                while old.process.poll() is None:  # noqa: ASYNC110 - it is a subprocess
                    await trio.sleep(0.02)
            assert old.process.returncode == 0
    finally:
        up.close()
        RawPeer.close_all()


async def test_an_owner_that_is_stopped_and_continued_keeps_its_run() -> None:
    """A directory has no lease: the run waits with its owner, and nobody puts down an end for it."""
    async with workers(2) as (g, served):
        first, peer = await g.begun()
        await peer.send(event(1))
        readers = await spread(g, served)
        owner = owner_of(served.workers, first.peer)
        [other, *_] = [each for each in readers if owner_of(served.workers, each.peer) != owner]
        await other.until(1)
        stop(owner)
        try:
            await peer.send(event(2))
            with trio.move_on_after(6) as waited:
                await other.some()
            assert waited.cancelled_caught
        finally:
            os.kill(owner, signal.SIGCONT)
        await peer.send(LAST)
        await other.rest()
        assert (other.data, other.ended) == (["1", "2", "last"], "clean")


async def test_what_could_not_be_read_is_read_later(tmp_path: Path) -> None:
    """1. A reader stands at a relay that is not its run's. 2. That one has no descriptor left. 3. All events and the end
    come. 4. It has descriptors again: nobody wakes it any more, and its reader gets all of it."""
    up = await Upstream.open()
    try:
        with ExitStack() as stack:
            text = config(up, 1, f"dir:{tmp_path}/kept")
            g, other = (Outside(Served(stack.enter_context(start_relay(text))), up) for _ in "ab")
            first, peer = await g.begun()
            away = await other.read(path="/at/7")
            pid = other.relay.server.pid  # type: ignore[attr-defined]
            used = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
            free = next(number for number in range(len(used) + 1) if number not in used)
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
            await peer.send(event(1) + LAST)
            await first.rest()
            await trio.to_thread.run_sync(
                other.relay.server.stderr.wait_for,  # type: ignore[attr-defined]
                "the streams' directory",
            )
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await away.rest()
            assert (away.data, away.ended) == (["1", "last"], "clean")
    finally:
        up.close()
        RawPeer.close_all()


async def test_the_directory_of_auto_goes_with_the_relay(tmp_path: Path) -> None:
    up = await Upstream.open()
    try:
        environment = {"TMPDIR": str(tmp_path)}
        with start_relay(config(up, 2, "auto"), environment) as server:
            g = Outside(Served(server), up)
            first, peer = await g.begun()
            await peer.send(LAST)
            await first.rest()
            [directory] = tmp_path.glob("relay-streams-*")  # noqa: ASYNC240
            assert directory.stat().st_mode & 0o777 == 0o700
            for path in directory.rglob("*"):
                assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".sock", path
            first.close()
            server.stop()
        assert not list(tmp_path.glob("relay-streams-*"))  # noqa: ASYNC240
    finally:
        up.close()
        RawPeer.close_all()
