"""Event streams: paced (latency and CPU per event), as fast as they go, and idle (memory)."""

import select
import socket
import time
from array import array

from benchmarks.accounting import descriptors, pss_kib
from benchmarks.load.opening import close_all, open_streams, request
from benchmarks.load.target import Figures, LoadError, Target, Window, percentile
from benchmarks.patterns import CLOCK_DIGITS, FIRST_LINE

_CLOCK = b"data: "
_END = b"\n\n"
_BURST_LIMIT = 60.0  # seconds until all streams of a burst have had an event


class PacedReader:
    """Receives paced events and keeps the delay of each, from before its send to after its receive.

    An event counts when its blank line is there; the bytes of an unfinished one wait for the rest.
    """

    def __init__(self, socks: list[socket.socket]) -> None:
        self.socks = {sock.fileno(): sock for sock in socks}
        self.rest: dict[int, bytes] = {}
        self.delays = array("q")
        self.torn = 0
        self.ended = 0
        self.ep = select.epoll()
        for fd in self.socks:
            self.ep.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> None:
        """Receive for that long; what is measured is added to ``delays``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for fd, _ in self.ep.poll(0.01):
                self.read_ready(fd)

    def close(self) -> None:
        self.ep.close()
        close_all(list(self.socks.values()))

    def read_ready(self, fd: int) -> None:
        try:
            data = self.socks[fd].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            self.ended += 1
            self.ep.unregister(fd)
            return
        if self.rest:
            data = self.rest.pop(fd, b"") + data
        last = data.rfind(_END)
        at = data.find(_CLOCK, 0, last) if last > 0 else -1
        while at >= 0:
            at += len(_CLOCK)
            try:
                self.delays.append(now - int(data[at : at + CLOCK_DIGITS]))
            except ValueError:
                self.torn += 1  # a chunk header inside the clock: the proxy cut an event
            at = data.find(_CLOCK, at, last)
        rest = data[last + len(_END) :] if last >= 0 else data
        if rest and rest != b"\r\n":
            self.rest[fd] = rest


def paced(
    target: Target,
    *,
    streams: int = 500,
    rate: float = 20.0,
    size: int = 100,
    seconds: float = 5.0,
    warm: float = 1.0,
) -> Figures:
    """``streams`` streams with ``rate`` events a second each, of ``size`` bytes."""
    path = f"/paced?rate={rate:g}&size={size}"
    reader = PacedReader(open_streams(target, path, streams, FIRST_LINE))
    try:
        reader.run(warm)
        del reader.delays[:]
        with Window(target) as window:
            reader.run(seconds)
        if reader.ended:
            raise LoadError(f"{reader.ended} of {streams} streams ended")
        delays = sorted(reader.delays)
        if not delays:
            raise LoadError("no event arrived")
        return {
            "cpu_us": window.proxy.exact_ns / 1000 / len(delays),
            "p50_us": percentile(delays, 0.5) / 1000,
            "p99_us": percentile(delays, 0.99) / 1000,
            "p999_us": percentile(delays, 0.999) / 1000,
            "events_s": len(delays) / window.seconds,
            "offered_s": streams * rate,
            "torn": reader.torn,
            **window.shares(),
        }
    finally:
        reader.close()


def flood(
    target: Target,
    *,
    streams: int = 8,
    size: int = 100,
    together: int = 1,
    seconds: float = 4.0,
    warm: float = 0.5,
) -> Figures:
    """``streams`` streams as fast as they go; an event is counted by its blank line.

    The origin writes ``together`` events at once. With 1 the two ends can become the limit for a
    proxy that passes every event on by itself, because each costs the reader a system call; with
    600 (64 KiB) the proxy is the limit.
    """
    path = f"/flood?size={size}&together={together}"
    socks = open_streams(target, path, streams, FIRST_LINE)
    try:
        by_fd = {sock.fileno(): sock for sock in socks}
        ep = select.epoll()
        for fd in by_fd:
            ep.register(fd, select.EPOLLIN)
        buffer = bytearray(1 << 18)
        counts = dict.fromkeys(by_fd, 0)

        def run(length: float) -> None:
            end = time.monotonic() + length
            while time.monotonic() < end:
                for fd, _ in ep.poll(0.05):
                    count = by_fd[fd].recv_into(buffer)
                    if not count:
                        raise LoadError("a flooding stream ended")
                    counts[fd] += buffer.count(_END, 0, count)

        run(warm)
        before = dict(counts)
        with Window(target) as window:
            run(seconds)
        each = [counts[fd] - before[fd] for fd in by_fd]
        events = sum(each)
        if not events:
            raise LoadError("the flood stands still")
        return {
            "events_s": events / window.seconds,
            "cpu_us": window.proxy.exact_ns / 1000 / events,
            "fairness": min(each) / max(each),
            **window.shares(),
        }
    finally:
        close_all(socks)


def burst(
    target: Target, *, streams: int = 4000, rate: float = 0.2, settle: float = 6.0
) -> Figures:
    """``streams`` streams that are all opened at once, and slow: what does the proxy hold for each, with what the burst left
    behind?"""
    close_all(open_streams(target, "/idle", 1, FIRST_LINE))
    time.sleep(1.0)
    base = pss_kib(target.pid)
    head = request(target, f"/paced?rate={rate:g}&size=100")
    socks: dict[int, socket.socket] = {}
    began: set[int] = set()
    ep = select.epoll()
    try:
        for _ in range(streams):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", target.port))
            socks[sock.fileno()] = sock
            ep.register(sock.fileno(), select.EPOLLOUT)
        end = time.monotonic() + _BURST_LIMIT
        while len(began) < streams or time.monotonic() < end:
            for fd, mask in ep.poll(0.1):
                if mask & select.EPOLLOUT:
                    socks[fd].send(head)
                    ep.modify(fd, select.EPOLLIN)
                elif not (data := socks[fd].recv(65536)):
                    raise LoadError("a stream ended")
                elif _END in data and fd not in began:
                    began.add(fd)
                    if len(began) == streams:
                        end = time.monotonic() + settle
            if len(began) < streams and time.monotonic() > end:
                raise LoadError(f"{len(began)} of {streams} streams began")
        return {"kib_per_stream": (pss_kib(target.pid) - base) / streams}
    finally:
        ep.close()
        close_all(list(socks.values()))


def idle(target: Target, *, streams: int = 4000, settle: float = 2.0) -> Figures:
    """``streams`` streams that had one event and are silent: what does the proxy hold for each?"""
    close_all(open_streams(target, "/idle", 1, FIRST_LINE))  # what is loaded once is not per stream
    time.sleep(settle / 2)
    base, base_files = pss_kib(target.pid), descriptors(target.pid)
    socks = open_streams(target, "/idle", streams, FIRST_LINE)
    try:
        time.sleep(settle)
        full, files = pss_kib(target.pid), descriptors(target.pid)
        return {
            "kib_per_stream": (full - base) / streams,
            "base_mib": base / 1024,
            "full_mib": full / 1024,
            "files_per_stream": (files - base_files) / streams,
        }
    finally:
        close_all(socks)
