"""Bytes from socket to socket that never enter this process: splice(2) through a pipe.

    source socket ─► pipe ─► target socket          (pages change hands, nothing is copied)

Rules
  * One pipe per engine, and it is empty between steps: what the target does not take is read out of it at once, and
    a pipe whose content nobody can vouch for is thrown away. What is left in it would go to another client.
  * A source's error is told once, to whoever asks first. What splice hears of it is believed at once: recv would call the
    same connection ended.
  * A short take says nothing about the source (a pipe has a bounded number of slots, and a small packet takes a
    whole one), and splice stops in front of TCP's urgent data as if there were nothing more. So an end, or that there
    is nothing yet, is believed only when recv says so too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from relay.wires.wire import READ_SIZE, Gone

TAKE = 256 * 1024  # bytes of one step; also what a client that stops reading can make relay hold
_CAPACITY = 1024 * 1024  # bytes of the pipe: 256 slots, the most an ordinary user may have
_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK: not in Python's os module
# What splice says where nothing is there, or where it cannot be spliced: then recv has the last word.
_NOT_BROKEN = frozenset((errno.EAGAIN, errno.EINTR, errno.EBADF, errno.EINVAL, errno.ENOMEM))


class Pipe:
    """The pipe through which one engine moves plain bodies and large chunks from socket to socket."""

    __slots__ = ("_in", "_out")

    def __init__(self) -> None:
        self._in = self._out = -1  # descriptors of its two ends; -1: bytes are copied
        self._open()

    def move(self, source: socket.socket, target: socket.socket, limit: int) -> tuple[int, bytes]:
        """Take up to `limit` bytes from one socket and give them to the other.

        Returns: how many were taken (0: the end of the stream), and those that the target did not take.
        Raises: BlockingIOError (nothing there), OSError (the source broke), Gone (the target did).
        """
        try:
            taken = os.splice(source.fileno(), self._in, limit, flags=_FLAGS)
        except OSError as error:
            if error.errno not in _NOT_BROKEN:
                raise
            taken = 0
        if not taken:
            return _copy(source, target, limit)
        return taken, self._safely(target, taken)

    def move_behind(
        self, line: bytes, source: socket.socket, target: socket.socket, limit: int
    ) -> tuple[int, bytes]:
        """`line` and then up to `limit` bytes of the source to the target, in one piece.

        Returns: how many were taken (0: nothing that can be spliced is there; only recv knows why), and what the target did
        not take of all that. Raises: Gone.
        """
        try:
            if line:
                os.write(self._in, line)
        except OSError:
            return 0, line  # there is no pipe: the line goes out by itself, and bytes are copied
        try:
            taken = os.splice(source.fileno(), self._in, limit, flags=_FLAGS)
        except OSError:
            taken = 0  # if it broke, recv calls it ended: in a chunk that is no end
        if not line and not taken:
            return 0, b""
        return taken, self._safely(target, len(line) + taken)

    def _safely(self, target: socket.socket, size: int) -> bytes:
        """As `_deliver`; where that raises, the pipe is made anew, so that no byte of one client is left for another."""
        try:
            return self._deliver(target, size)
        except Gone:
            raise
        except BaseException:  # out of memory, an interrupt
            self.close()
            self._open()
            raise

    def _deliver(self, target: socket.socket, taken: int) -> bytes:
        """Empty the pipe. Returns: what the target did not take. Raises: Gone."""
        sent = 0
        try:
            while sent < taken:
                sent += os.splice(self._out, target.fileno(), taken - sent, flags=_FLAGS)
        except BlockingIOError:
            return os.read(self._out, taken - sent)
        except OSError as error:
            os.read(self._out, taken - sent)
            raise Gone(error.errno) from None
        return b""

    def close(self) -> None:
        """From now on bytes are copied."""
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)
        self._in = self._out = -1

    def _open(self) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _CAPACITY)
        except OSError:
            pass  # it has the usual 16 slots then


def _copy(source: socket.socket, target: socket.socket, limit: int) -> tuple[int, bytes]:
    """The same by recv and send: the last word on whether there is anything, and the way where nothing can be spliced.

    Returns, Raises: as `Pipe.move`.
    """
    data = source.recv(min(limit, READ_SIZE))
    if not data:
        return 0, b""
    try:
        return len(data), data[target.send(data) :]
    except BlockingIOError:
        return len(data), data
    except OSError as error:
        raise Gone(error.errno) from None
