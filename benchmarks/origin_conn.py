"""One connection of the origin, as plain state: the server in ``origin.py`` does what it says."""

import socket


class Conn:
    """One connection: what is still to be sent, and what it is doing."""

    __slots__ = (
        "closing",
        "fd",
        "file_at",
        "file_left",
        "head",
        "ident",
        "interval",
        "out",
        "padding",
        "repeat",
        "sink",
        "sock",
        "stream",
        "tail",
        "times",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.head = b""
        self.ident = ""
        self.out = b""  # pending: goes out before anything else
        self.repeat = b""  # a block to be sent again and again ...
        self.times = 0  # ... this often, or -1 for ever,
        self.tail = b""  # and what follows the last one
        self.file_left = 0  # bytes still to be sent from the memory file, over and over
        self.file_at = 0  # and how many were
        self.interval = 0  # ns between paced events
        self.padding = b""  # of a paced event, behind the clock
        self.sink = 0  # bytes of an upload still to come, or -1 for a chunked one
        self.stream = False  # an event stream: has no end of its own
        self.closing = False  # close once everything is sent
