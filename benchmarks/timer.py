"""A periodic timerfd (timerfd_create(2)), for which Python 3.11 has no wrapper."""

import ctypes
import os
import time

_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """Readable on ``fd`` once per tick while started."""

    def __init__(self, tick_ns: int) -> None:
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self.tick_ns = tick_ns
        self.going = False

    def start(self) -> None:
        if not self.going:
            self._set(self.tick_ns)

    def stop(self) -> None:
        if self.going:
            self._set(0)

    def read(self) -> None:
        """Take the expiries, so that the descriptor is quiet until the next."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass  # another tick was armed meanwhile

    def _set(self, ns: int) -> None:
        self.going = ns > 0
        seconds, rest = divmod(ns, 1_000_000_000)
        spec = (ctypes.c_long * 4)(seconds, rest, seconds, rest)  # interval, then first expiry
        _libc.timerfd_settime(self.fd, 0, spec, None)
