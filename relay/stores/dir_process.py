"""A process among those that share a directory: whether it lives, and how it is told something.

    processes/NAME.lock    held (flock) as long as the process lives: the kernel lets go of it, however that ends
             /NAME.sock    where it is told things: datagrams of a few bytes

Rules
  * Names are random and never used again. A lock that cannot be taken is alive; one that can, or is not there, is dead.
    Who only looks takes it shared, so that two who look at once do not see each other.
  * A datagram is a hint: what is true stands in the files. To who takes none just now (EAGAIN: the kernel queues eleven) it
    is said again within a moment, and as many hints as were missed become one: look at everything.
  * A process that is gone is noticed when it is told something, and by who looks after it on a clock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from relay.stores.dir_files import Files

NAME: Final = 16  # characters of a process's name
_LONGEST: Final = 107  # bytes of a unix socket's path (unix(7))
# There is no such file, or what is there is no file: no process of relay's has that for its lock.
_NO_LOCK: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO))
_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))


class Process:
    """This process. `close` it, and it is dead to the others."""

    __slots__ = ("_again", "_directory", "_files", "_gone", "_lock", "again", "name", "sock")

    def __init__(self, files: Files, gone: Callable[[str], None]) -> None:
        """gone: told of who could not be told anything. Raises: OSError."""
        self.name = secrets.token_hex(NAME // 2)
        self._files = files
        self._gone = gone
        self._again: dict[str, list[bytes]] = {}  # what could not be said to whom
        self.again: Callable[[], None] = lambda: None  # there is something to say again
        self._directory = os.open(files.processes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lock = -1
        try:
            self._lock = self._locked()
            self.sock.setblocking(False)
            self.sock.bind(self._address(self.name))
        except OSError:
            self.close()
            raise

    def _locked(self) -> int:
        path = self._files.lock(self.name)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except FileNotFoundError:  # a janitor took it for a dead one's before it was locked
                pass
            os.close(fd)

    def _address(self, name: str) -> str:
        path = f"{self._files.processes}/{name}.sock"
        if len(path.encode()) > _LONGEST:
            path = f"/proc/self/fd/{self._directory}/{name}.sock"
        return path

    def alive(self, name: str) -> bool:
        """Whether a process lives; one that was only stopped does."""
        return name == self.name or lives(self._files.lock(name))

    # -- telling -------------------------------------------------------------------------------------------------

    def tell(self, name: str, word: bytes) -> None:
        """Say something to a process. Never waits, never raises."""
        missed = self._again.get(name)
        if missed is not None:
            if word in missed:  # the last word counts: who comes again after leaving is there
                missed.remove(word)
            missed.append(word)
            return
        if not self._said(name, word):
            self._again[name] = [word]
            self.again()

    def _said(self, name: str, word: bytes) -> bool:
        try:
            self.sock.sendto(word, self._address(name))
        except OSError as error:
            if error.errno in _FULL:
                return False
            self._gone(name)
        return True

    def tell_again(self) -> bool:
        """What could not be said. Returns: whether all of it is said now."""
        for name in tuple(self._again):
            missed = self._again[name]
            while missed and self._said(name, missed[0]):
                missed.pop(0)
            if not missed:
                del self._again[name]
        return not self._again

    def close(self) -> None:
        """Let go of the lock, last of all."""
        for path in (f"{self._files.processes}/{self.name}.sock", self._files.lock(self.name)):
            with suppress(OSError):
                os.unlink(path)
        self.sock.close()
        for fd in (self._directory, self._lock):
            if fd >= 0:
                os.close(fd)
        self._directory = self._lock = -1


def lives(lock: str) -> bool:
    """Whether somebody holds this lock file. Raises: OSError: it cannot be told (no descriptor is left, or no right)."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_LOCK:
            return False
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
