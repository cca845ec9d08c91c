"""Listening sockets: from an Address to a bound socket, and back to nothing.

Rules
  * A TCP socket has SO_REUSEPORT, so that workers, and a successor while this process drains,
    listen beside it. (Linux lets only the same user share a port.)
  * A unix socket's file belongs to who bound it, and is removed by no one else: it is recognised by
    its inode, so a successor's file of the same name stays.
  * A socket that was passed in is its opener's: it is used and put down, never shut.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from relay.config.values import Address
from relay.serving.activation import BACKLOG, Passed

_STALE_PROBE = 1.0  # seconds a process that holds a socket file has to take the probe


class BindError(Exception):
    """An address that cannot be listened on; the message names it and the reason."""


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
        port = self.sock.getsockname()[1]
        return replace(bind(replace(self.address, port=port)), address=self.address)

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


def open_listeners(addresses: Iterable[Address], passed: Passed) -> list[Listener]:
    """A listener for every address: one that was passed in, or else a new one.

    Raises: BindError; then nothing is left open.
    """
    opened: list[Listener] = []
    try:
        for address in addresses:
            try:
                found = passed.take(address)
            except OSError as error:
                raise BindError(f"cannot listen on {address}: {error.strerror or error}") from None
            if found:
                opened += [Listener(sock, address, passed=True) for sock in found]
            else:
                opened.append(bind(address))
    except BaseException:
        for listener in opened:
            listener.remove_file()
            listener.close()
        raise
    return opened


def bind(address: Address) -> Listener:
    """A new listening socket. Raises: BindError."""
    try:
        if address.kind == "unix":
            return _bind_unix(address)
        return Listener(_bind_tcp(address), address)
    except OSError as error:
        raise BindError(f"cannot listen on {address}: {error.strerror or error}") from None


def _bind_tcp(address: Address) -> socket.socket:
    infos = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, where = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(address: Address) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        # The umask decides what the file may do between bind and chmod: never more than the mode.
        before = os.umask(0o777 & ~address.mode) if address.mode is not None else None
        try:
            sock.bind(address.path)
        finally:
            if before is not None:
                os.umask(before)
        if address.mode is not None:
            os.chmod(address.path, address.mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return Listener(sock, address, file=_identity(address.path))
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on; anything else stays, and bind says so."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_STALE_PROBE)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino
