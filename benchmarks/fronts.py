"""``python -m benchmarks.fronts``: what TLS and HTTP/2 to the client cost, by who brings them.

Each front is relay as its users run it: behind a terminator, set up as `relay terminator` prints it, or inside Hypercorn
(`python -m relay.asgi`). CPU and memory are those of all processes of a front together, on one core; load and origin have
the other. Streams come twenty to a connection, as a browser's tabs bring them.
"""

import argparse
import os
import select
import socket
import ssl
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hpack
import trustme

from benchmarks.accounting import cpu, pss_kib
from benchmarks.load.target import Figures, LoadError, percentile
from benchmarks.machine import cores, raise_file_limit
from benchmarks.patterns import CLOCK_DIGITS
from benchmarks.processes import free_port, running
from relay.terminators import Wanted, terminator

NAME = "relay.example"
TOGETHER = 20  # streams of one connection
OPEN_LIMIT = 60.0  # seconds until all streams have their first event
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _AWAY = 0, 1, 3, 4, 6, 7  # RFC 9113 §6
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_WINDOW = 2**31 - 1  # the client's is never the limit
_ROUTES = """
[upstreams.origin]
url = "http://127.0.0.1:{origin}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
"""


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body


class Client:
    """One HTTP/2 connection with many GETs; it keeps the delay of each event."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname=NAME
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._socket.selected_alpn_protocol() != "h2":
            raise LoadError("the front does not speak HTTP/2")
        settings = (4).to_bytes(2) + _WINDOW.to_bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE
        window = _frame(8, 0, 0, (_WINDOW - 65535).to_bytes(4))
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings) + window
        )
        self._encoder = hpack.Encoder()
        self._buffer = b""
        self._streams = 0
        self.delays = array("q")
        self.heard: set[int] = set()  # streams with an event
        self.descriptor = self._socket.fileno()

    def ask(self, path: str) -> None:
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", NAME), (":path", path)]
        stream = 2 * self._streams + 1
        self._streams += 1
        head = self._encoder.encode([*fields, ("accept", "text/event-stream")])
        self._socket.settimeout(10)
        self._socket.sendall(_frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, head))
        self._socket.setblocking(False)

    def read(self) -> None:
        """Take what is there."""
        try:
            while True:
                data = self._socket.recv(1 << 18)
                if not data:
                    raise LoadError("the front closed a connection")
                self._buffer += data
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        now, at, buffer = time.monotonic_ns(), 0, self._buffer
        while len(buffer) >= at + 9:
            size = int.from_bytes(buffer[at : at + 3])
            end = at + 9 + size
            if len(buffer) < end:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            if kind == _DATA:
                stream = int.from_bytes(buffer[at + 5 : at + 9])
                self._events(stream, buffer[at + 9 : end], now)
            elif kind == _PING and not flags & _ACK:
                self._socket.send(_frame(_PING, _ACK, 0, buffer[at + 9 : end]))
            elif kind == _SETTINGS and not flags & _ACK:
                self._socket.send(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind in (_RESET, _AWAY):
                raise LoadError(f"the front ended a stream: frame {kind} {buffer[at + 9 : end]!r}")
            at = end
        self._buffer = buffer[at:]

    def _events(self, stream: int, data: bytes, now: int) -> None:
        self.heard.add(stream)
        found = data.find(b"data: ")
        while found >= 0:
            clock = data[found + 6 : found + 6 + CLOCK_DIGITS]
            if len(clock) == CLOCK_DIGITS and clock.isdigit():
                self.delays.append(now - int(clock))
            found = data.find(b"data: ", found + 6)

    def close(self) -> None:
        self._socket.close()


class Load:
    """So many streams, twenty to a connection."""

    def __init__(self, port: int, context: ssl.SSLContext, path: str, streams: int) -> None:
        self.clients: dict[int, Client] = {}
        self._poll = select.epoll()
        limit = time.monotonic() + OPEN_LIMIT
        while streams:
            client = Client(port, context)
            self.clients[client.descriptor] = client
            self._poll.register(client.descriptor, select.EPOLLIN)
            together = min(TOGETHER, streams)
            for _ in range(together):
                client.ask(path)
            streams -= together
            while len(client.heard) < together:
                self._turn()
                if time.monotonic() > limit:
                    raise LoadError("the streams do not begin")

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn()

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll(0.01):
            self.clients[descriptor].read()

    def delays(self) -> list[int]:
        """What has been measured since they were asked last, in order."""
        found: list[int] = []
        for client in self.clients.values():
            found += client.delays
            del client.delays[:]
        return sorted(found)

    def close(self) -> None:
        self._poll.close()
        for client in self.clients.values():
            client.close()


# -- the fronts ----------------------------------------------------------------------------------------

NGINX = """
worker_processes 1; daemon off; error_log stderr crit; pid {folder}/nginx.pid; worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {text}
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n}}\n{text}"
AROUND = {"nginx": NGINX, "caddy": CADDY, "haproxy": "{text}"}
LISTENING = {
    "nginx": ("listen 443 ", "listen 127.0.0.1:{port} "),
    "caddy": (f"{NAME} {{", f"https://{NAME}:{{port}} {{{{\n\tbind 127.0.0.1"),
    "haproxy": (" :443 ", " 127.0.0.1:{port} "),
}
COMMANDS: dict[str, Callable[[Path, str], list[str]]] = {
    "nginx": lambda folder, file: ["nginx", "-e", "stderr", "-p", str(folder), "-c", file],
    "caddy": lambda folder, file: ["caddy", "run", "--adapter", "caddyfile", "--config", file],
    "haproxy": lambda folder, file: ["haproxy", "-db", "-f", file],
}


