"""The promise: a worker that dies costs its own streams only; nobody waits where nobody comes.

Real processes: a supervisor with two workers, killed one by one. `tests/harness.py` plays clients
and the upstream in the test's own loop; which worker serves a stream is told by /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.guarantees.relay_processes import (
    children_of,
    is_owner,
    owner_of,
    relay,
    stop,
    stream,
    upstream,
    wait_gone,
)
from tests.harness import RawPeer, Upstream, chunked, route_to
from tests.interop.processes import Server, free_port, start_relay

STREAMS = 24  # enough that both workers have some, by the kernel's hash (1 in 16 million not)


async def test_the_streams_of_the_others_go_on() -> None:
    async with upstream() as up:
        with relay(up, workers=2) as server:
            streams = [await stream(server, up) for _ in range(STREAMS)]
            workers = children_of(server.pid)
            assert len(workers) == 2
            victim = workers[0]
            lost: list[tuple[RawPeer, RawPeer]] = []
            kept: list[tuple[RawPeer, RawPeer]] = []
            for client, peer in streams:
                serving = owner_of(workers, client)
                (lost if serving == victim else kept).append((client, peer))
            assert lost
            assert kept
            os.kill(victim, signal.SIGKILL)
            for client, peer in lost:
                await client.ended()
                await peer.ended()
            for client, peer in kept:
                await peer.send(chunked(b"data: 1\n\n"))
                assert await client.until(b"data: 1\n\n\r\n")
            line = server.stderr.wait_for(f"pid {victim}")
            assert "was killed by SIGKILL; another starts now" in line
            for client, _ in streams:
                client.close()


async def test_what_waits_in_the_queue_of_a_dead_worker_is_served_by_its_successor() -> None:
    """1. Both workers are stopped, and clients connect: they stand in the queues. 2. Both workers
    are killed. 3. Every client gets its answer."""
    async with upstream() as up:
        with relay(up, workers=2) as server:
            workers = children_of(server.pid)
            for worker in workers:
                stop(worker)
            clients = [await RawPeer.connect(server.port) for _ in range(STREAMS)]
            for client in clients:
                await client.send(b"GET /s HTTP/1.1\r\nHost: relay.test\r\n\r\n")
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            await answer_each(up, len(clients))
            for client in clients:
                await client.until(b"\r\n\r\nok")
                client.close()


async def test_a_worker_that_dies_again_and_again_is_started_ever_later(tmp_path: Path) -> None:
    """1. A worker dies, and no other can start: there is no folder for the log. 2. They are tried
    ever later, and the other worker serves everyone, those too who come to the sockets of the
    dead. 3. One can start again: it takes its share."""
    folder = tmp_path / "log"
    folder.mkdir()
    async with upstream() as up:
        keys = f'[server]\nlisten = "127.0.0.1:0"\nworkers = 2\naccess_log = "{folder}/log"\n'
        with start_relay(route_to(up, more=keys)) as server:
            [victim, steady] = children_of(server.pid)
            folder.rename(tmp_path / "gone")
            os.kill(victim, signal.SIGKILL)
            for pause in ("now", "in 0.1 s", "in 0.2 s", "in 0.4 s"):
                server.stderr.wait_for(f"another starts {pause}")
            for _ in range(STREAMS):
                client, peer = await stream(server, up)
                assert owner_of([steady], client)
                client.close()
                peer.close()
            (tmp_path / "gone").rename(folder)
            [successor] = await new_children(server, {steady})
            await until_it_accepts(server, up, successor)


async def kill_the_other(server: Server, steady: int) -> int:
    """Kill the one worker that is not `steady`, as soon as it is there."""
    [victim] = await new_children(server, {steady})
    os.kill(victim, signal.SIGKILL)
    server.stderr.wait_for(f"pid {victim}")
    return victim


async def new_children(server: Server, known: set[int]) -> list[int]:
    with trio.fail_after(10):
        while not (new := [pid for pid in children_of(server.pid) if pid not in known]):  # noqa: ASYNC110
            await trio.sleep(0.005)
    return new


@pytest.mark.parametrize("deaths", [1, 2, 4])
async def test_nobody_in_a_queue_is_reset_however_often_its_worker_dies(deaths: int) -> None:
    """1. A worker is stopped, and clients connect: those in its queue wait. 2. It is killed, for
    the first time or again, and is started again at once or later. 3. All get their answer."""
    async with upstream() as up:
        with relay(up, workers=2) as server:
            [_, steady] = children_of(server.pid)
            for _ in range(deaths - 1):
                await kill_the_other(server, steady)
            [victim] = await new_children(server, {steady})
            await until_it_accepts(server, up, victim)
            stop(victim)
            clients = [await RawPeer.connect(server.port) for _ in range(STREAMS)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_each, up, STREAMS)
                for client in clients:
                    await client.send(b"GET /s HTTP/1.1\r\nHost: relay.test\r\n\r\n")
                os.kill(victim, signal.SIGKILL)
                for client in clients:
                    await client.until(b"\r\n\r\nok")


async def answer_each(up: Upstream, count: int) -> None:
    """So many requests, each on a connection of its own."""
    for _ in range(count):
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


async def until_it_accepts(server: Server, up: Upstream, worker: int) -> None:
    """Until a stream is this worker's."""
    with trio.fail_after(20):
        while True:
            client, peer = await stream(server, up)
            mine = is_owner(worker, client)
            client.close()
            peer.close()
            if mine:
                return


