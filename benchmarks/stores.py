"""``python -m benchmarks.stores``: what a store costs the owner of runs, and how long an event takes to another process.

    origin ─► relay A, which owns the runs ─► a reader of each at A
                      └─ store ─► relay B ─► a reader of each at B

The same load with ``memory`` (A alone), with ``dir`` and ``redis`` and nobody at B, and with a reader of each run at B. CPU
per event of either process; delay from before the event is written to after it is read, at A and at B.
"""

import argparse
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from benchmarks.accounting import cpu
from benchmarks.load.target import percentile
from benchmarks.machine import cores, raise_file_limit
from benchmarks.processes import free_port, running

PADDING = b"x" * 75
CONFIG = """
[server]
listen = "127.0.0.1:{listen}"
access_log = "off"
[streams]
store = "{store}"
[upstreams.origin]
url = "http://127.0.0.1:{origin}"
[[routes]]
path = "/runs/{{id}}"
methods = ["GET"]
upstream = "origin"
heartbeat = "off"
[routes.resume]
principal = "public"
key = "{{id}}"
at = "/at/{{key}}"
"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def read(stream: trio.SocketStream, delays: list[float], quiet: trio.Event) -> None:
    """Note how old each event is when it is read."""
    buffer = b""
    while True:
        buffer += await stream.receive_some(65536)
        now = time.monotonic()
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and not quiet.is_set():
                delays.append(now - float(line[6:26]))


async def ask(port: int, path: str) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    return stream


async def load(
    ports: list[int],
    listener: trio.SocketListener,
    pids: list[int],
    runs: int,
    rate: float,
    seconds: float,
) -> dict[str, float]:
    delays: list[list[float]] = [[] for _ in ports]
    quiet = trio.Event()  # what is read now is not counted
    upstream: list[trio.SocketStream] = []
    async with trio.open_nursery() as nursery:
        for number in range(runs):
            client = await ask(ports[0], f"/runs/{number}")
            peer = await listener.accept()
            await peer.receive_some(65536)
            await peer.send_all(HEAD)
            upstream.append(peer)
            nursery.start_soon(read, client, delays[0], quiet)
            for port, noted in zip(ports[1:], delays[1:], strict=True):
                nursery.start_soon(read, await ask(port, f"/at/{number}"), noted, quiet)
        await trio.sleep(1)
        before = [cpu(pid) for pid in pids]
        begun = trio.current_time()
        sent, gap = 0, 1 / (rate * runs)
        while trio.current_time() < begun + seconds:
            event = b"data: %020.9f %b\n\n" % (time.monotonic(), PADDING)
            await upstream[sent % runs].send_all(b"%x\r\n%b\r\n" % (len(event), event))
            sent += 1
            await trio.sleep_until(begun + sent * gap)
        await trio.sleep(0.2)
        quiet.set()
        spent = [(cpu(pid) - was).exact_ns / 1e9 for pid, was in zip(pids, before, strict=True)]
        nursery.cancel_scope.cancel()
    figures = {"events": float(sent), "cpu_a_us": spent[0] / sent * 1e6}
    if len(pids) > 1:
        figures["cpu_b_us"] = spent[1] / sent * 1e6
    for name, noted in zip("ab", delays, strict=False):
        noted.sort()
        figures |= {f"{name}_read": float(len(noted))}
        figures |= {f"{name}_p{p}_ms": percentile(noted, p / 100) * 1e3 for p in (50, 99)}
    return figures


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A server beside the load, which keeps nothing on disk; its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with running(
        [*command, "--dir", str(folder)], port=port, core=cores()[1], log=folder / "redis"
    ):
        yield port


def measure(kind: str, runs: int, rate: float, seconds: float) -> dict[str, float]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = "memory" if kind == "memory" else f"dir:{folder}/kept"
        if kind.startswith("redis"):
            store = f"redis://127.0.0.1:{stack.enter_context(redis(folder))}/0"
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        ports, pids = [], []
        for name in ("a", "b") if kind.endswith("read at B") else ("a",):
            ports.append(free_port())
            path = folder / f"{name}.toml"
            origin = sock.getsockname()[1]
            path.write_text(CONFIG.format(listen=ports[-1], store=store, origin=origin))
            command = [sys.executable, "-m", "relay", "serve", str(path)]
            pids.append(
                stack.enter_context(
                    running(command, port=ports[-1], core=cores()[0], log=folder / f"{name}.log")
                ).pid
            )

        async def main() -> dict[str, float]:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup()))
            return await load(ports, listener, pids, runs, rate, seconds)

        return trio.run(main)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5.0, help="events a second of each run")
    parser.add_argument("--seconds", type=float, default=10.0)
    wish = parser.parse_args()
    raise_file_limit()
    kinds = ["memory", "dir", "dir, read at B"]
    if shutil.which("redis-server"):
        kinds += ["redis", "redis, read at B"]
    for kind in kinds:
        figures = measure(kind, wish.runs, wish.rate, wish.seconds)
        print(kind, json.dumps({name: round(value, 2) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