@contextmanager
def behind(name: str, folder: Path, origin: int, core: int) -> Iterator[tuple[int, list[int]]]:
    """relay behind one of `relay terminator`. Yields its port and the processes that count."""
    inner, port = free_port(), free_port()
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    files = (str(folder / "both.pem"), None) if name == "haproxy" else (certificate, key)
    text = terminator(name, Wanted((NAME,), f"127.0.0.1:{inner}", *files))
    before, after = LISTENING[name]
    text = text.replace(before, after.format(port=port))
    text = text.replace("maxconn 20000", "maxconn 4000")  # what our descriptors allow
    file = folder / name
    file.write_text(AROUND[name].format(folder=folder, text=text))
    config = folder / "relay.toml"
    server = f'[server]\nlisten = "127.0.0.1:{inner}"\ntrusted_proxies = ["127.0.0.1"]\naccess_log = "off"\n'
    config.write_text(server + _ROUTES.format(origin=origin))
    argv = [sys.executable, "-m", "relay", "serve", str(config)]
    home = {"HOME": str(folder), "GOMAXPROCS": "1"}
    with (
        running(argv, port=inner, core=core, log=folder / "relay") as relay,
        running(
            COMMANDS[name](folder, str(file)),
            port=port, core=core, log=folder / "front", environment=home,
        ) as front,
    ):  # fmt: skip
        yield port, [relay.pid, front.pid]


@contextmanager
def inside(folder: Path, origin: int, core: int) -> Iterator[tuple[int, list[int]]]:
    """relay in Hypercorn."""
    port = free_port()
    (folder / "relay.toml").write_text(
        '[server]\naccess_log = "off"\n' + _ROUTES.format(origin=origin)
    )
    path = str(folder / "relay.toml")
    (folder / "front.py").write_text(f"import relay.asgi\n\napp = relay.asgi.create({path!r})\n")
    argv = [sys.executable, "-m", "relay.asgi", "--workers", "0", "--bind", f"127.0.0.1:{port}"]
    argv += ["--certfile", str(folder / "cert.pem"), "--keyfile", str(folder / "key.pem")]
    paths = {"PYTHONPATH": f"{Path.cwd()}:{folder}"}
    argv.append("front:app")
    with running(argv, port=port, core=core, log=folder / "front", environment=paths) as front:
        yield port, [front.pid]


