"""The bytes that travel in a measure, known to the origin and to the load."""

import os

BODY_BLOCK = 1 << 20  # bytes of pattern kept in memory and sent again and again

SMALL_BODY = (
    b'{"id": 4711, "name": "a small answer", "state": "ready", "tags": ["a", "b"], "score": 0.75}'
)
FIRST_LINE = b"data: hello\n"  # what a reader waits for: in a resumable stream its id comes next
FIRST_EVENT = FIRST_LINE + b"\n"
CLOCK_DIGITS = 19  # of time.monotonic_ns() with leading zeros: enough for 300 years of uptime


def pattern(size: int) -> bytes:
    """Printable bytes whose period (1021, a prime) fits no block size; without CR and LF."""
    line = bytes(32 + (i * 7 + i // 95) % 95 for i in range(1021))
    return (line * (size // len(line) + 1))[:size]


def memory_file(size: int) -> int:
    """A descriptor of a file in memory that holds pattern(size): sendfile costs no copy in user
    space."""
    fd = os.memfd_create("pattern")
    os.write(fd, pattern(size))
    return fd


def chunk(data: bytes) -> bytes:
    """``data`` as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def paced_event(clock_ns: int, padding: bytes) -> bytes:
    """One event with the clock of its sending: ``data: CLOCK PADDING``."""
    return b"data: %019d%b\n\n" % (clock_ns, padding)
