"""Starting and ending the processes of a run.

Each child leads its own session, so that ending it ends what it started, by id; it is told to die
with us, so that a killed benchmark leaves nothing behind; and it is pinned before it executes.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# seconds; the slowest peer (httpx in Hypercorn) takes 1.5 on the reference machine
START_LIMIT = 20.0
# Seconds between SIGTERM and SIGKILL: a peer that drains streams would take its own time
STOP_LIMIT = 3.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """A process ended, or did not listen in time; the message carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started process that accepts connections on ``port`` of 127.0.0.1."""

    pid: int
    port: int
    started_ms: float
    """From exec to the first connection accepted by the kernel."""
    log: Path


@contextlib.contextmanager
def running(
    argv: list[str],
    *,
    port: int,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run ``argv`` on ``core`` until the block ends; enter the block once it listens on ``port``.

    Raises:
        StartError: it ended or did not listen within START_LIMIT.
    """
    cwd = Path(__file__).parent.parent
    with log.open("wb") as sink:
        begun = time.monotonic()
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=cwd,
            env={**_own_environment(), "PYTHONPATH": str(cwd), **(environment or {})},
            start_new_session=True,
            preexec_fn=lambda: _before_exec(core),  # noqa: PLW1509 - no threads here
        )
    try:
        _wait_listening(child, port, log, begun)
        yield Running(child.pid, port, (time.monotonic() - begun) * 1000, log)
    finally:
        _end(child)


def free_port() -> int:
    """A port nobody listens on now; if another process takes it first, the start fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _own_environment() -> dict[str, str]:
    """Python keeps what it compiles, as it does where a package is installed: in a folder of our own, whatever the byte
    code of this tree and its environment is worth. Without that a start measures the compiler.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {**kept, "PYTHONPYCACHEPREFIX": f"{cache}/relay-bench/bytecode"}


def _before_exec(core: int) -> None:
    os.sched_setaffinity(0, {core})
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_listening(child: subprocess.Popen[bytes], port: int, log: Path, begun: float) -> None:
    while time.monotonic() - begun < START_LIMIT:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            break
        time.sleep(0.001)
    what = "did not listen in time" if child.poll() is None else f"ended with {child.returncode}"
    raise StartError(f"{what}: {log.read_text(errors='replace')[-600:].strip()}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and its session by id: politely, then by force."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        child.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # its session id is its pid: what it left behind
    child.wait()
