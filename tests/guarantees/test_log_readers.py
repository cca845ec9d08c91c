"""The promise: whoever reads relay's log, or does not, has no say in what relay does.

Real processes whose stdout and stderr are a pipe, a terminal or a FIFO that nobody reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.guarantees.relay_processes import children_of, stream, upstream
from tests.harness import RawPeer, Upstream, chunked, route_to
from tests.interop.processes import ROOT, STOP, free_port, start_relay, wait_until

RELOADS = 300  # 260 of them filled a pipe
MANY = 8_000  # requests, with paths of 1.5 KB: their lines are more than a worker may hold
HERE = '[[routes]]\npath = "/here/{rest...}"\nsource = "local"\n'


class Unread:
    """A relay whose stdout and stderr are one descriptor, read only when somebody asks."""

    def __init__(self, config: Path, writing: int, reading: int) -> None:
        command = [sys.executable, "-m", "relay", "serve", str(config)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            cwd=ROOT,
            start_new_session=True,
        )
        self._reading = reading
        self.text = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, wanted: str, count: int = 1) -> None:
        """Read until `wanted` has come so many times, and not a byte more than a read brings."""
        while self.text.count(wanted) < count:
            data = os.read(self._reading, 4096)
            assert data, f"it ended before {wanted!r}: {self.text}"
            self.text += data.decode()

    @property
    def port(self) -> int:
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", self.text)
        assert found is not None, self.text
        return int(found[1])

    def read_on(self) -> threading.Thread:
        """Read to the end, in a thread."""
        thread = threading.Thread(target=self._read_all, daemon=True)
        thread.start()
        return thread

    def _read_all(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the end, on a terminal
            while data := os.read(self._reading, 65536):
                self.text += data.decode()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(STOP)


@contextmanager
def unread(config: Path, kind: str = "pipe") -> Iterator[Unread]:
    """Ready when it says that it listens; from then on nobody reads."""
    if kind == "pipe":
        reading, writing = os.pipe()
    else:
        reading, writing = pty.openpty()
        tty.setraw(writing)
    server = Unread(config, writing, reading)
    os.close(writing)
    try:
        server.until("relay: listening on 127.0.0.1:")
        server.until("\n")
        yield server
    finally:
        server.end()
        os.close(reading)


def config_of(folder: Path, up: Upstream, workers: int = 1, *, server: str = "") -> Path:
    path = folder / "relay.toml"
    keys = f'[server]\nlisten = "127.0.0.1:0"\nworkers = {workers}\n{server}\n'
    path.write_text(route_to(up, HERE, more=keys + '[timeouts]\ndrain = "1s"\n'))
    return path


@asynccontextmanager
async def a_stream(server: Unread, up: Upstream) -> AsyncIterator[tuple[RawPeer, RawPeer]]:
    client = await RawPeer.connect(server.port)
    await client.send(b"GET /s HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    peer, _ = await up.request()
    await peer.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await client.head()
    yield client, peer


async def goes_on(client: RawPeer, peer: RawPeer, number: int) -> None:
    await peer.send(chunked(b"data: %d\n\n" % number))
    await client.until(b"data: %d\n\n\r\n" % number)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
async def test_messages_that_nobody_reads(tmp_path: Path, kind: str, workers: int) -> None:
    """1. stdout and stderr are one pipe, or a terminal, that nobody reads. 2. So many SIGHUPs that
    their messages fill it: streams go on. 3. SIGTERM drains, as always."""
    async with upstream() as up:
        config = config_of(tmp_path, up, workers)
        with unread(config, kind) as server:
            async with a_stream(server, up) as (client, peer):
                for number in range(RELOADS):
                    # A mistake, so that every message is a long one, and every signal has its own.
                    config.write_text(f"# {number}\n[server]\n" + "x" * 900 + " = 1\n")
                    server.process.send_signal(signal.SIGHUP)
                    await goes_on(client, peer, number)
                server.process.send_signal(signal.SIGTERM)
                await client.until(b"0\r\n\r\n")
                assert await trio.to_thread.run_sync(server.process.wait, 20) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_lines_that_nobody_reads_are_counted(tmp_path: Path, workers: int) -> None:
    """1. More lines come than may be held, and nobody reads them: every request is served, memory
    stays, the metric counts. 2. Somebody reads: lines and dropped ones make up all the requests,
    and a message says how many were dropped."""
    admin = free_port()
    async with upstream() as up:
        config = config_of(tmp_path, up, workers, server=f'admin = "127.0.0.1:{admin}"')
        with unread(config) as server:
            requests = MANY * workers
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(ask_many, server.port, requests // 16)
            async with httpx.AsyncClient() as client:
                figures = (await client.get(f"http://127.0.0.1:{admin}/metrics")).text
            dropped = int(metric(figures, "relay_log_lines_dropped_total"))
            assert dropped > 0
            assert resident(server.pid) < 120 * 1024 * 1024
            reader = server.read_on()
            wait_until("it is told", lambda: "takes lines again" in server.text)
            server.process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(server.process.wait, 20) == 0
            reader.join(20)
            ends = [line for line in server.text.splitlines() if '"at":"end"' in line]
            told = re.findall(r"takes lines again; (\d+) were dropped", server.text)
            assert sum(map(int, told)) == dropped
            assert len(ends) + dropped == requests
            for line in ends:
                assert json.loads(line)["ending"] == "complete"


async def ask_many(port: int, count: int) -> None:
    """So many requests on one connection, which relay answers itself."""
    client = await RawPeer.connect(port)
    for _ in range(count):
        await client.send(b"GET /here/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 1500))
        assert b" 200 " in await client.head()
    client.close()


def metric(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


def resident(pid: int) -> int:
    """Bytes of a process or its children, the most."""
    processes = [pid, *children_of(pid)]
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in processes]
    return max(pages) * resource.getpagesize()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_fifo_that_nobody_reads(tmp_path: Path, workers: int) -> None:
    """1. A reload names a FIFO as the access log. 2. It takes effect, streams go on, a signal is
    obeyed. 3. Who reads the FIFO at last has every line."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    async with upstream() as up:
        config = config_of(tmp_path, up, workers)
        with start_relay(config) as server:
            client, peer = await stream(server, up)
            config_of(tmp_path, up, workers, server=f'access_log = "{fifo}"')
            server.process.send_signal(signal.SIGHUP)
            server.stderr.wait_for("reloaded")
            await goes_on(client, peer, 1)
            server.process.send_signal(signal.SIGTERM)
            server.stderr.wait_for("draining")
            reader = os.open(fifo, os.O_RDONLY)
            assert await trio.to_thread.run_sync(server.process.wait, 20) == 0
            text = os.read(reader, 65536).decode()
            os.close(reader)
            assert [json.loads(line)["ending"] for line in text.splitlines()] == ["drained"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_file_that_cannot_be_read_to_its_end(tmp_path: Path, workers: int) -> None:
    """The reload waits for it, and nobody else does: neither a stream nor a signal."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    async with upstream() as up:
        with start_relay(config_of(tmp_path, up, workers)) as server:
            client, peer = await stream(server, up)
            key = f'admin = "unix:{tmp_path}/a"\nadmin_token = "{{file:{secret}}}"'
            secret.unlink()
            os.mkfifo(secret)
            config_of(tmp_path, up, workers, server=key)
            server.process.send_signal(signal.SIGHUP)
            writer = await trio.to_thread.run_sync(os.open, secret, os.O_WRONLY)  # it reads
            await goes_on(client, peer, 1)
            server.process.send_signal(signal.SIGTERM)
            server.stderr.wait_for("draining")
            await client.until(b"0\r\n\r\n")
            assert await trio.to_thread.run_sync(server.process.wait, 20) == 0
            os.close(writer)


@pytest.mark.parametrize("first", ["group", "workers", "supervisor"])
async def test_a_second_signal_loses_no_end(tmp_path: Path, first: str) -> None:
    """1. SIGTERM comes to the whole group, to each worker, or to the supervisor alone. 2. While
    they drain, SIGTERM comes to the supervisor: everything ends at once, and every stream has its
    line. Whether a worker drains with all or alone, because the signal came to it first, is no
    matter."""
    count = 36
    async with upstream() as up:
        config = config_of(tmp_path, up, 2)
        config.write_text(config.read_text().replace('drain = "1s"', 'drain = "20s"'))
        with start_relay(config) as server:
            streams = [await stream(server, up) for _ in range(count)]
            if first == "group":
                server.signal(signal.SIGTERM)
            elif first == "supervisor":
                server.process.send_signal(signal.SIGTERM)
            else:
                for worker in children_of(server.pid):
                    os.kill(worker, signal.SIGTERM)
                    server.stderr.wait_for(f"(pid {worker}) drains; another takes its place")
                server.process.send_signal(signal.SIGTERM)
            server.stderr.wait_for("SIGTERM: draining")
            server.process.send_signal(signal.SIGTERM)
            for client, _ in streams:
                await client.rest()
            assert await trio.to_thread.run_sync(server.process.wait, 20) == 0
        starts = [record["id"] for record in server.records if record["at"] == "start"]
        ends = [record["id"] for record in server.records if record["at"] == "end"]
        assert len(starts) == count
        assert sorted(ends) == sorted(starts)
        assert "killed" not in server.stderr.text
