"""The promise: exit codes and signals say how it ended, and nothing lies about
afterwards: no socket file, no descriptor.
"""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.guarantees.relay_processes import local, relay, stream, upstream
from tests.harness import RawPeer, chunked
from tests.interop.processes import Server, start, start_relay


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


async def test_a_second_signal_ends_at_once() -> None:
    async with upstream() as up:
        with relay(up) as server:
            client, peer = await stream(server, up)
            server.process.send_signal(signal.SIGINT)
            server.stderr.wait_for("SIGINT: draining")
            await peer.send(chunked(b"data: 1\n\n"))
            await client.until(b"data: 1\n\n\r\n")
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(20) == 0
            await client.rest()
            assert server.wait_for_record(lambda record: record["at"] == "end")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--version"], 0, ""),
        ([], 2, "usage"),
        (["serve"], 2, "usage"),
        (["fly"], 2, "usage"),
        (["serve", "/no/where.toml"], 2, "cannot be read"),
        (["check", "/no/where.toml"], 2, "cannot be read"),
        (["forward", "ftp://x"], 2, "URL"),
        (["forward", "http://127.0.0.1:9", "--listen", "nowhere"], 2, "--listen"),
        (["forward", "http://127.0.0.1:9", "--listen", "192.0.2.1:80"], 1, "cannot listen on"),
        (["forward", "http://127.0.0.1:9", "--listen", "unix:/no/where.sock"], 1, "cannot listen"),
        (["forward", "http://127.0.0.1:9", "--listen", "fd:99"], 1, "cannot listen on fd:99"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, word: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_of_another_kind_is_a_fault() -> None:
    """Who listens without SO_REUSEPORT shares with nobody."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=False) as sock:
        where = f"127.0.0.1:{sock.getsockname()[1]}"
        done = run("forward", "http://127.0.0.1:9", "--listen", where)
    assert done.returncode == 1
    assert f"cannot listen on {where}: Address already in use" in done.stderr


# -- unix sockets and descriptors ------------------------------------------------------------------


def get_over(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        return client.get("http://x/").text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_has_its_mode_and_its_file_goes_with_it(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "r.sock"
    with start_relay(local(f"unix:{path}?mode=640", workers)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert get_over(path) == "here"
        assert server.address == f"unix:{path}"
        assert server.stop() == 0
    assert not path.exists()


def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with start_relay(local(f"unix:{path}")) as server:
        second = run("forward", "http://127.0.0.1:9", "--listen", f"unix:{path}")
        assert second.returncode == 1
        assert "Address already in use" in second.stderr
        assert get_over(path) == "here"
        assert server.stop() == 0


def test_a_file_that_is_no_socket_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    done = run("forward", "http://127.0.0.1:9", "--listen", f"unix:{path}")
    assert done.returncode == 1
    assert path.read_text() == "data"


def test_the_file_of_a_successor_stays(tmp_path: Path) -> None:
    """1. A relay listens on a file. 2. Somebody moves another socket to its name. 3. The relay
    ends: the other file is still there."""
    path, other = tmp_path / "r.sock", tmp_path / "other.sock"
    with start_relay(local(f"unix:{path}")) as server, socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(other))
        other.rename(path)
        assert server.stop() == 0
        assert path.exists()


async def test_out_of_descriptors() -> None:
    """1. More clients come than there are descriptors. 2. Those who got one are served, the log
    says once what is wrong. 3. They leave: the others are served."""
    limit = 48

    command = [sys.executable, "-m", "relay", "forward", "http://127.0.0.1:9", "--listen"]
    with start_limited([*command, "127.0.0.1:0"], limit) as server:
        clients = [await RawPeer.connect(server.port) for _ in range(limit)]
        server.stderr.wait_for("out of descriptors")
        for client in clients[: limit // 2]:
            client.close()
        for client in clients[limit // 2 :]:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b" 502 " in await client.head()
            client.close()
        assert server.stderr.text.count("out of descriptors") == 1
        assert server.stop() == 0


LIMIT_AND_RUN = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def start_limited(command: list[str], descriptors: int) -> Iterator[Server]:
    limited = [sys.executable, "-c", LIMIT_AND_RUN, str(descriptors), *command]
    with start(limited, says="relay: listening on ") as server:
        line = server.stderr.wait_for("relay: listening on ")
        server.address = line.split("listening on ", 1)[1].strip()
        yield server
