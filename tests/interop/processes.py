"""Real processes for tests: relay, Hypercorn, nginx and whatever else is a program.

The rules it keeps: a server listens on 127.0.0.1 on a port of its own; it is ready when it says so
(or accepts), within `START` seconds or the test fails; its own process group ends it, SIGTERM
first, SIGKILL after `STOP` seconds; what it wrote is kept line by line, so that a failing test can
show it.

A program that is not installed skips the test, except with RELAY_CI=1 where it fails it: a proof
that silently does not run is no proof.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

START = 20.0  # seconds until a server must be ready: two busy cores, several servers at once
STOP = 10.0  # seconds from SIGTERM to SIGKILL
PORTS = (12_000, 32_000)  # for servers whose port must be known before they start
_DICE = random.SystemRandom()  # processes of one run must not draw the same
ROOT = Path(__file__).resolve().parents[2]


def require(program: str) -> str:
    """The path of an installed program; without it the test skips, or fails with RELAY_CI=1."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        reason = f"{program} is not installed"
        if os.environ.get("RELAY_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago.

    Not one of those that the kernel gives to outgoing connections (Linux: from 32768 on): on a busy machine one of these
    would have it before the server that it is meant for.
    """
    while True:
        port = _DICE.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(what: str, test: Callable[[], Any], seconds: float = START) -> Any:
    """Call `test` until its result is true, and return that; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := test()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.005)
    return result


class Lines:
    """What a process writes to one pipe, read by a thread so that the pipe never fills."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, wanted: str | Callable[[str], bool], seconds: float = START) -> str:
        """The first line that contains `wanted` (or for which it is true), waiting for it.

        Raises:
            LookupError: the process ended, or `seconds` passed, without such a line.
        """
        test = wanted if callable(wanted) else lambda line: wanted in line
        deadline = time.monotonic() + seconds
        read = 0
        with self._changed:
            while True:
                for line in self._lines[read:]:
                    if test(line):
                        return line
                read = len(self._lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise LookupError(f"no line with {wanted!r} in:\n" + "\n".join(self._lines))
                self._changed.wait(left)

    def join(self) -> None:
        """The process has ended: take what is left and close the pipe."""
        self._thread.join(STOP)
        self._pipe.close()


class Server:
    """A running process. `address` is `host:port` (or a unix path) of its first listener."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = [str(part) for part in command]
        self.address = ""
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd or ROOT,
            pass_fds=pass_fds,
            start_new_session=True,  # so that its workers end with it, and a Ctrl-C is ours alone
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Lines(self.process.stdout)
        self.stderr = Lines(self.process.stderr)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout: relay's access log."""
        return [json.loads(line) for line in self.stdout.lines if line.startswith("{")]

    def wait_for_record(
        self, test: Callable[[dict[str, Any]], bool], seconds: float = START
    ) -> dict[str, Any]:
        """The first access record for which `test` is true, waiting for it."""
        line = self.stdout.wait_for(
            lambda line: line.startswith("{") and test(json.loads(line)), seconds
        )
        record: dict[str, Any] = json.loads(line)
        return record

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would: SIGKILL to the whole group."""
        self.signal(signal.SIGKILL)
        self.process.wait(STOP)

    def stop(self) -> int:
        """SIGTERM, SIGKILL after `STOP` seconds; returns the exit code (negative: the signal)."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.kill()
        self.signal(signal.SIGKILL)  # children that outlived it
        self.stdout.join()
        self.stderr.join()
        return self.process.returncode

    def quit(self) -> None:
        """End a relay without a drain, as its second signal does. `stop` then takes what is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP)

    def wait_for_line(self, text: str) -> str:
        try:
            return self.stderr.wait_for(text)
        except LookupError as missing:
            code = self.process.poll()
            pytest.fail(f"{' '.join(self.command)} did not start (exit {code}): {missing}")

    def wait_for_port(self, host: str, port: int) -> None:
        """Until something accepts connections there; fails the test if the process ends before."""

        def accepts() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"{' '.join(self.command)} ended:\n{self.stderr.text}")
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
                return True
            return False

        wait_until(f"{self.command[0]} accepts on {host}:{port}", accepts)


@contextlib.contextmanager
def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    says: str | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """Any program. Ready when a line of its stderr contains `says`, or it accepts on `port`."""
    server = Server(command, env=env, cwd=cwd)
    try:
        if says is not None:
            server.wait_for_line(says)
        if port is not None:
            server.address = f"127.0.0.1:{port}"
            server.wait_for_port("127.0.0.1", port)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def start_relay(
    config: str | Path, env: Mapping[str, str] | None = None, *options: str
) -> Iterator[Server]:
    """`python -m relay serve CONFIG`: a path, or the text of a file. Ready when it says it listens.

    LISTEN is 127.0.0.1:0 unless `env` says otherwise.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(config, str):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-test-"))
            path = Path(folder) / "relay.toml"
            path.write_text(config, encoding="utf-8")
        else:
            path = config
        environment = {"LISTEN": "127.0.0.1:0", **(env or {})}
        command = [sys.executable, "-m", "relay", "serve", str(path), *options]
        with start(command, env=environment, says="relay: listening on ") as server:
            line = server.stderr.wait_for("relay: listening on ")
            server.address = line.split("listening on ", 1)[1].strip()
            yield server
            server.quit()


@contextlib.contextmanager
def start_forward(url: str, *options: str) -> Iterator[Server]:
    """`python -m relay forward URL --listen 127.0.0.1:0`."""
    command = [sys.executable, "-m", "relay", "forward", url, "--listen", "127.0.0.1:0", *options]
    with start(command, says="relay: listening on ") as server:
        line = server.stderr.wait_for("relay: listening on ")
        server.address = line.split("listening on ", 1)[1].strip()
        yield server
        server.quit()


@contextlib.contextmanager
def start_hypercorn(
    application: str,
    *options: str,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    module: str = "hypercorn",
) -> Iterator[Server]:
    """`hypercorn -k trio APPLICATION` (`module:app`, found in `cwd`), one process, no workers.

    `module`: whose command it is, Hypercorn's or relay's.
    """
    command = [sys.executable, "-m", module, "-k", "trio", "--workers", "0"]
    command += ["--graceful-timeout", "1", "--bind", f"127.0.0.1:{port}", *options, application]
    with start(command, cwd=cwd, env=env, says="Running on ") as server:
        line = server.stderr.wait_for("Running on ")
        server.address = line.split("://", 1)[1].split()[0]
        yield server


NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


@contextlib.contextmanager
def start_nginx(server: str) -> Iterator[Server]:
    """A real nginx in the foreground with the inside of one `server` block (without `listen`)."""
    program = require("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="relay-nginx-") as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(NGINX.format(folder=folder, port=port, server=server), encoding="utf-8")
        Path(folder).chmod(0o755)  # its worker is not root
        with start([program, "-p", folder, "-c", path, "-e", "stderr"], port=port) as running:
            yield running
