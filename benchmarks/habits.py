"""``python -m benchmarks.habits``: what each peer does with a stream, apart from its speed. The table of the README.

Every peer is set up as for the measures (benchmarks/peers): at its best, event streams at once. The origin is played from
here, step by step; what a peer does is read from the bytes at its two ends. A wait that ends with "nothing" takes WAIT
seconds.
"""

import argparse
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.peers import PEERS, Peer, configured, version_of
from benchmarks.processes import Running, StartError, free_port, running

WAIT = 2.0  # seconds: what has not come by then does not come
NAMES = ("relay", "nginx", "haproxy", "caddy", "node", "aiohttp")
TITLES = {
    "relay": "relay",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "node": "http-proxy (node)",
    "aiohttp": "aiohttp, by hand",
}
BEGIN, END = "<!-- habits: begin -->", "<!-- habits: end -->"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Ends:
    """One request through a peer: both sockets in hand."""

    def __init__(self, listener: socket.socket, port: int, path: str) -> None:
        self.client = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.client.sendall(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())
        self.origin = _asking(listener)
        self.seen = b""

    def head(self, *events: bytes) -> None:
        self.origin.sendall(_HEAD + b"".join(map(_chunk, events)))

    def read(self, until: bytes = b"\0") -> bytes:
        """What the client gets until these bytes, its end, or WAIT seconds of nothing; an end is written <FIN> or <RST>."""
        while until not in self.seen and not self.seen.endswith((b"<FIN>", b"<RST>")):
            try:
                self.seen += self.client.recv(65536) or b"<FIN>"
            except TimeoutError:
                break
            except OSError:
                self.seen += b"<RST>"
        return self.seen

    def origin_is_closed(self) -> bool:
        """Whether the peer has ended its connection to the origin."""
        self.origin.settimeout(WAIT)
        try:
            while self.origin.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.client.close()
        self.origin.close()


def _asking(listener: socket.socket) -> socket.socket:
    """The next connection that asks; some peers open more than they use."""
    listener.settimeout(10)
    while True:
        origin, _ = listener.accept()
        origin.settimeout(10)
        asked = b""
        while b"\r\n\r\n" not in asked:
            data = origin.recv(65536)
            if not data:
                break
            asked += data
        if asked:
            return origin
        origin.close()


Open = Callable[[str], Ends]


def an_event_in_two_halves(open_: Open, _front: Running) -> str:
    ends = open_("/half")
    ends.head(b"data: 1\n\ndata: ha")
    before = ends.read(until=b"ha")
    ends.close()
    return "in pieces" if b"data: ha" in before else "whole"


def the_reader_leaves(open_: Open, _front: Running) -> str:
    """Before the head, while nothing is sent, while events flow."""
    noticed = []
    for phase in ("before the head", "silent", "flowing"):
        ends = open_(f"/leave-{phase[0]}")
        if phase == "before the head":
            time.sleep(0.2)  # a peer may still be writing the request
        else:
            ends.head(b"data: 1\n\n")
            ends.read(until=b"data: 1\n\n")
        stop = threading.Event()
        if phase == "flowing":
            threading.Thread(target=_flow, args=(ends.origin, stop), daemon=True).start()
        ends.client.close()
        if ends.origin_is_closed():
            noticed.append(phase)
        stop.set()
        ends.close()
    if len(noticed) == 3:
        return "upstream closed at once, in every phase"
    return f"upstream closed only: {', '.join(noticed)}" if noticed else "runs on, in every phase"


def _flow(origin: socket.socket, stop: threading.Event) -> None:
    with suppress(OSError):
        while not stop.wait(0.05):
            origin.sendall(_chunk(b"data: on\n\n"))


def a_break_inside_an_event(open_: Open, _front: Running) -> str:
    ends = open_("/cut")
    ends.head(b"data: 1\n\ndata: ha")
    ends.read(until=b"data: 1\n\n")
    ends.origin.close()
    seen = ends.read()
    ends.close()
    said = (
        "one error event" if b"error" in seen else "half an event" if b"ha" in seen else "nothing"
    )
    return f"{said}, {_how_it_ends(seen)}"


def _how_it_ends(seen: bytes) -> str:
    seen = seen.removesuffix(b"<FIN>").removesuffix(b"<RST>")
    return "then an end that looks whole" if seen.endswith(b"0\r\n\r\n") else "body left unfinished"


