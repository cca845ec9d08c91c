"""The promise, with real processes at their limit of descriptors: who is connected is served, what waits is served
later, and neither `/metrics` nor SIGHUP costs a worker."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.guarantees.admin_setup import Admin
from tests.guarantees.relay_processes import children_of, is_gone
from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Upstream, chunked
from tests.interop.processes import Server, start, wait_until

FEW = 128  # descriptors of each process
CONFIG = """
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = {workers}
[timeouts]
drain = "1s"
[upstreams.backend]
url = "{url}"
[[routes]]
path = "/files/{{rest...}}"
source = "files"
[routes.files]
directory = "{folder}"
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
"""


@contextmanager
def few_descriptors(up: Upstream, folder: Path, workers: int) -> Iterator[Server]:
    """`relay serve`, every process with FEW descriptors."""
    (folder / "page.txt").write_text("a page")
    file = folder / "relay.toml"
    file.write_text(CONFIG.format(workers=workers, url=up.url, folder=folder))
    limited = f'ulimit -n {FEW} && exec "$0" "$@"'
    command = ["sh", "-c", limited, sys.executable, "-m", "relay", "serve", str(file)]
    with start(command, says="relay: listening on ") as server:
        line = server.stderr.wait_for("relay: listening on ")
        server.address = line.split("listening on ", 1)[1].strip()
        yield server


def admin_of(server: Server) -> Admin:
    return Admin(int(server.stderr.wait_for("relay: admin on ").rpartition(":")[2]))


@asynccontextmanager
async def serving_upstream() -> AsyncIterator[Upstream]:
    """Answers every request: events without end for /stream, else 204."""
    up = await Upstream.open()

    async def serve(stream: trio.SocketStream) -> None:
        peer = RawPeer(stream)
        try:
            while True:
                head = await _head(stream)
                if b" /stream " in head:
                    await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
                else:
                    await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (AssertionError, trio.BrokenResourceError):
            pass  # relay is done with it
        finally:
            peer.close()

    async def accept() -> None:
        while True:
            nursery.start_soon(serve, await up.next_stream())

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield up
            nursery.cancel_scope.cancel()
    finally:
        up.close()
        for each in list(RawPeer.everyone):
            each.close()


async def _head(stream: trio.SocketStream) -> bytes:
    """The next head, whenever it comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        assert more
        data += more
    return data


async def crowd(server: Server, size: int) -> list[RawPeer]:
    return [await RawPeer.connect(server.port) for _ in range(size)]


async def answers(clients: list[RawPeer], request: bytes) -> dict[RawPeer, bytes]:
    """Everybody asks at once: the heads of those that are answered before nobody is for a while."""
    heads: dict[RawPeer, bytes] = {}

    async def ask(client: RawPeer) -> None:
        with suppress(AssertionError, trio.TooSlowError):
            await client.send(request)
            heads[client] = await client.head()
        idle.deadline = trio.current_time() + 1.0

    with trio.move_on_after(LIMIT) as idle:
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(ask, client)
    return heads


def requests(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode()


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_is_connected_is_served(workers: int, tmp_path: Path) -> None:
    """1. Three times as many clients come as there are descriptors. 2. All want a stream: those
    that are let in get one, nobody an error. 3. As they leave, the others get theirs."""
    async with serving_upstream() as up:
        with few_descriptors(up, tmp_path, workers) as server:
            waiting = await crowd(server, 3 * FEW)
            served = 0
            while waiting:
                heads = await answers(waiting, requests("/stream"))
                assert heads, f"nobody is served any more, after {served}"
                served += len(heads)
                assert {head.split()[1] for head in heads.values()} == {b"200"}
                for client in heads:
                    client.close()
                waiting = [client for client in waiting if client not in heads]
            assert not [line for line in server.stderr.lines if "fault" in line]


async def test_full_of_idle_clients_every_request_is_served(tmp_path: Path) -> None:
    """Those that are let in and idle ask all at once, for the upstream and for files."""
    async with serving_upstream() as up:
        with few_descriptors(up, tmp_path, 1) as server:
            clients = await crowd(server, 2 * FEW)
            inside = clients
            for path, status in (("/", b"204"), ("/files/page.txt", b"200"), ("/stream", b"200")):
                heads = await answers(inside, requests(path))
                inside = list(heads)
                assert len(inside) > FEW // 4
                assert {head.split()[1] for head in heads.values()} == {status}
                for client in inside:
                    client.buffer = b""


async def test_metrics_and_a_reload_while_it_is_full(tmp_path: Path) -> None:
    """1. Two workers are full of streams, more clients wait. 2. Figures, health and SIGHUP. 3. Both workers are there,
    all streams go on, the reload took place."""
    async with serving_upstream() as up:
        with few_descriptors(up, tmp_path, 2) as server:
            admin = admin_of(server)
            workers = children_of(server.pid)[:2]
            clients = await crowd(server, 3 * FEW)
            streams = await answers(clients, requests("/stream"))
            assert (await admin.ask("/healthz")).status == 200
            figures = await admin.metrics()
            active = sum(
                value for (name, _), value in figures.items() if name == "relay_streams_active"
            )
            assert active == len(streams)
            os.kill(server.pid, signal.SIGHUP)
            server.stderr.wait_for("INFO: reloaded")
            assert (await admin.ask("/streams")).json["count"] == len(streams)
            assert not any(map(is_gone, workers))
            assert not [line for line in server.stderr.lines if "refused" in line]


async def test_no_descriptor_at_all(tmp_path: Path) -> None:
    """1. Streams in two workers, whose limit falls below what they have. 2. Figures and SIGHUP: a worker that cannot
    take a message says so. 3. The limit is as it was: everything as before, with the same workers and streams."""
    async with serving_upstream() as up:
        with few_descriptors(up, tmp_path, 2) as server:
            admin = admin_of(server)
            workers = children_of(server.pid)[:2]
            clients = await crowd(server, 8)
            streams = await answers(clients, requests("/stream"))
            for pid in workers:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, FEW))
            assert (await admin.ask("/metrics")).status == 503
            assert (await admin.ask("/healthz")).status == 503
            os.kill(server.pid, signal.SIGHUP)
            server.stderr.wait_for("'configure' is refused")
            late = await RawPeer.connect(server.port)
            await late.send(requests("/"))
            server.stderr.wait_for("accepting again as soon as it can")
            for pid in workers:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (FEW, FEW))
            assert b" 204 " in await late.head()
            assert (await admin.ask("/healthz")).status == 200
            assert (await admin.ask("/streams")).json["count"] == len(streams)
            os.kill(server.pid, signal.SIGHUP)
            wait_until("reloaded again", lambda: server.stderr.text.count("INFO: reloaded") == 2)
            assert not any(map(is_gone, workers))
