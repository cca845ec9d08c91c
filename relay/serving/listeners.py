"""Listening sockets: from an Address to a bound socket, and back."""

from __future__ import annotations

import os
import socket
import stat

from relay.config.values import Address

BACKLOG = 4096  # the kernel caps it at net.core.somaxconn


class BindError(Exception):
    """An address that cannot be listened on; the message names it and the reason."""


def bind(address: Address, *, share: bool = True) -> socket.socket:
    """A listening socket on `address`. Raises: BindError.

    Args:
        share: SO_REUSEPORT, so that workers, and a successor while this process drains, can listen beside it.
    """
    try:
        if address.kind == "fd":
            sock = socket.socket(fileno=os.dup(address.fd))
        elif address.kind == "unix":
            sock = _bind_unix(address)
        else:
            sock = _bind_tcp(address, share=share)
    except OSError as error:
        raise BindError(f"cannot listen on {address}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


def _bind_tcp(address: Address, *, share: bool) -> socket.socket:
    infos = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, where = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        sock.bind(address.path)
        if address.mode is not None:
            os.chmod(address.path, address.mode)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more; anything else stays, and bind says so."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def name_of(address: Address, sock: socket.socket) -> str:
    """The address as it is announced: with the port that was really bound."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
