"""The client leaves: how long until the origin sees its connection closed, phase by phase.

The clock starts just before the client's close() and ends when the origin's recv reports the end;
both read the machine's monotonic clock. Origin and client share a core, so a context switch is part
of every figure.
"""

import socket
import time
from collections.abc import Callable

from benchmarks.load.opening import connect, request
from benchmarks.load.target import Figures, LoadError, Target, percentile
from benchmarks.patterns import FIRST_LINE

MISS_LIMIT = 1.0  # seconds after which the origin counts as left running
GIVE_UP = 3  # misses in a row after which a phase is given up: it would take N seconds
PHASES = ("head", "silent", "flowing", "upload")


class Watch:
    """The origin's record of arrivals and closes, read from the origin itself."""

    def __init__(self, origin_port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", origin_port), timeout=5)
        self.sock.sendall(b"GET /watch HTTP/1.1\r\nhost: origin\r\n\r\n")
        self.lines = b""
        while b"\r\n\r\n" not in self.lines:
            self.lines += self.sock.recv(4096)
        self.lines = self.lines.partition(b"\r\n\r\n")[2]

    def wait(self, kind: bytes, ident: int, limit: float) -> int | None:
        """The clock (ns) of that line, or None when it did not come in time."""
        wanted = b"%b %d " % (kind, ident)
        end = time.monotonic() + limit
        while True:
            while b"\n" in self.lines:
                line, _, self.lines = self.lines.partition(b"\n")
                if line.startswith(wanted):
                    return int(line.split()[2])
            left = end - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                self.lines += self.sock.recv(4096)
            except TimeoutError:
                return None

    def close(self) -> None:
        self.sock.close()


def leaving(target: Target, *, times: int = 1000, phases: tuple[str, ...] = PHASES) -> Figures:
    """Median and worst delay in µs, and how often the origin was never told, for each phase."""
    figures: Figures = {}
    watch = Watch(target.origin_port)
    try:
        first = 1
        for phase in phases:
            delays, missed, tried = _phase(target, watch, _BEGIN[phase], first, times)
            first += times
            ordered = sorted(delays)
            if ordered:
                figures[f"{phase}_p50_us"] = percentile(ordered, 0.5) / 1000
                figures[f"{phase}_worst_us"] = ordered[-1] / 1000
            figures[f"{phase}_missed"] = missed
            figures[f"{phase}_tried"] = tried
        figures["missed"] = sum(figures[f"{phase}_missed"] for phase in phases)
        return figures
    finally:
        watch.close()


def _phase(
    target: Target,
    watch: Watch,
    begin: Callable[[Target, int], socket.socket],
    first: int,
    times: int,
) -> tuple[list[int], int, int]:
    delays: list[int] = []
    missed = in_a_row = tried = 0
    for ident in range(first, first + times):
        sock = begin(target, ident)
        if watch.wait(b"arrived", ident, 5.0) is None:
            raise LoadError("a request did not arrive at the origin")
        if begin is not _silent_head and begin is not _upload:
            _read_until(sock, FIRST_LINE if begin is _idle_stream else b"x\n\n")
        tried += 1
        left = time.monotonic_ns()
        sock.close()
        seen = watch.wait(b"closed", ident, MISS_LIMIT)
        if seen is None:
            missed += 1
            in_a_row += 1
            if in_a_row == GIVE_UP:
                break
        else:
            in_a_row = 0
            delays.append(max(0, seen - left))
    return delays, missed, tried


def _silent_head(target: Target, ident: int) -> socket.socket:
    sock = connect(target)
    sock.sendall(request(target, f"/silent?id={ident}"))
    return sock


def _idle_stream(target: Target, ident: int) -> socket.socket:
    sock = connect(target)
    sock.sendall(request(target, f"/idle?id={ident}"))
    return sock


def _flowing_stream(target: Target, ident: int) -> socket.socket:
    """100 events a second: who learns from a failed write needs one or two of them."""
    sock = connect(target)
    sock.sendall(request(target, f"/paced?rate=100&id={ident}"))
    return sock


def _upload(target: Target, ident: int) -> socket.socket:
    sock = connect(target)
    sock.sendall(
        request(target, f"/upload?id={ident}", "POST", b"Content-Length: 100000000\r\n")
        + b"x" * 65536
    )
    return sock


_BEGIN: dict[str, Callable[[Target, int], socket.socket]] = {
    "head": _silent_head,
    "silent": _idle_stream,
    "flowing": _flowing_stream,
    "upload": _upload,
}


def _read_until(sock: socket.socket, mark: bytes) -> None:
    seen = b""
    while mark not in seen:
        data = sock.recv(65536)
        if not data:
            raise LoadError(f"the stream ended with {seen[-80:]!r}")
        seen += data
