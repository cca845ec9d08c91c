"""Closing a TCP listener without losing a connection to it.

What is in the accept queue of a listener, or half-way into it, is reset when the listener closes,
although a successor listens on the same port (SO_REUSEPORT; only net.ipv4.tcp_migrate_req=1 moves
it, and that is off by default). So a listener ends in three steps:

    turn_away ─► no new handshake begins here: a socket filter drops each SYN, and the client's
                 kernel sends it again a second later, to whoever listens then
    HANDSHAKES    ─► handshakes under way come to their end and are accepted
    accept all, close

The cost is that second for the few clients that begin inside HANDSHAKES and are hashed here.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress

HANDSHAKES = 0.25  # seconds: a round trip to the other side of the earth
_SO_ATTACH_FILTER = 26  # SO_DETACH_FILTER is 27; asm-generic/socket.h, not in Python's socket

# Classic BPF (linux/filter.h) on the TCP header: op, jump if true, jump if false, operand.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load byte 13: the flags
    (0x54, 0, 0, 0x12),  # and SYN | ACK
    (0x15, 1, 0, 0x02),  # SYN alone?
    (0x06, 0, 0, 0xFFFFFFFF),  # no: take the packet whole
    (0x06, 0, 0, 0),  # yes: drop it
)


def turn_away(sock: socket.socket) -> None:
    """Let no new handshake begin on a TCP listener. Where the kernel does not know filters the
    listener just goes on."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _DROP_SYN))
    program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(code))
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
