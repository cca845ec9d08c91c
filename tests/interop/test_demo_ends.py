"""`relay demo` starts three processes, and ends all three."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import httpx

from tests.interop.processes import Server, start, wait_until


def children(pid: int) -> list[int]:
    """The processes that a process started (Linux)."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_ctrl_c_ends_all_of_it_while_streams_run() -> None:
    command = [sys.executable, "-m", "relay", "demo", "--listen", "127.0.0.1:0"]
    with start(command, says="relay: listening on ") as demo:
        line = demo.stderr.wait_for("relay: listening on ")
        url = f"http://{line.split('listening on ', 1)[1].strip()}/api/events/file.1"
        wait_until(
            "the origin is up", lambda: httpx.get(url.replace("file", "x")).status_code == 404
        )
        started = children(demo.pid)
        assert len(started) == 3
        with httpx.stream("GET", url) as response:
            next(response.iter_raw())
            os.kill(demo.pid, signal.SIGINT)
            assert demo.process.wait(20) == 0
        wait_until("all are gone", lambda: not any(alive(pid) for pid in started))


def test_a_port_that_is_taken_is_told_and_nothing_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        demo = Server([sys.executable, "-m", "relay", "demo", "--listen", address])
        try:
            code = demo.process.wait(20)
        finally:
            demo.stop()
    assert code != 0
    assert "in use" in demo.stderr.text
    assert "Traceback" not in demo.stderr.text
