"""Bytes from socket to socket that never enter this process: splice(2) through a pipe.

    source socket ─► pipe ─► target socket          (pages change hands, nothing is copied)

Rules
  * One pipe per engine, and it is empty between steps: what the target does not take is read out of it at once.
  * A short take says nothing about the source (the pipe has a bounded number of slots, and a small packet takes a
    whole one): only BlockingIOError tells that it has no more.
"""

from __future__ import annotations

import fcntl
import os
import socket

from relay.wires.wire import Gone

TAKE = 256 * 1024  # bytes of one step; also what a client that stops reading can make relay hold
_SLOTS_WANTED = 1024 * 1024  # bytes of the pipe: 256 slots, the most an ordinary user may have
_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK: not in Python's os module


class Pipe:
    """The way for plain bodies of one engine.

    Attributes:
        works: False where the kernel does not splice between sockets (some sandboxes).
    """

    __slots__ = ("_in", "_out", "works")

    def __init__(self) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _SLOTS_WANTED)
        except OSError:
            pass  # it has 16 slots then
        self.works = self._try()

    def move(self, source: socket.socket, target: socket.socket, limit: int) -> tuple[int, bytes]:
        """Take up to `limit` bytes from one socket and give them to the other.

        Returns: how many were taken (0: the end of the stream), and those that the target did not take.
        Raises: BlockingIOError (nothing there), OSError (the source broke), Gone (the target did).
        """
        taken = os.splice(source.fileno(), self._in, limit, flags=_FLAGS)
        sent = 0
        try:
            while sent < taken:
                sent += os.splice(self._out, target.fileno(), taken - sent, flags=_FLAGS)
        except BlockingIOError:
            return taken, os.read(self._out, taken - sent)
        except OSError:
            os.read(self._out, taken - sent)
            raise Gone from None
        return taken, b""

    def close(self) -> None:
        """From now on every move finds its source broken."""
        os.close(self._in)
        os.close(self._out)
        self._in = self._out = -1

    def _try(self) -> bool:
        one, two = socket.socketpair()
        with one, two:
            one.send(b"?")
            try:
                return self.move(two, two, 1) == (1, b"")
            except (OSError, Gone):
                return False
