"""Listening sockets: from an Address to a bound socket, and back to nothing.

Rules
  * A port that somebody listens on is taken: a second relay is refused, as every server is. Sharing
    it is asked for (`--takeover`), for as long as the one before drains.
  * So a TCP socket gets SO_REUSEPORT only once it listens. The kernel asks both sides for it: whoever
    comes without it is refused, and whoever has set it before binding, a worker or a successor,
    listens beside. (Linux lets only the same user share a port.)
  * A host name is listened on at every address it has, of both families.
  * A unix socket's file belongs to who bound it, and is removed by no one else: it is recognised by
    its inode, so a successor's file of the same name stays. Where nobody listens it is replaced.
  * A socket that was passed in is its opener's: it is used and put down, never shut.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from relay.config.values import Address
from relay.serving.activation import BACKLOG, Passed, places_of

_TRIES = 8  # ports that the kernel may choose until one is free on every address
# Where a name has an address that this machine has not, or of a family it does not speak.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_STALE_PROBE = 1.0  # seconds a process that holds a socket file has to take the probe


class BindError(Exception):
    """An address that cannot be listened on; the message names it and the reason.

    Attributes:
        taken: somebody else listens there.
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


@dataclass(eq=False, slots=True)
class Listener:
    """One listening socket. Resource handling: owns `sock`; `close` and `remove_file` end it."""

    sock: socket.socket
    address: Address | None = None  # as configured
    passed: bool = False  # somebody else opened it and keeps it open
    file: tuple[int, int] | None = None  # device and inode of a unix socket's file

    @property
    def is_tcp(self) -> bool:
        return self.sock.family in (socket.AF_INET, socket.AF_INET6)

    @property
    def port(self) -> int:
        """The port of a TCP socket."""
        return int(self.sock.getsockname()[1])

    @property
    def place(self) -> str:
        """What tells it from others of the configuration; "" for one that is not in it."""
        return self.address.text if self.address is not None else ""

    @property
    def is_per_worker(self) -> bool:
        """Each of several workers has one of its own beside it; the others are shared."""
        return self.is_tcp and not self.passed

    @property
    def name(self) -> str:
        """The address as it is announced: with the port that was really bound. A path is as it was
        written.
        """
        if self.sock.family == socket.AF_UNIX:
            if self.address is not None and self.address.written is not None:
                return self.address.written
            return f"unix:{self.sock.getsockname()}"
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def beside(self) -> Listener:
        """One more socket on the same TCP address, port included, with a queue of its own.

        Raises: BindError.
        """
        assert self.address is not None
        assert self.is_tcp
        try:
            sock = _bind_tcp(self.sock.family, self.sock.getsockname(), share=True)
        except OSError as error:
            raise _not_bound(self.address, error) from None
        return Listener(sock, self.address)

    def close(self) -> None:
        self.sock.close()

    def remove_file(self) -> None:
        """Remove the file of a unix socket, if it is still this socket's."""
        if self.file is None or self.address is None:
            return
        with suppress(OSError):
            if _identity(self.address.path) == self.file:
                os.unlink(self.address.path)
        self.file = None


def open_listeners(
    addresses: Iterable[Address], passed: Passed, *, takeover: bool = False
) -> list[Listener]:
    """Listeners for every address: those that were passed in, or else new ones.

    Args:
        takeover: share what another process of this user listens on, until that has drained.

    Raises: BindError; then nothing is left open.
    """
    opened: list[Listener] = []
    try:
        for address in addresses:
            try:
                found = passed.take(address)
            except OSError as error:
                raise _not_bound(address, error) from None
            if found:
                opened += [Listener(sock, address, passed=True) for sock in found]
            else:
                opened += _bind_another(address, opened, takeover)
    except BaseException:
        _close_all(opened)
        raise
    return opened


def _bind_another(address: Address, opened: Sequence[Listener], takeover: bool) -> list[Listener]:
    """Raises: BindError, which says so where one of `opened` is in the way."""
    try:
        return bind(address, takeover=takeover)
    except BindError as error:
        if error.taken and any(each.is_tcp and each.port == address.port for each in opened):
            message = f"cannot listen on {address}: another address here has that port already"
            raise BindError(message) from None
        raise


def bind(address: Address, *, takeover: bool = False) -> list[Listener]:
    """New listening sockets: one, or for a host name one for each of its addresses. Raises: BindError."""
    try:
        if address.kind == "unix":
            return [_bind_unix(address, takeover)]
        return _bind_name(address, takeover)
    except OSError as error:
        raise _not_bound(address, error) from None


def _not_bound(address: Address, error: OSError) -> BindError:
    reason = error.strerror or str(error)
    return BindError(f"cannot listen on {address}: {reason}", taken=error.errno == errno.EADDRINUSE)


def _close_all(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.remove_file()
        listener.close()


# -- TCP ---------------------------------------------------------------------------------------------


def _bind_name(address: Address, takeover: bool) -> list[Listener]:
    """A socket on every address of a host. Port 0 is the same port on all of them."""
    for _ in range(_TRIES):
        try:
            return _bind_each(address, takeover)
        except OSError as error:
            # The port that the kernel chose on the first address may be taken on the second.
            if address.port or error.errno != errno.EADDRINUSE:
                raise
            last = error
    raise last


def _bind_each(address: Address, takeover: bool) -> list[Listener]:
    places = places_of(address)
    opened: list[Listener] = []
    absent: OSError | None = None
    try:
        for family, where in places:
            port = opened[0].sock.getsockname()[1] if opened else where[1]
            try:
                sock = _bind_tcp(family, (where[0], port, *where[2:]), share=takeover)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error
            else:
                opened.append(Listener(sock, address))
    except BaseException:
        _close_all(opened)
        raise
    if not opened:
        raise absent or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return opened


def _bind_tcp(family: int, where: tuple[object, ...], *, share: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


# -- unix sockets ------------------------------------------------------------------------------------


def _bind_unix(address: Address, takeover: bool) -> Listener:
    """Bind at the path, or, where somebody listens there who is to be replaced, beside it and then in its place: a client
    finds one of the two at every moment."""
    path = address.path
    beside = _remove_stale(path) and takeover
    if beside:
        path = os.path.join(os.path.dirname(path), f".{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The umask decides what the file may do between bind and chmod: never more than the mode.
        before = os.umask(0o777 & ~address.mode) if address.mode is not None else None
        try:
            sock.bind(path)
        finally:
            if before is not None:
                os.umask(before)
        try:
            if address.mode is not None:
                os.chmod(path, address.mode)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            if beside:
                os.rename(path, address.path)
            return Listener(sock, address, file=_identity(address.path))
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str) -> bool:
    """Remove a socket file that nobody listens on; anything else stays, and bind says so.

    Returns: whether somebody listens there.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        found = _identity(path)
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_STALE_PROBE)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                if _identity(path) == found:  # nobody has put his there since
                    os.unlink(path)
            return False
        except OSError:
            return True  # its queue is full, or it is no stream socket
    return True


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino
