"""The client's end of a run's body: a log takes all that is written to it, at once.

It stands where a client's wire would, for both pumps. It never waits, never leaves, and is never full: what bounds it is the
log. So no viewer, however slow, ever holds the upstream back.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

from relay.feeds.run import Run


class LogWire:
    """The writing end of a run's log."""

    __slots__ = ("on_gone", "on_readable", "on_writable", "owner", "sock", "write_within")
    hung_up = False
    half_close_kept = True
    closed = False
    wants_write = False

    def __init__(self, run: Run) -> None:
        self.sock = _Sock(run)  # the pump's quickest step writes to the socket itself
        self.on_gone: Callable[[], None] | None = None
        self.on_readable: Callable[[], None] | None = None  # never: a log has nothing to say
        self.on_writable: Callable[[], None] | None = None
        self.owner: Callable[[Exception], None] | None = None
        self.write_within = inf

    def send_nowait(self, whole: bytes | memoryview) -> int:
        """Whole blocks: all of them are taken."""
        return self.sock.send(whole)

    async def send(self, whole: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.send_nowait(whole)

    def unacknowledged(self) -> int:
        return 0

    def want_write(self, wanted: bool) -> None:
        """Nothing to do: a log always takes what is written."""

    def close(self) -> None:
        """The run is sealed by its feed, which knows how it ended."""


class _Sock:
    """What a pump needs of a socket."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def send(self, whole: bytes | memoryview) -> int:
        """Append whole blocks. A run that was sealed meanwhile takes nothing more."""
        run = self._run
        if run.log.end is None:
            run.append(whole if isinstance(whole, bytes) else bytes(whole))
        return len(whole)
