"""Opening connections: a request on each, a bounded number in the making, until the first bytes are
there."""

import select
import socket
import time

from benchmarks.load.target import LoadError, Target

TOGETHER = 64  # exchanges in the making at a time: below the accept backlog of every peer
OPEN_LIMIT = 40.0  # seconds for all of them; the slowest peer opens 200 a second


def request(target: Target, path: str, method: str = "GET", fields: bytes = b"") -> bytes:
    """A request head as a script client sends it."""
    return (
        b"%b %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: relay-benchmarks/1\r\nAccept: */*\r\n%b\r\n"
    ) % (method.encode(), path.encode(), target.host, fields)


def connect(target: Target) -> socket.socket:
    """A connected blocking socket without Nagle's delay."""
    sock = socket.create_connection(("127.0.0.1", target.port), timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def open_streams(target: Target, path: str, count: int, until: bytes) -> list[socket.socket]:
    """``count`` non-blocking connections, each with a 200 and ``until`` among the bytes received.

    Raises:
        LoadError: another status, a closed connection, or not done within OPEN_LIMIT.
    """
    head = request(target, path, fields=b"Accept-Language: en\r\nCache-Control: no-cache\r\n")
    ready: list[socket.socket] = []
    making: dict[int, tuple[socket.socket, bytes]] = {}
    ep = select.epoll()
    limit = time.monotonic() + OPEN_LIMIT
    try:
        while len(ready) < count:
            while len(making) < TOGETHER and len(making) + len(ready) < count:
                sock = connect(target)
                sock.sendall(head)
                sock.setblocking(False)
                making[sock.fileno()] = sock, b""
                ep.register(sock.fileno(), select.EPOLLIN)
            for fd, _ in ep.poll(0.5):
                sock, seen = making[fd]
                seen += _receive(sock)
                making[fd] = sock, seen
                if seen[9:12] not in (b"200", b""):
                    raise LoadError(f"the proxy answered {seen[:80]!r}")
                if until in seen:
                    ep.unregister(fd)
                    ready.append(making.pop(fd)[0])
            if time.monotonic() > limit:
                raise LoadError(f"{len(ready)} of {count} streams after {OPEN_LIMIT:.0f} s")
    except BaseException:
        close_all([sock for sock, _ in making.values()] + ready)
        raise
    finally:
        ep.close()
    return ready


def close_all(socks: list[socket.socket]) -> None:
    """Close every socket of a measure."""
    for sock in socks:
        sock.close()


def _receive(sock: socket.socket) -> bytes:
    try:
        data = sock.recv(65536)
    except OSError as error:
        raise LoadError(f"while opening: {error}") from error
    if not data:
        raise LoadError("the proxy closed while opening")
    return data
