"""The upstream of every measure: one process, one epoll, as little HTTP/1.1 as the measures need.

``python -m benchmarks.origin PORT`` listens on 127.0.0.1. What it answers is chosen by path and
query:

``/paced?rate=20&size=100``
    event stream, ``rate`` events a second of ``size`` bytes, beginning at a random moment; each
    event carries the monotonic clock (ns) of just before its sending
``/flood?size=100&together=1``
    event stream as fast as the reader takes it; one chunk per event, ``together`` chunks a write
``/idle``
    event stream with one event, then silence
``/silent``
    no answer at all
``/small``
    a keep-alive JSON answer of about 100 bytes
``/download?bytes=N&framing=F``
    a body of N bytes; F is ``length``, ``chunked`` or ``close``
``/upload``
    reads a request body, answers with the number of bytes that arrived (chunk framing included)
``/watch``
    lines ``arrived ID NS`` and ``closed ID NS`` for every request with ``id=ID`` in its query
``/stats``
    connections, streams, lateness and own CPU as JSON

Events are paced by a periodic timerfd of 100 µs, not by the epoll time-out, which rounds up to
milliseconds and would send the events of all streams in bursts of ten: independent backends do not
do that.
"""

import argparse
import errno
import heapq
import json
import os
import random
import select
import socket
import sys
import time
from urllib.parse import parse_qsl

from benchmarks.machine import raise_file_limit
from benchmarks.origin_conn import Conn
from benchmarks.patterns import (
    BODY_BLOCK,
    FIRST_EVENT,
    SMALL_BODY,
    chunk,
    memory_file,
    paced_event,
    pattern,
)
from benchmarks.timer import Timer

TICK_NS = 100_000
READ_BLOCK = 1 << 18
MAX_BEHIND = 1 << 20  # bytes a paced stream may be behind before its events are dropped and counted
SMALL_WRITE = 1 << 12  # bytes
STEP_BYTES = 1 << 18  # a flood or a download leaves the turn to the others after this much
_GONE = (errno.EPIPE, errno.ECONNRESET)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
SMALL = (
    b"HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: application/json\r\n"
    b"cache-control: no-store\r\ncontent-length: %d\r\n\r\n%s" % (len(SMALL_BODY), SMALL_BODY)
)
FIRST_CHUNK = chunk(FIRST_EVENT)


