"""``python -m benchmarks.stores``: what it costs to keep streams where other processes see them.

Runs begun on one relay (core 0), each with a reader there; with a store, each with a second reader on another relay, which
shares core 1 with Redis, load and origin. CPU per event of the owner beside the same in memory, and the delay from before an
event is written by the origin to after it is read on the other relay. With Redis: its commands and bytes per event.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.accounting import cpu
from benchmarks.load.opening import close_all
from benchmarks.load.streams import PacedReader
from benchmarks.load.target import Figures, percentile
from benchmarks.machine import cores, raise_file_limit
from benchmarks.peers import configured
from benchmarks.processes import free_port, running

STORES = ("memory", "dir", "redis")
PADDING = b"x" * 75  # the event has 100 bytes with its clock
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A server that keeps nothing; its port."""
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*argv, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def stores(kind: str, *, runs: int, rate: float, seconds: float) -> Figures:
    """One store's figures."""
    proxy_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    origin = listener.getsockname()[1]
    here: list[socket.socket] = []
    there: list[socket.socket] = []
    upstreams: list[socket.socket] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-stores-")))
        url = "memory"
        server = 0
        if kind == "dir":
            url = f"dir:{folder}/streams"
        if kind == "redis":
            server = stack.enter_context(redis(folder))
            url = f"redis://127.0.0.1:{server}/0"
        ports = [free_port() for _ in range(1 if kind == "memory" else 2)]
        proxies = []
        for number, port in enumerate(ports):
            place = folder / str(number)
            place.mkdir()
            config = configured("stores.toml", port, origin, place)
            argv = [
                sys.executable,
                "-m",
                "relay",
                "serve",
                config,
                "--set",
                f'streams.store="{url}"',
            ]
            core = load_core if number else proxy_core
            proxies.append(
                stack.enter_context(running(argv, port=port, core=core, log=place / "log"))
            )
        stack.callback(lambda: close_all([*upstreams, listener]))
        for number in range(runs):
            here.append(_ask(ports[0], number))
            upstream, _ = listener.accept()
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upstream.recv(65536)
            upstream.sendall(HEAD)
            upstreams.append(upstream)
            _head(here[-1])
        for number in range(runs if len(ports) > 1 else 0):
            there.append(_ask(ports[1], number))
            _head(there[-1])
        time.sleep(1)
        before, said = cpu(proxies[0].pid), _info(server)
        near, far, sent = _deliver(upstreams, here, there, rate, seconds)
        spent, after = cpu(proxies[0].pid) - before, _info(server)
        figures: Figures = {
            "cpu_us": spent.exact_ns / 1000 / sent,
            "here_p50_us": percentile(near, 0.5) / 1000,
            "here_p99_us": percentile(near, 0.99) / 1000,
            "there_p50_us": percentile(far, 0.5) / 1000 if far else 0.0,
            "there_p99_us": percentile(far, 0.99) / 1000 if far else 0.0,
            "missing": sent * (1 + bool(there)) - len(near) - len(far),
        }
        for name in ("total_commands_processed", "total_net_input_bytes", "used_memory"):
            figures[f"{name}_per_event"] = (after.get(name, 0) - said.get(name, 0)) / sent
        return figures


def _ask(port: int, number: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b"GET /events/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    return sock


def _head(sock: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    assert b" 200 " in head, head
    sock.setblocking(False)


def _info(port: int) -> dict[str, int]:
    if not port:
        return {}
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"INFO\r\n")
        data = b""
        while b"db0:" not in data and b"# Keyspace\r\n\r\n" not in data:
            data += sock.recv(65536)
    found = {}
    for line in data.decode().splitlines():
        name, _, value = line.partition(":")
        if value.isdigit():
            found[name] = int(value)
    return found


def _deliver(
    upstreams: list[socket.socket],
    here: list[socket.socket],
    there: list[socket.socket],
    rate: float,
    seconds: float,
) -> tuple[list[int], list[int], int]:
    """Write `rate` events a second, one run after the other, and read them everywhere. Returns: delays (ns), how many."""
    near, far = PacedReader(here), PacedReader(there)
    try:
        begun = time.monotonic()
        due, sent = begun, 0
        while due < begun + seconds:
            if time.monotonic() >= due:
                block = b"data: %019d%b\n\n" % (time.monotonic_ns(), PADDING)
                upstreams[sent % len(upstreams)].sendall(b"%x\r\n%b\r\n" % (len(block), block))
                sent += 1
                due += 1 / rate
            for reader in (near, far):
                for fd, _ in reader.ep.poll(0.0002, 1024):
                    reader.read_ready(fd)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            near.run(0.02)
            far.run(0.02)
        return sorted(near.delays), sorted(far.delays), sent
    finally:
        near.close()
        far.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    wish = parser.parse_args()
    raise_file_limit(wish.streams * 6 + 500)
    kinds = wish.stores.split(",")
    if "redis" in kinds and not shutil.which("redis-server"):
        print("redis-server is not installed: left out", file=sys.stderr)
        kinds.remove("redis")
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(wish.runs):
        for kind in kinds:
            found[kind].append(
                stores(kind, runs=wish.streams, rate=wish.rate, seconds=wish.seconds)
            )
    keys = list(found[kinds[0]][0])
    print(f"{'':<36}" + "".join(f"{kind:>12}" for kind in kinds))
    for key in keys:
        medians = [sorted(each[key] for each in found[kind])[wish.runs // 2] for kind in kinds]
        print(f"{key:<36}" + "".join(f"{value:>12,.2f}" for value in medians))
    return 0


if __name__ == "__main__":
    sys.exit(main())
