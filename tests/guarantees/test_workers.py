"""The promise: a worker that dies costs its own streams only; nobody waits where nobody comes.

Real processes: a supervisor with two workers, killed one by one. `tests/harness.py` plays clients
and the upstream in the test's own loop; which worker serves a stream is told by /proc.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from tests.guarantees.grounds import (
    children_of,
    owner_of,
    relay,
    stream,
    upstream,
    wait_gone,
)
from tests.harness import RawPeer, chunked
from tests.interop.processes import Server

STREAMS = 24  # enough that both workers have some, by the kernel's hash (1 in 16 million not)


async def test_the_streams_of_the_others_go_on() -> None:
    async with upstream() as up:
        with relay(up, workers=2) as server:
            streams = [await stream(server, up) for _ in range(STREAMS)]
            workers = children_of(server.pid)
            assert len(workers) == 2
            victim = workers[0]
            lost, kept = [], []
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
                os.kill(worker, signal.SIGSTOP)
            clients = [await RawPeer.connect(server.port) for _ in range(STREAMS)]
            for client in clients:
                await client.send(b"GET /s HTTP/1.1\r\nHost: relay.test\r\n\r\n")
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            for _ in clients:
                peer, _ = await up.request()
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            for client in clients:
                await client.until(b"\r\n\r\nok")
                client.close()


async def test_a_worker_that_dies_again_and_again_is_started_ever_later() -> None:
    """Meanwhile its sockets are closed: the other worker serves everyone."""
    async with upstream() as up:
        with relay(up, workers=2) as server:
            [_, steady] = children_of(server.pid)
            for _ in range(4):
                [victim] = await new_children(server, {steady})
                os.kill(victim, signal.SIGKILL)
                server.stderr.wait_for(f"pid {victim}")
            assert server.stderr.wait_for("another starts in 0.1 s")
            assert server.stderr.wait_for("another starts in 0.4 s")
            for _ in range(8):
                client, peer = await stream(server, up)
                client.close()
                peer.close()


async def new_children(server: Server, known: set[int]) -> list[int]:
    with trio.fail_after(10):
        while not (new := [pid for pid in children_of(server.pid) if pid not in known]):  # noqa: ASYNC110
            await trio.sleep(0.005)
    return new


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
