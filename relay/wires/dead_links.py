"""Links that die without a word: a pulled cable, a phone out of reach, a NAT that forgot. No FIN, no reset.

    client    unread for `write` + BEYOND ─► the kernel gives up (TCP_USER_TIMEOUT, RFC 5482) ─► a hang-up like any other
              quiet                       ─► probes (SO_KEEPALIVE), under the same limit
    upstream  quiet                       ─► probes alone: what it takes slowly has relay's own clocks

Rules
  * A client that does not read has a window of zero, and the kernel counts that as unread too. So its limit is longer than
    relay's own, `[timeouts] write`, which ends a client that stopped reading and says so in the log.
  * Sockets that are accepted inherit what their listener has (tcp(7) does not promise it; Linux does it, and a test sees
    to it), so this costs nothing per connection.
  * Without these a client that vanishes while tokens trickle would keep its upstream running for as long as the kernel
    sends again: 15 minutes (net.ipv4.tcp_retries2).
"""

from __future__ import annotations

import socket
from array import array
from fcntl import ioctl
from math import inf
from termios import FIONREAD, TIOCOUTQ
from typing import Final

BEYOND: Final = 5.0  # seconds more than `write`: relay's own clock is never late by so much
QUIET: Final = 10  # seconds without a byte before the first probe
BETWEEN: Final = 5  # seconds between two probes
PROBES: Final = 3  # without an answer, where no other limit holds: 25 s in all
_LONGEST: Final = 24 * 3600.0  # seconds; the kernel counts in milliseconds of 32 bits

_queued = array("i", [0])  # an ioctl that fills this costs half of one that makes bytes


def unacknowledged(fd: int) -> int:
    """Bytes that the kernel took for a socket and the other end has not; of a unix socket: has not read."""
    try:
        ioctl(fd, TIOCOUTQ, _queued)
    except OSError:
        return 0
    return _queued[0]


def unread(fd: int) -> int:
    """Bytes that have come in on a socket and nobody has read; the end of the stream does not count as one."""
    try:
        ioctl(fd, FIONREAD, _queued)
    except OSError:
        return 0
    return _queued[0]


def watch_client(sock: socket.socket, write: float) -> None:
    """Bound how long a client, or all clients of a listener from now on, may leave unread what was sent.

    Args:
        write: seconds a write may stay without progress; inf: only probes.
    """
    if sock.family == socket.AF_UNIX:
        return
    limit = 0 if write == inf else round(1000 * min(write + BEYOND, _LONGEST))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
    probe(sock)


def probe(sock: socket.socket) -> None:
    """Have the kernel ask a quiet TCP peer whether it is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, QUIET)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BETWEEN)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
