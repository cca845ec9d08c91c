"""Sockets that a parent opened for us: systemd's socket activation (sd_listen_fds(3)).

    LISTEN_PID=1234 LISTEN_FDS=2 LISTEN_FDNAMES=web:admin   ─►  descriptors 3 and 4

A passed socket serves the address of the configuration that names it (`fd:3`, `fd:web`) or that it
is bound to (`127.0.0.1:8000`): the same file then works with and without the socket unit.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping

from relay.config.values import Address

FIRST = 3  # SD_LISTEN_FDS_START
BACKLOG = 4096  # the kernel caps it at net.core.somaxconn


class Passed:
    """What was passed in. Kept for the life of the process: a reload may name a socket anew.

    Resource handling: `take` gives duplicates, which are the caller's.
    """

    __slots__ = ("_names", "_sockets", "_taken")

    def __init__(self, sockets: Iterable[tuple[int, str]] = ()) -> None:
        """`sockets`: descriptor and name of each."""
        self._sockets: dict[int, socket.socket] = {}
        self._names: dict[int, str] = {}
        self._taken: set[int] = set()
        for fd, name in sockets:
            try:
                self._sockets[fd] = _listening(fd)
            except OSError as error:
                reason = error.strerror or error
                raise OSError(f"descriptor {fd}, said to be passed in: {reason}") from None
            self._names[fd] = name

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Passed:
        """Take the sockets meant for this process; the variables are removed, so that no child
        takes them for its own. Raises: OSError: a descriptor that is not there, or no socket.
        """
        pid = environ.pop("LISTEN_PID", "")
        count = environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()) or not count.isdigit():
            return cls()
        fds = range(FIRST, FIRST + int(count))
        return cls((fd, names[n] if n < len(names) else "") for n, fd in enumerate(fds))

    def take(self, address: Address) -> list[socket.socket]:
        """Non-blocking duplicates of the sockets for `address`; empty: there are none.

        Raises: OSError: the descriptor that `address` names is not there, or cannot listen.
        """
        if address.kind == "fd" and not address.name and address.fd not in self._sockets:
            self._sockets[address.fd] = _listening(address.fd)
            self._names[address.fd] = ""
        found = [fd for fd in self._sockets if self._serves(fd, address)]
        if address.kind == "fd" and not found:
            raise OSError("no socket of that name was passed in")
        self._taken.update(found)
        duplicates = [self._sockets[fd].dup() for fd in found]
        for sock in duplicates:
            sock.setblocking(False)
        return duplicates

    def _serves(self, fd: int, address: Address) -> bool:
        if address.kind == "fd":
            return self._names[fd] == address.name if address.name else fd == address.fd
        sock = self._sockets[fd]
        bound = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return address.kind == "unix" and bound == address.path
        return address.kind == "tcp" and bound[1] == address.port and _same(bound[0], address)

    def untaken(self) -> Iterator[str]:
        """Those that nothing in the configuration asked for."""
        for fd, sock in self._sockets.items():
            if fd not in self._taken:
                yield f"fd:{self._names[fd] or fd} ({sock.getsockname()})"

    def close(self) -> None:
        """Put them down; their opener keeps them, and what waits in them, for a successor."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _listening(fd: int) -> socket.socket:
    """The socket of a descriptor, no longer handed to children. Raises: OSError."""
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM:
            raise OSError("it is not a stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)
    except BaseException:
        sock.detach()  # not ours to close
        raise
    return sock


def _same(host: str, address: Address) -> bool:
    return any(host == where[0] for _, where in places_of(address))


def places_of(address: Address) -> list[tuple[int, tuple[object, ...]]]:
    """Every address of a TCP listener's host, of both families, as `bind` takes it. Raises: OSError: it has none.

    localhost is both loopback addresses whatever a hosts file says of it (RFC 6761, section 6.3): clients try either.
    """
    if address.host.lower().rstrip(".") == "localhost":
        v4, v6 = ("127.0.0.1", address.port), ("::1", address.port, 0, 0)
        return [(socket.AF_INET, v4), (socket.AF_INET6, v6)]
    infos = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, where) for family, _, _, _, where in infos))