@contextmanager
def started(
    name: str, core: int, load_core: int
) -> Iterator[tuple[int, list[int], ssl.SSLContext]]:
    """An origin and a front, with a certificate."""
    with tempfile.TemporaryDirectory(prefix="relay-fronts-") as place, ExitStack() as stack:
        folder = Path(place)
        folder.chmod(0o755)
        authority = trustme.CA()
        certificate = authority.issue_cert(NAME)
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        (folder / "cert.pem").write_bytes(chain)
        (folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        (folder / "both.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        origin = free_port()
        argv = [sys.executable, "-m", "benchmarks.origin", str(origin)]
        stack.enter_context(running(argv, port=origin, core=load_core, log=folder / "origin"))
        front = (
            inside(folder, origin, core)
            if name == "hypercorn"
            else behind(name, folder, origin, core)
        )
        port, pids = stack.enter_context(front)
        time.sleep(0.3)  # what is still done after it listens
        yield port, pids, context


FRONTS = ("nginx", "haproxy", "caddy", "hypercorn")


def paced(front: str, streams: int, rate: float, seconds: float) -> Figures:
    """CPU per event, its delay, and the share of the core."""
    core, load_core = cores()
    with started(front, core, load_core) as (port, pids, context):
        load = Load(port, context, f"/paced?rate={rate:g}&size=100", streams)
        try:
            load.run(1.0)
            load.delays()
            before, own, began = (
                sum(cpu(pid).exact_ns for pid in pids),
                time.process_time(),
                time.monotonic(),
            )
            load.run(seconds)
            spent = sum(cpu(pid).exact_ns for pid in pids) - before
            took = time.monotonic() - began
            delays = load.delays()
            return {
                "cpu_us": spent / 1000 / len(delays),
                "p50_us": percentile(delays, 0.5) / 1000,
                "p99_us": percentile(delays, 0.99) / 1000,
                "of_offered": len(delays) / took / (streams * rate),
                "front_share": spent / 1e9 / took,
                "load_share": (time.process_time() - own) / took,
            }
        finally:
            load.close()


def idle(front: str, streams: int) -> Figures:
    """Memory of a front, and for each silent stream."""
    core, load_core = cores()
    with started(front, core, load_core) as (port, pids, context):
        Load(port, context, "/idle", 1).close()  # what is loaded once is not per stream
        time.sleep(0.5)
        base = sum(pss_kib(pid) for pid in pids)
        load = Load(port, context, "/idle", streams)
        try:
            time.sleep(1.0)
            full = sum(pss_kib(pid) for pid in pids)
            return {"base_mib": base / 1024, "kib_per_stream": (full - base) / streams}
        finally:
            load.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fronts", description=__doc__)
    parser.add_argument("--fronts", default=",".join(FRONTS))
    parser.add_argument("--streams", default="20,100,500")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second of each stream")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    wish = parser.parse_args()
    raise_file_limit(10_000)
    os.sched_setaffinity(0, {cores()[1]})
    for streams in map(int, wish.streams.split(",")):
        _show(
            f"{streams} streams, {wish.rate:g} events a second each",
            {
                front: _runs(wish.runs, paced, front, streams, wish.rate, wish.seconds)
                for front in wish.fronts.split(",")
            },
        )
    _show(
        "500 silent streams",
        {front: _runs(1, idle, front, 500) for front in wish.fronts.split(",")},
    )
    return 0


def _runs(times: int, measure: Callable[..., Figures], *arguments: object) -> list[Figures]:
    """Those that could be measured: a front may be overrun."""
    found = []
    for _ in range(times):
        try:
            found.append(measure(*arguments))
        except (LoadError, OSError) as error:
            print(f"{arguments[0]}: {error}", file=sys.stderr)
    return found


def _show(title: str, runs: dict[str, list[Figures]]) -> None:
    print(f"\n{title:<40}" + "".join(f"{front:>12}" for front in runs))
    for key in next(figures for figures in runs.values() if figures)[0]:
        line = f"  {key:<38}"
        for figures in runs.values():
            median = statistics.median(each[key] for each in figures) if figures else float("nan")
            line += f"{median:>12,.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
