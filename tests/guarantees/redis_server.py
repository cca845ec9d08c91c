"""A Redis of the test's own."""

from __future__ import annotations

import atexit
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tests.interop.processes import START, free_port, require


class Redis:
    """One server on a free port of the loopback. It keeps nothing on disk."""

    def __init__(self, *options: str, folder: str) -> None:
        self.port = free_port()
        self._options = options
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
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
