"""The promise: a restart refuses and resets nobody. A successor listens on the same port while the
one before drains, or both have the socket from systemd."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relay.config import parse_address
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, open_listeners
from tests.guarantees.relay_processes import local
from tests.interop.processes import Server, free_port, start_relay, wait_until

RESTARTS = 10


class Loop:
    """Requests one after the other, each on a connection of its own, until it is stopped."""

    def __init__(self, *, port: int) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._ask()
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            self.answers += 1

    def _ask(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 20) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := sock.recv(4096):
                answer += data
            assert answer.endswith(b"\r\n\r\nhere"), answer

    def one_more(self) -> None:
        """Wait until a request that starts from now on is answered."""
        seen = self.answers
        wait_until("the loop goes on", lambda: self.answers >= seen + 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_successor_on_the_same_port(workers: int) -> None:
    """Ten times: start another that takes over, wait until it listens, SIGTERM to the one before."""
    port = free_port()
    config = local(f"127.0.0.1:{port}", workers)
    with ExitStack() as stack:
        serving = stack.enter_context(start_relay(config))
        with Loop(port=port) as loop:
            for _ in range(RESTARTS):
                successor = stack.enter_context(start_relay(config, None, "--takeover"))
                loop.one_more()
                serving.process.send_signal(signal.SIGTERM)
                assert serving.process.wait(20) == 0
                loop.one_more()
                serving = successor
        assert loop.failures == []
        assert loop.answers > 2 * RESTARTS


# Starts relay as systemd would: sockets from descriptor 3 on, LISTEN_PID its own.
ACTIVATE = """
import fcntl, os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
for n, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 99) for fd in sys.argv[1].split(",")]):
    os.dup2(fd, 3 + n)
    os.close(fd)
os.execv(sys.executable, [sys.executable, "-m", "relay", *sys.argv[2:]])
"""


class Unit:
    """A socket unit, and the services that are started on it."""

    def __init__(self, folder: Path, config: str, sockets: dict[str, socket.socket]) -> None:
        self._path = folder / "relay.toml"
        self._path.write_text(config)
        self._sockets = sockets

    @contextmanager
    def start(self) -> Iterator[Server]:
        fds = [sock.fileno() for sock in self._sockets.values()]
        names = ":".join(self._sockets)
        command: list[str | Path] = [
            sys.executable,
            "-c",
            ACTIVATE,
            ",".join(map(str, fds)),
            "serve",
            self._path,
        ]
        environment = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
        server = Server(command, env=environment, pass_fds=fds)
        try:
            server.wait_for_line("relay: listening on ")
            yield server
        finally:
            server.stop()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("named", ["fd:web", "fd:3", "address"])
def test_sockets_from_systemd(tmp_path: Path, workers: int, named: str) -> None:
    """One service at a time, and nobody notices: who comes in between waits in the queue that
    systemd keeps."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        port = sock.getsockname()[1]
        listen = f"127.0.0.1:{port}" if named == "address" else named
        unit = Unit(tmp_path, local(listen, workers), {"web": sock})
        with Loop(port=port) as loop:
            for _ in range(3):
                with unit.start() as server:
                    server.wait_for_line(f"relay: listening on 127.0.0.1:{port}")
                    loop.one_more()
                    assert server.stop() == 0
                assert "was passed in" not in server.stderr.text
            with unit.start():
                loop.__exit__()
        assert loop.failures == []


def test_a_passed_socket_that_nothing_names_is_mentioned(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        unit = Unit(tmp_path, local("127.0.0.1:0"), {"extra": sock})
        with unit.start() as server:
            assert "fd:extra" in server.stderr.text


def test_variables_meant_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    with pytest.raises(BindError, match="cannot listen on fd:web: no socket of that name"):
        open_listeners([parse_address("fd:web")], Passed.from_environment(environment))
    assert environment == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_word_to_the_service_manager(tmp_path: Path, workers: int) -> None:
    """READY when it accepts, RELOADING and READY, STOPPING; and the watchdog in between."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)

        def until(word: str) -> str:
            while True:
                said = manager.recv(4096).decode()
                if word in said:
                    return said

        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        with start_relay(local("127.0.0.1:0", workers), environment) as server:
            assert server.address in until("READY=1")
            until("WATCHDOG=1")
            until("WATCHDOG=1")
            server.process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in until("RELOADING=1")
            until("READY=1")
            server.process.send_signal(signal.SIGTERM)
            until("STOPPING=1")
            assert server.process.wait(20) == 0