def an_end_without_its_marker(open_: Open, _front: Running) -> str:
    ends = open_("/marked")
    ends.head(b"data: 1\n\n")
    ends.origin.sendall(b"0\r\n\r\n")
    seen = ends.read(until=b"0\r\n\r\n")
    ends.close()
    return "said: truncated" if b"upstream_truncated" in seen else "looks whole"


def nothing_comes(open_: Open, _front: Running) -> str:
    ends = open_("/quiet")
    ends.head(b"data: 1\n\n")
    ends.read(until=b"data: 1\n\n")
    ends.seen = b""
    seen = ends.read(until=b":\n\n")
    ends.close()
    return "heartbeats between events" if b":\n\n" in seen else "nothing, until a time-out"


def only_comments_come(open_: Open, _front: Running) -> str:
    """A model that is stuck, behind a server that pings."""
    ends = open_("/stuck")
    ends.head(b"data: 1\n\n")
    deadline = time.monotonic() + WAIT
    ends.client.settimeout(0.1)
    while time.monotonic() < deadline and b"upstream_silent" not in ends.seen:
        with suppress(OSError):
            ends.origin.sendall(_chunk(b": ping\n\n"))
        with suppress(TimeoutError):
            ends.seen += ends.client.recv(65536)
    ends.close()
    return "noticed, and said" if b"upstream_silent" in ends.seen else "alive for ever"


def it_is_told_to_end(open_: Open, front: Running) -> str:
    """SIGTERM, with a stream open."""
    ends = open_("/drain")
    ends.head(b"data: 1\n\n")
    ends.read(until=b"data: 1\n\n")
    ends.seen = b""
    os.kill(front.pid, signal.SIGTERM)
    seen = ends.read()
    ends.close()
    if b"retry:" in seen:
        return "farewell with `retry:`, spread over the drain"
    return "cut" if seen.endswith((b"<FIN>", b"<RST>")) else "goes on"


HABITS: dict[str, Callable[[Open, Running], str]] = {
    "an event comes in two halves": an_event_in_two_halves,
    "the reader leaves": the_reader_leaves,
    "the upstream breaks inside an event": a_break_inside_an_event,
    "a stream ends without its `[DONE]`": an_end_without_its_marker,
    "a quiet stream": nothing_comes,
    "only keep-alive comments come": only_comments_come,
    "SIGTERM, with streams open": it_is_told_to_end,
}


def habits_of(name: str) -> dict[str, str]:
    """What one peer does, by the habit's name. Raises: StartError."""
    peer = PEERS[name]
    found = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin_port = listener.getsockname()[1]
        with _started(peer, origin_port) as front:
            for habit, probe in HABITS.items():
                found[habit] = probe(lambda path: Ends(listener, front.port, path), front)
    return found


@contextmanager
def _started(peer: Peer, origin: int) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="relay-habits-") as place:
        folder, port = Path(place), free_port()
        folder.chmod(0o755)  # nginx's workers are not root
        argv = peer.argv(port, origin, folder)
        if peer.name == "relay":  # routes say what relay is to do; the measures need none
            config = configured("habits.toml", port, origin, folder)
            argv = [sys.executable, "-m", "relay", "serve", config]
        environment = {k: v.replace("@ORIGIN@", str(origin)) for k, v in peer.environment.items()}
        core = min(os.sched_getaffinity(0))
        with running(
            argv, port=port, core=core, log=folder / "log", environment=environment
        ) as front:
            yield front


def table(found: dict[str, dict[str, str]]) -> str:
    """Markdown: a row for each habit, a column for each peer."""
    heads = [f"| | {' | '.join(TITLES[name] for name in found)} |", "|---" * (len(found) + 1) + "|"]
    rows = [f"| {habit} | {' | '.join(of[habit] for of in found.values())} |" for habit in HABITS]
    return "\n".join([*heads, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.habits", description=__doc__)
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--write", metavar="README.md", help="put the table into this page")
    wish = parser.parse_args()
    found = {}
    for name in wish.peers.split(","):
        why = PEERS[name].needs()
        if why is None:
            try:
                found[name] = habits_of(name)
                print(f"{name}: {version_of(PEERS[name])}", file=sys.stderr)
                continue
            except StartError as error:
                why = str(error)
        print(f"{name}: {why}", file=sys.stderr)
    print(table(found))
    if wish.write:
        page = Path(wish.write)
        new = f"{BEGIN}\n{table(found)}\n{END}"
        page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: new, page.read_text(), flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
