"""``python -m benchmarks.fanout``: one stream, a thousand readers.

relay shares one upstream request among them (`[routes.resume]`); nchan, a module of nginx, has every event published to a
channel; the floor is a bare loop in Python. One run, proxy on one core, load and origin on the other: CPU per delivery,
delay from before the event is written to after it is read, memory per reader. With ``--stalled`` as many readers more read
nothing: what they cost in memory, and in the others' delay.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accounting import cpu, pss_kib
from benchmarks.load.opening import close_all, open_streams
from benchmarks.load.streams import PacedReader
from benchmarks.load.target import Figures, Target, percentile
from benchmarks.machine import cores, raise_file_limit
from benchmarks.peers import configured
from benchmarks.processes import free_port, running

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PADDING = b"x" * 75  # the event has 100 bytes with its clock
Command = Callable[[int, int, Path], list[str]]

PEERS: dict[str, Command] = {
    "relay": lambda listen, origin, folder: [
        sys.executable, "-m", "relay", "serve", configured("fanout.toml", listen, origin, folder)
    ],
    "nchan": lambda listen, origin, folder: [
        "nginx", "-p", str(folder), "-c", configured("nchan.conf", listen, origin, folder)
    ],
    "floor": lambda listen, origin, folder: [
        sys.executable, "-m", "benchmarks.peers.fanout_floor", str(listen), str(origin)
    ],
}  # fmt: skip


class Origin:
    """The one upstream of relay and the floor: writes chunks on the connection that asks."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sock: socket.socket | None = None

    def answer(self) -> None:
        """Take the request, which is under way, and send the head."""
        self._listener.settimeout(10)
        self._sock, _ = self._listener.accept()
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.recv(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._sock.sendall(head)

    def event(self, payload: bytes) -> None:
        assert self._sock is not None
        block = b"data: %b\n\n" % payload
        self._sock.sendall(b"%x\r\n%b\r\n" % (len(block), block))

    def close(self) -> None:
        for sock in (self._listener, self._sock):
            if sock is not None:
                sock.close()


class Publisher:
    """nchan's way: a POST for every event, on one connection."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def event(self, payload: bytes) -> None:
        head = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(payload)
        self._sock.sendall(head + payload)

    def drain(self) -> None:
        """Its answers are of no interest."""
        self._sock.setblocking(False)
        try:
            while self._sock.recv(65536):
                pass
        except BlockingIOError:
            pass
        finally:
            self._sock.setblocking(True)

    def close(self) -> None:
        self._sock.close()


@contextmanager
def _source(peer: str, port: int, origin: Origin) -> Iterator[Publisher | Origin]:
    if peer != "nchan":
        yield origin
        return
    publisher = Publisher(port)
    try:
        yield publisher
    finally:
        publisher.close()


def fanout(peer: str, *, viewers: int, rate: float, seconds: float, stalled: int) -> Figures:
    """One peer's figures."""
    proxy_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    origin = Origin()
    socks: list[socket.socket] = []
    with tempfile.TemporaryDirectory(prefix="relay-fanout-") as name:
        folder, port = Path(name), free_port()
        argv = PEERS[peer](port, origin.port, folder)
        try:
            with running(argv, port=port, core=proxy_core, log=folder / "log") as proxy:
                target = Target(port, proxy.pid, origin.port, os.getpid())
                base = pss_kib(proxy.pid)
                first = _first(target, origin, peer)
                socks = [first, *open_streams(target, "/events", viewers - 1, b"\r\n\r\n")]
                time.sleep(0.5)
                full = pss_kib(proxy.pid)
                stuck = open_streams(target, "/events", stalled, b"\r\n\r\n") if stalled else []
                with _source(peer, port, origin) as source:
                    figures = _deliver(target, source, socks, rate, seconds)
                socks = []
                figures["kib_per_viewer"] = (full - base) / viewers
                if stalled:
                    figures["kib_per_stalled"] = (pss_kib(proxy.pid) - full) / stalled
                close_all(stuck)
                return figures
        finally:
            close_all(socks)
            origin.close()


def _first(target: Target, origin: Origin, peer: str) -> socket.socket:
    """The reader that begins the run: its head comes once the origin has answered."""
    if peer == "nchan":
        return open_streams(target, "/events", 1, b"\r\n\r\n")[0]
    sock = socket.create_connection(("127.0.0.1", target.port))
    sock.sendall(b"GET /events HTTP/1.1\r\nHost: %b\r\n\r\n" % target.host)
    origin.answer()
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    sock.setblocking(False)
    return sock


def _deliver(
    target: Target,
    source: Publisher | Origin,
    socks: list[socket.socket],
    rate: float,
    seconds: float,
) -> Figures:
    """Write `rate` events a second, and read them everywhere."""
    reader = PacedReader(socks)
    try:
        before = cpu(target.pid)
        begun = time.monotonic()
        due, sent = begun, 0
        while due < begun + seconds:
            now = time.monotonic()
            if now >= due:
                source.event(b"%019d%b" % (time.monotonic_ns(), PADDING))
                if isinstance(source, Publisher):
                    source.drain()
                sent += 1
                due += 1 / rate
            for fd, _ in reader.ep.poll(max(0.0, min(0.01, due - time.monotonic())), 1024):
                reader.read_ready(fd)
        reader.run(0.5)
        spent = cpu(target.pid) - before
        delays = sorted(reader.delays)
        return {
            "cpu_us": spent.exact_ns / 1000 / len(delays),
            "p50_us": percentile(delays, 0.5) / 1000,
            "p99_us": percentile(delays, 0.99) / 1000,
            "deliveries": len(delays),
            "missing": sent * len(socks) - len(delays),
            "proxy_share": spent.exact_ns / 1e9 / seconds,
        }
    finally:
        reader.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--peers", default="relay,nchan,floor")
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--stalled", type=int, default=0, help="readers more that read nothing")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    wish = parser.parse_args()
    raise_file_limit((wish.viewers + wish.stalled) * 2 + 500)
    peers = [peer for peer in wish.peers.split(",") if _can(peer)]
    runs: dict[str, list[Figures]] = {peer: [] for peer in peers}
    for _ in range(wish.runs):
        for peer in peers:
            runs[peer].append(
                fanout(
                    peer,
                    viewers=wish.viewers,
                    rate=wish.rate,
                    seconds=wish.seconds,
                    stalled=wish.stalled,
                )
            )
    medians = {peer: _median(figures) for peer, figures in runs.items()}
    print(json.dumps(medians, indent=1) if wish.json else _table(medians))
    return 0


def _can(peer: str) -> bool:
    if peer == "nchan" and not (shutil.which("nginx") and MODULE.exists()):
        print("nchan is not installed (libnginx-mod-nchan): left out", file=sys.stderr)
        return False
    return True


def _median(figures: list[Figures]) -> Figures:
    return {key: sorted(each[key] for each in figures)[len(figures) // 2] for key in figures[0]}


def _table(medians: dict[str, Figures]) -> str:
    keys = list(next(iter(medians.values())))
    lines = [f"{'':<18}" + "".join(f"{peer:>14}" for peer in medians)]
    for key in keys:
        lines.append(f"{key:<18}" + "".join(f"{each[key]:>14,.2f}" for each in medians.values()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
