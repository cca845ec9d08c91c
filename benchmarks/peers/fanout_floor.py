"""The floor of a fan-out: ``python -m benchmarks.peers.fanout_floor PORT ORIGIN_PORT``.

A bare loop that sends what one upstream writes to all who are connected: an epoll, a recv, a send for each. Nothing is
parsed, counted, kept or protected. It is no relay; it is what Python itself costs.
"""

import select
import socket
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def main() -> None:
    port, origin = int(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    waiting = select.epoll()
    waiting.register(listener.fileno(), select.EPOLLIN)
    readers: dict[int, socket.socket] = {}
    asking: dict[int, socket.socket] = {}
    upstream: socket.socket | None = None
    while True:
        for fd, _ in waiting.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asking[sock.fileno()] = sock
                waiting.register(sock.fileno(), select.EPOLLIN)
            elif upstream is not None and fd == upstream.fileno():
                data = upstream.recv(65536)
                if not data:
                    return
                if data.startswith(b"HTTP/"):
                    data = data.partition(b"\r\n\r\n")[2]
                for reader in readers.values():
                    try:
                        reader.send(data)
                    except OSError:
                        pass  # it has left, or takes no more: nobody waits for it
            elif fd in asking:
                sock = asking.pop(fd)
                sock.recv(65536)
                waiting.unregister(fd)
                sock.send(HEAD)
                readers[fd] = sock
                if upstream is None:
                    upstream = socket.create_connection(("127.0.0.1", origin))
                    upstream.sendall(b"GET /events HTTP/1.1\r\nHost: origin\r\n\r\n")
                    upstream.setblocking(False)
                    waiting.register(upstream.fileno(), select.EPOLLIN)


if __name__ == "__main__":
    main()