class Origin:
    """Connections by descriptor, paced events in a heap, watchers told of arrivals and closes."""

    def __init__(self, port: int, tick_ns: int = TICK_NS) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.ep = select.epoll()
        self.ep.register(self.listener, select.EPOLLIN)
        self.conns: dict[int, Conn] = {}
        self.due: list[tuple[int, int, Conn]] = []  # when, a tie-breaker, whose
        self.watchers: list[Conn] = []
        self.timer = Timer(tick_ns)
        self.ep.register(self.timer.fd, select.EPOLLIN)
        self.block = memory_file(BODY_BLOCK)
        self.serial = self.events = self.dropped = self.streams = self.received = 0
        self.late_ns = 0
        self.scratch = bytearray(READ_BLOCK)

    def run(self) -> None:
        """Serve until killed."""
        listener, timer = self.listener.fileno(), self.timer.fd
        while True:
            for fd, mask in self.ep.poll():
                if fd == timer:
                    self.timer.read()
                    self.send_due()
                elif fd == listener:
                    self.accept()
                else:
                    conn = self.conns.get(fd)
                    if conn is not None:
                        self.step(conn, mask)

    def accept(self) -> None:
        for _ in range(256):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn = Conn(sock)
            self.conns[conn.fd] = conn
            self.ep.register(conn.fd, select.EPOLLIN)

    def step(self, conn: Conn, mask: int) -> None:
        """One turn of one connection; whatever the peer breaks ends this connection alone."""
        try:
            if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self.readable(conn)
            if mask & select.EPOLLOUT and conn.fd in self.conns:
                self.writable(conn)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _GONE:
                print(f"origin: {error}", file=sys.stderr)
            self.close(conn)

    def readable(self, conn: Conn) -> None:
        if conn.sink:
            self.swallow(conn)
            return
        data = conn.sock.recv(65536)
        if not data:
            self.close(conn)
            return
        if (
            data.startswith(b"GET /small")
            and data.endswith(b"\r\n\r\n")
            and not conn.head
            and b"close" not in data
        ):
            conn.sock.send(SMALL)  # the hot path of the small requests: 250 bytes always fit
            return
        conn.head += data
        head, blank, rest = conn.head.partition(b"\r\n\r\n")
        if blank:
            conn.head = b""
            self.answer(conn, head, rest)

    def answer(self, conn: Conn, head: bytes, rest: bytes) -> None:
        """Choose by path."""
        target = head.split(b" ", 2)[1].decode("latin-1")
        path, _, query = target.partition("?")
        if "://" in path:
            path = "/" + path.split("/", 3)[3]
        wish = dict(parse_qsl(query))
        fields = head.lower()
        conn.closing = b"connection: close" in fields
        conn.ident = wish.get("id", "")
        if conn.ident:
            self.tell(b"arrived %s %d\n" % (conn.ident.encode(), time.monotonic_ns()))
        if path == "/paced":
            self.begin_paced(conn, float(wish.get("rate", "1")), int(wish.get("size", "100")))
        elif path == "/flood":
            size = int(wish.get("size", "100"))
            conn.repeat = chunk(b"data: " + b"x" * (size - 8) + b"\n\n") * int(
                wish.get("together", 1)
            )
            conn.times = -1
            self.begin_stream(conn, STREAM_HEAD + FIRST_CHUNK)
        elif path == "/idle":
            self.begin_stream(conn, STREAM_HEAD + FIRST_CHUNK)
        elif path == "/download":
            self.begin_download(conn, int(wish["bytes"]), wish.get("framing", "length"))
        elif path == "/upload":
            self.begin_upload(conn, fields, rest)
        elif path == "/small":
            self.send(conn, SMALL)
        elif path == "/watch":
            self.watchers.append(conn)
            self.begin_stream(conn, b"HTTP/1.0 200 OK\r\n\r\n")
        elif path == "/stats":
            self.send_json(conn, self.statistics())
        elif path != "/silent":
            self.send(conn, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    # -- event streams

    def begin_stream(self, conn: Conn, first: bytes) -> None:
        conn.stream = True
        self.streams += 1
        self.send(conn, first)

    def begin_paced(self, conn: Conn, rate: float, size: int) -> None:
        conn.interval = int(1e9 / rate)
        conn.padding = b" ".ljust(size - len(paced_event(0, b"")), b"x")
        self.begin_stream(conn, STREAM_HEAD + FIRST_CHUNK)
        self.serial += 1
        first = time.monotonic_ns() + random.randrange(conn.interval)
        heapq.heappush(self.due, (first, self.serial, conn))
        self.timer.start()

    def send_due(self) -> None:
        """Send the events whose moment has come, each with the clock of its own sending."""
        due, now = self.due, time.monotonic_ns()
        while due and due[0][0] <= now:
            when, serial, conn = due[0]
            if self.conns.get(conn.fd) is not conn:
                heapq.heappop(due)
                continue
            self.late_ns = max(self.late_ns, now - when)
            heapq.heapreplace(due, (max(when + conn.interval, now), serial, conn))
            if len(conn.out) > MAX_BEHIND:
                self.dropped += 1
                continue
            self.events += 1
            now = time.monotonic_ns()
            self.send(conn, chunk(paced_event(now, conn.padding)))
        if not due:
            self.timer.stop()

    # -- bodies

    def begin_download(self, conn: Conn, size: int, framing: str) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
        if framing == "chunked":
            conn.times, rest = divmod(size, 65536)
            conn.repeat = chunk(pattern(65536))
            conn.tail = (chunk(pattern(rest)) if rest else b"") + chunk(b"")
            self.send(conn, head + b"transfer-encoding: chunked\r\n\r\n")
            return
        conn.file_at, conn.file_left = 0, size
        if framing == "close":
            conn.closing = True
            self.send(conn, head + b"connection: close\r\n\r\n")
        else:
            self.send(conn, head + b"content-length: %d\r\n\r\n" % size)

    def begin_upload(self, conn: Conn, fields: bytes, rest: bytes) -> None:
        self.received = 0
        _, named, value = fields.partition(b"content-length: ")
        conn.sink = int(value.split(b"\r", 1)[0]) if named else -1
        if b"expect: 100-continue" in fields:
            self.send(conn, b"HTTP/1.1 100 Continue\r\n\r\n")
        if rest or not conn.sink:
            self.swallowed(conn, len(rest), rest[-5:])

    def swallow(self, conn: Conn) -> None:
        """Count a body without copying it: MSG_TRUNC drops bytes of a TCP socket in the kernel."""
        if conn.sink > 0:
            count = conn.sock.recv_into(self.scratch, min(READ_BLOCK, conn.sink), socket.MSG_TRUNC)
        else:
            count = conn.sock.recv_into(self.scratch)
        if count == 0:
            self.close(conn)
            return
        tail = bytes(self.scratch[max(0, count - 5) : count]) if conn.sink < 0 else b""
        self.swallowed(conn, count, tail)

    def swallowed(self, conn: Conn, count: int, tail: bytes) -> None:
        self.received += count
        if conn.sink > 0:
            conn.sink -= count
        elif tail == b"0\r\n\r\n":  # our own patterns hold no such bytes
            conn.sink = 0
        if conn.sink == 0:
            self.send_json(conn, {"received": self.received})

    # -- sending

    def send(self, conn: Conn, data: bytes) -> None:
        """Send now what the socket takes, keep the rest, go on when it is writable."""
        if conn.out:
            conn.out += data
            return
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(conn)
            return
        if sent < len(data):
            conn.out = data[sent:]
        if conn.out or conn.repeat or conn.file_left:
            self.ep.modify(conn.fd, select.EPOLLIN | select.EPOLLOUT)
        elif conn.closing and not conn.stream:
            self.close(conn)

    def writable(self, conn: Conn) -> None:
        """Send on, a bounded amount: what is pending, then the block or the file, then the tail."""
        budget = STEP_BYTES
        while budget > 0:
            if conn.out:
                sent = conn.sock.send(conn.out)
                conn.out = conn.out[sent:]
                if conn.out:
                    return  # full: the next EPOLLOUT goes on here
            elif conn.times:
                sent = conn.sock.send(conn.repeat)
                conn.out = conn.repeat[sent:]
                conn.times -= conn.times > 0
                if len(conn.repeat) < SMALL_WRITE:
                    break  # one event a write, one write a turn: writers, not a large buffer
            elif conn.file_left:
                at = conn.file_at % BODY_BLOCK
                sent = os.sendfile(conn.fd, self.block, at, min(conn.file_left, BODY_BLOCK - at))
                conn.file_at += sent
                conn.file_left -= sent
            elif conn.tail:
                conn.out, conn.tail, conn.repeat, sent = conn.tail, b"", b"", 0
            else:
                self.ep.modify(conn.fd, select.EPOLLIN)
                if conn.closing and not conn.stream:
                    self.close(conn)
                return
            budget -= sent

    def send_json(self, conn: Conn, value: object) -> None:
        body = json.dumps(value).encode()
        self.send(
            conn,
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body),
        )

    # -- the end of a connection

    def close(self, conn: Conn) -> None:
        if self.conns.pop(conn.fd, None) is None:
            return
        self.ep.unregister(conn.fd)
        conn.sock.close()
        if conn in self.watchers:
            self.watchers.remove(conn)
        if conn.stream:
            self.streams -= 1
        if conn.ident:
            self.tell(b"closed %s %d\n" % (conn.ident.encode(), time.monotonic_ns()))

    def tell(self, line: bytes) -> None:
        for watcher in list(self.watchers):
            self.send(watcher, line)

    def statistics(self) -> dict[str, float]:
        """What a measure asks for before and after its window."""
        late, self.late_ns = self.late_ns, 0
        return {
            "connections": len(self.conns) - 1,
            "streams": self.streams - len(self.watchers),
            "events": self.events,
            "dropped": self.dropped,
            "late_ms": late / 1e6,
            "cpu_s": time.process_time(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.origin", description=__doc__.splitlines()[0]
    )
    parser.add_argument("port", type=int)
    parser.add_argument(
        "--tick-us", type=int, default=TICK_NS // 1000, help="pacing grid in microseconds"
    )
    wish = parser.parse_args()
    raise_file_limit(10_000)
    try:
        Origin(wish.port, wish.tick_us * 1000).run()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
