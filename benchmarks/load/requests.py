"""Small keep-alive requests: as many as the proxy answers, each connection asking again at once."""

import itertools
import select
import socket
import time
from array import array
from collections.abc import Callable

from benchmarks.load.opening import close_all, connect, request
from benchmarks.load.target import Figures, LoadError, Target, Window, percentile
from benchmarks.patterns import SMALL_BODY

# What a browser's fetch sends: the fields are those of Firefox, shortened.
_FIELDS = (
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Referer: http://app.example/board\r\nCookie: theme=dark\r\n"
)


def same_head(target: Target) -> Callable[[], bytes]:
    """The same bytes for every request."""
    head = request(target, "/small?page=1", fields=_FIELDS)
    return lambda: head


def own_head(target: Target) -> Callable[[], bytes]:
    """Another target, cookie and trace id in every request: no cache of parsed heads can help."""
    before, after = request(target, "/small?page=@", fields=_FIELDS).split(b"@")
    after = after[:-2]
    numbers = itertools.count(1)

    def head() -> bytes:
        number = next(numbers)
        return b"%b%d%bX-Trace: %016x\r\n\r\n" % (before, number, after, number * 2654435761)

    return head


class Asker:
    """Connections that ask, wait for the whole answer, and ask again."""

    def __init__(self, target: Target, connections: int, head: Callable[[], bytes]) -> None:
        self.head = head
        self.socks: dict[int, socket.socket] = {}
        self.asked: dict[int, int] = {}
        self.partial: dict[int, bytes] = {}
        self.delays = array("q")
        self.ep = select.epoll()
        for _ in range(connections):
            sock = connect(target)
            sock.setblocking(False)
            self.socks[sock.fileno()] = sock
            self.ep.register(sock.fileno(), select.EPOLLIN)
            self._ask(sock)

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for fd, _ in self.ep.poll(0.05):
                self._read(fd)

    def close(self) -> None:
        self.ep.close()
        close_all(list(self.socks.values()))

    def _ask(self, sock: socket.socket) -> None:
        self.asked[sock.fileno()] = time.monotonic_ns()
        sock.send(self.head())

    def _read(self, fd: int) -> None:
        sock = self.socks[fd]
        data = sock.recv(65536)
        if self.partial:
            data = self.partial.pop(fd, b"") + data
        if data.startswith(b"HTTP/1.1 200") and (
            data.endswith(SMALL_BODY) or data.endswith(SMALL_BODY + b"\r\n0\r\n\r\n")
        ):
            self.delays.append(time.monotonic_ns() - self.asked[fd])
            self._ask(sock)
        elif data and (len(data) < 12 or data[9:12] == b"200"):
            self.partial[fd] = data
        else:
            raise LoadError(f"the proxy answered {data[:80]!r}")


def small(
    target: Target,
    *,
    connections: int = 64,
    distinct: bool = False,
    seconds: float = 4.0,
    warm: float = 0.7,
) -> Figures:
    """Requests a second and CPU per request over ``connections`` keep-alive connections."""
    asker = Asker(target, connections, own_head(target) if distinct else same_head(target))
    try:
        asker.run(warm)
        del asker.delays[:]
        with Window(target) as window:
            asker.run(seconds)
        delays = sorted(asker.delays)
        if not delays:
            raise LoadError("no answer arrived")
        return {
            "requests_s": len(delays) / window.seconds,
            "cpu_us": window.proxy.exact_ns / 1000 / len(delays),
            "p50_us": percentile(delays, 0.5) / 1000,
            "p99_us": percentile(delays, 0.99) / 1000,
            **window.shares(),
        }
    finally:
        asker.close()
