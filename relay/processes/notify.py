"""Word to the service manager (sd_notify(3)): ready, reloading, stopping, still alive.

A datagram to the socket in NOTIFY_SOCKET; without one every call does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from math import inf


class Notifier:
    """Attributes:
    watchdog: seconds between two words of life, half of what the manager allows; inf: not asked.
    """

    __slots__ = ("_address", "watchdog")

    def __init__(self, address: str = "", watchdog: float = inf) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """The manager's socket; the variables are removed, as they are meant for this process."""
        address = environ.pop("NOTIFY_SOCKET", "")
        pid, wait = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        meant = wait.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(wait) / 2e6 if meant else inf)

    def ready(self, status: str = "") -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with suppress(OSError):  # a manager that is busy or gone is no reason to fail
                sock.sendto(text.encode(), self._address)
