"""A Redis of the test's own."""

from __future__ import annotations

import atexit
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.interop.processes import START, free_port, require


class Redis:
    """One server on a free port of the loopback. It keeps nothing on disk."""

    def __init__(self, *options: str, folder: str) -> None:
        self.port = free_port()
        self._options = options
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        args = [require("redis-server"), *place, "--save", "", *self._options]
        self._process = subprocess.Popen(args, stdout=subprocess.DEVNULL)
        until = time.monotonic() + START
        while self.cli("PING") != "PONG":
            assert time.monotonic() < until, "redis-server does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """At once, with all that it held."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cli(self, *words: str) -> str:
        """One command of redis-cli's."""
        args = [require("redis-cli"), "-p", str(self.port), *words]
        done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=START)
        return done.stdout.strip()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.go_on()
            self.kill()


@contextmanager
def redis(*options: str) -> Iterator[Redis]:
    """A server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="relay-test-") as folder:
        server = Redis(*options, folder=folder)
        try:
            yield server
        finally:
            server.stop()


@cache
def shared_redis() -> Redis:
    """One for all tests of this process that leave it as it is, each with keys of its own; it ends with the process."""
    folder = tempfile.TemporaryDirectory(prefix="relay-test-")
    server = Redis(folder=folder.name)
    atexit.register(folder.cleanup)
    atexit.register(server.stop)
    return server


class Watched:
    """A master, a replica and three sentinels, which agree within seconds that a master is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = [Redis(folder=str(self._place(f"server{number}"))) for number in range(2)]
        master, replica = self.servers
        replica.cli("REPLICAOF", "127.0.0.1", str(master.port))
        self.ports = [free_port() for _ in range(3)]
        self.sentinels = [self._sentinel(port, master.port) for port in self.ports]
        self._until(lambda: "slave0" in master.cli("INFO", "replication"), "the replica follows")
        for port in self.ports:
            self._until(
                lambda port=port: (
                    b"num-other-sentinels:2" in self._info(port)  # type: ignore[misc]
                    and b"num-slaves:1" in self._info(port)
                ),
                "the sentinels know each other",
            )

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/streams/0"

    def fail_over(self) -> None:
        """Kill the master; returns when the replica is the master."""
        self.servers[0].kill()
        self._until(lambda: "role:master" in self.servers[1].cli("INFO", "replication"), "it is")

    def stop(self) -> None:
        for each in self.sentinels:
            each.kill()
            each.wait()
        for server in self.servers:
            server.stop()

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir()
        return place

    def _sentinel(self, port: int, master: int) -> subprocess.Popen[bytes]:
        place = self._place(f"sentinel{port}") / "sentinel.conf"
        place.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {place.parent}\n"
            f"sentinel monitor streams 127.0.0.1 {master} 2\n"
            "sentinel down-after-milliseconds streams 1000\nsentinel failover-timeout streams 5000\n"
        )
        args = [require("redis-server"), str(place), "--sentinel"]
        return subprocess.Popen(args, stdout=subprocess.DEVNULL)

    def _info(self, port: int) -> bytes:
        args = [require("redis-cli"), "-p", str(port), "--no-raw", "SENTINEL", "MASTER", "streams"]
        done = subprocess.run(args, capture_output=True, check=False, timeout=START)
        words = [line.partition(b'"')[2].rstrip(b'"') for line in done.stdout.splitlines()]
        pairs = zip(words[::2], words[1::2], strict=False)
        return b"\n".join(name + b":" + value for name, value in pairs)

    def _until(self, true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 2 * START
        while not true():
            assert time.monotonic() < until, what
            time.sleep(0.1)


@contextmanager
def watched() -> Iterator[Watched]:
    """The same, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="relay-test-") as folder:
        servers = Watched(Path(folder))
        try:
            yield servers
        finally:
            servers.stop()
