"""Who may take the last descriptors of this process.

    0 … limit - reserve   client connections, upstream connections, files
    … limit               the reserve: control messages, reload, the log, the admin listener, name look-ups

Rules
  * The kernel gives the lowest number that is free (POSIX, open()). So whoever gives back a descriptor that is numbered
    in the reserve leaves all of the reserve to the others, and nobody has to count.
  * A client is accepted only while there is room for it and for the upstream it will need (`room_for_clients`): who is
    connected is served, and who cannot be served waits in the kernel.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

RESERVE: Final = 128  # descriptors: 64 of the admin listener, the rest for messages, look-ups, log and files of a reload
_SHARE: Final = 8  # one in so many is reserved where the limit is small
_BESIDE: Final = 512  # at most kept free for upstream connections of clients that have left (background tasks, checks, runs)
_LACK: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def reserved() -> int:
    """How many descriptors the reserve has, by the limit as it is now."""
    return _reserved(_limit())


def _reserved(limit: int) -> int:
    return min(RESERVE, limit // _SHARE)


def is_lack(error: OSError) -> bool:
    """Whether an error says that this process or machine has no descriptor, or no memory for one."""
    return error.errno in _LACK


def in_reserve(fd: int) -> bool:
    """Whether a descriptor is one of the last."""
    limit = _limit()
    return fd >= limit - _reserved(limit)


def refuse_reserve(fd: int) -> None:
    """For who may not use the reserve, with a descriptor just opened.

    Raises: OSError (EMFILE), as if it had not been there; the caller closes it.
    """
    if in_reserve(fd):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def none_left() -> bool:
    """Whether nothing could be opened just now outside the reserve."""
    try:
        fd = os.dup(0)
    except OSError as error:
        return is_lack(error)
    os.close(fd)
    return in_reserve(fd)


def room_for_clients(opened: int, runs: int = 0, each: int = 2) -> int:
    """How many clients may be connected at a time, each with an upstream; at least one.

    Args:
        opened: what is open before the first of them.
        each: what one takes: itself, its upstream, and perhaps the file of its run.
        runs: upstream connections that go on without a client. Where they are many against the limit they may lack one.
    """
    left = _limit() - reserved() - opened
    left -= min(_BESIDE, left // _SHARE) + min(runs, left // _SHARE * 2)
    return max(1, left // each)


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def open_now() -> int:
    """How many descriptors this process has."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # no /proc in this container: what a worker has before its first client
        return 32
