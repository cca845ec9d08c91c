"""The floor: ``python -m benchmarks.peers.floor PORT ORIGIN_PORT``.

A bare loop that passes bytes between a client and an upstream connection of its own: an epoll, a recv and a send for each
read. Nothing is parsed, counted, kept or protected, and what a socket does not take is lost. It is no relay; it is what
Python itself costs where the system calls are the same.
"""

import select
import socket
import sys

_NEWS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


def main() -> None:
    port, origin = int(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    waiting = select.epoll()
    waiting.register(listener.fileno(), select.EPOLLIN)
    ends: dict[int, tuple[socket.socket, socket.socket]] = {}
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while True:
        for fd, _ in waiting.poll():
            pair = ends.get(fd)
            if pair is None:
                if fd == listener.fileno():
                    client, upstream = listener.accept()[0], _connect(origin)
                    for sock, other in ((client, upstream), (upstream, client)):
                        sock.setblocking(False)
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        ends[sock.fileno()] = sock, other
                        waiting.register(sock.fileno(), _NEWS)
                continue
            sock, other = pair
            try:
                size = sock.recv_into(buffer)
                if size:
                    other.send(view[:size])
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass  # it was reset: the same end
            for each in pair:
                del ends[each.fileno()]
                each.close()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


if __name__ == "__main__":
    main()
