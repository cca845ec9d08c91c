"""One end's bytes: what a client connection and an upstream connection have in common.

Rules
  * One reader and one writer at a time; nothing is locked.
  * A deadline belongs to the caller: it sets `read_by` / `write_within` and sees `Expired`.
  * `Gone` says that the other end closed or reset the connection, which is expected. After it, or after a failed or
    cancelled send, the wire is dead and is only closed.
  * `close` is synchronous and by force, so no cleanup ever waits and no shield is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from relay.observing.ending import Side

READ_SIZE = 64 * 1024  # bytes asked of one recv: a loopback segment; the step's fairness bound


class Gone(Exception):
    """The other end closed, reset, or cannot be written to any more."""


class Expired(Exception):
    """The deadline its caller set on this wire has passed.

    Attributes:
        side: whose wire it is. A task waits for both sides in turn, and who is blamed is decided far from the wait.
    """

    __slots__ = ("side",)

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side = side


class Source(Protocol):
    """A byte stream that is read. Whoever reads keeps the time."""

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end of the stream. Raises: Gone. Cancellation: loses no bytes."""

    def close(self) -> None:
        """Close now; whoever waits on it sees Gone. Idempotent."""


class Wire(Source, Protocol):
    """A connected byte stream in both directions."""

    read_by: (
        float  # absolute time (trio.current_time) by which a read must have got something; inf: off
    )
    write_within: float  # seconds a write may stay without progress; inf: off
    side: Side  # who is at the other end
    on_gone: Callable[[], None] | None  # called once when the other end hangs up while nobody reads

    async def receive(self) -> bytes:
        """The next bytes, at most READ_SIZE and at least one; b"" at the end of the stream.

        Raises: Gone, Expired. Cancellation: loses no bytes.
        """

    async def send(self, data: bytes) -> None:
        """All of `data`. Raises: Gone, Expired. Cancellation: the wire is dead afterwards."""


__all__ = ["READ_SIZE", "Expired", "Gone", "Source", "Wire", "inf"]
