"""Bulk bodies, down and up: MB/s and CPU seconds per GB (MB and GB are powers of ten).

Neither end touches the bytes: the origin sends from a file in memory, and what is received is
dropped in the kernel (MSG_TRUNC), so that the proxy is the limit and not the load. That the bytes
arrive as they were sent is the business of the tests. A body is longer than any window (1 TiB):
heads play no part.
"""

import os
import select
import socket
import time
from collections.abc import Callable

from benchmarks.load.opening import close_all, connect, open_streams, request
from benchmarks.load.target import Figures, LoadError, Target, Window
from benchmarks.patterns import BODY_BLOCK, memory_file

ENDLESS = 1 << 40  # bytes of one body
_READ = 1 << 20


def down(
    target: Target,
    *,
    connections: int = 4,
    framing: str = "length",
    seconds: float = 3.0,
    warm: float = 0.5,
) -> Figures:
    """Downloads; ``framing`` is ``length``, ``chunked`` or ``close``."""
    path = f"/download?bytes={ENDLESS}&framing={framing}"
    socks = open_streams(target, path, connections, b"\r\n\r\n")
    buffer = bytearray(_READ)

    def move(sock: socket.socket) -> int:
        count = sock.recv_into(buffer, _READ, socket.MSG_TRUNC)
        if not count:
            raise LoadError("a download ended early")
        return count

    return _measure(target, socks, select.EPOLLIN, move, seconds=seconds, warm=warm)


def up(target: Target, *, connections: int = 4, seconds: float = 3.0, warm: float = 0.5) -> Figures:
    """Uploads of known length."""
    body = memory_file(BODY_BLOCK)
    head = request(target, "/upload", "POST", b"Content-Length: %d\r\n" % ENDLESS)
    socks: list[socket.socket] = []
    try:
        for _ in range(connections):
            socks.append(connect(target))
            socks[-1].sendall(head)
            socks[-1].setblocking(False)

        def move(sock: socket.socket) -> int:
            try:
                return os.sendfile(sock.fileno(), body, 0, BODY_BLOCK)
            except ConnectionError as error:
                raise LoadError(f"an upload ended early: {error}") from error

        return _measure(target, socks, select.EPOLLOUT, move, seconds=seconds, warm=warm)
    finally:
        close_all(socks)
        os.close(body)


def _measure(
    target: Target,
    socks: list[socket.socket],
    interest: int,
    move: Callable[[socket.socket], int],
    *,
    seconds: float,
    warm: float,
) -> Figures:
    by_fd = {sock.fileno(): sock for sock in socks}
    with select.epoll() as ep:
        for fd in by_fd:
            ep.register(fd, interest)

        def run(length: float) -> int:
            total, end = 0, time.monotonic() + length
            while time.monotonic() < end:
                for fd, _ in ep.poll(0.05):
                    try:
                        total += move(by_fd[fd])
                    except BlockingIOError:
                        pass
            return total

        try:
            run(warm)
            with Window(target) as window:
                total = run(seconds)
        finally:
            close_all(socks)
    if not total:
        raise LoadError("nothing moved")
    return {
        "mb_s": total / 1e6 / window.seconds,
        "cpu_s_gb": window.proxy.exact_ns / total,
        **window.shares(),
    }