async def test_the_queues_of_a_dead_worker_follow_a_reload(tmp_path: Path) -> None:
    """1. A worker has died, its successor is not due yet, and the other one accepts for it. 2. A
    reload opens one address and closes another. 3. Everybody who comes to the new one is served, by
    that one worker, and nobody is left at the old one."""
    old, new = free_port(), free_port()
    path = tmp_path / "relay.toml"

    def write(listen: str) -> None:
        path.write_text(
            f'[server]\nworkers = 2\nlisten = ["127.0.0.1:0", "{listen}"]\n'
            '[[routes]]\npath = "/"\nsource = "local"\n[routes.local]\nbody = "here"\n'
        )

    write(f"127.0.0.1:{old}")
    with start_relay(path) as server:
        [_, steady] = children_of(server.pid)
        for _ in range(6):
            await kill_the_other(server, steady)
        write(f"127.0.0.1:{new}")
        server.process.send_signal(signal.SIGHUP)
        server.stderr.wait_for(f"listening on 127.0.0.1:{new}")
        for _ in range(STREAMS):
            assert await get(new) == "here"
        await until_refused(old)
        await new_children(server, {steady})
        for _ in range(STREAMS):
            assert await get(new) == "here"


async def get(port: int) -> str:
    client = await RawPeer.connect(port)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b" 200 " in await client.head()
    body = await client.rest()
    client.close()
    return body.decode()


async def until_refused(port: int) -> None:
    """Until nobody listens there any more."""
    with trio.fail_after(10), contextlib.suppress(ConnectionRefusedError):
        while True:
            with trio.socket.socket() as sock:
                await sock.connect(("127.0.0.1", port))
            await trio.sleep(0.01)


async def test_a_worker_told_to_end_drains_alone_and_is_replaced_at_once() -> None:
    async with upstream() as up:
        with relay(up, workers=2) as server:
            streams = [await stream(server, up) for _ in range(STREAMS)]
            first, second = children_of(server.pid)
            os.kill(first, signal.SIGTERM)
            server.stderr.wait_for(f"(pid {first}) drains; another takes its place")
            assert await new_children(server, {first, second})
            for _ in range(8):
                client, peer = await stream(server, up)
                client.close()
                peer.close()
            for client, _ in streams:
                client.close()
            server.stderr.wait_for(f"(pid {first}) has drained: ended with exit code 0")


async def test_workers_drain_when_their_supervisor_is_killed() -> None:
    async with upstream() as up:
        with relay(up, workers=2) as server:
            client, peer = await stream(server, up)
            workers = children_of(server.pid)
            os.kill(server.pid, signal.SIGKILL)
            await peer.send(chunked(b"data: still here\n\n"))
            await client.until(b"data: still here\n\n\r\n")
            client.close()
            for worker in workers:
                await wait_gone(worker)


async def test_the_listeners_are_announced_once_and_the_end_is_clean() -> None:
    async with upstream() as up:
        with relay(up, workers=3) as server:
            client, peer = await stream(server, up)
            server.process.send_signal(signal.SIGTERM)
            await peer.send(chunked(b"data: 1\n\n"))
            await client.until(b"data: 1\n\n\r\n")
            client.close()
            assert server.process.wait(10) == 0
        assert server.stderr.text.count("relay: listening on ") == 1


async def test_the_first_signal_may_reach_everyone_the_second_ends_at_once() -> None:
    """systemd and terminals signal the whole group: that must not count twice."""
    async with upstream() as up:
        with relay(up, workers=2) as server:
            client, peer = await stream(server, up)
            server.signal(signal.SIGTERM)  # supervisor and workers
            server.stderr.wait_for("draining")
            await peer.send(chunked(b"data: 1\n\n"))
            await client.until(b"data: 1\n\n\r\n")
            server.process.send_signal(signal.SIGTERM)
            await client.ended()
            assert server.process.wait(10) == 0
            assert server.wait_for_record(lambda record: record["at"] == "end")


async def test_one_that_cannot_even_start_is_a_fault(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(f"""
        server = {{ workers = 2, listen = "127.0.0.1:0", access_log = "{tmp_path}" }}
        routes = [{{ path = "/", source = "local" }}]
    """)
    command = [sys.executable, "-m", "relay", "serve", str(config)]
    done = await trio.run_process(command, check=False, capture_stderr=True)
    assert done.returncode == 1
    assert b"before it was ready" in done.stderr
