"""The request body: on its way upstream, and kept as long as it may have to be sent again.

A body is kept whole up to KEPT bytes; a larger one can be sent once. Sources that read it themselves
(`enqueue`, `answer`) take the payload instead.
"""

from __future__ import annotations

from relay.flows.bytes_flow import BytesFlow
from relay.http.fault import Fault
from relay.http.framing import UNTIL_CLOSE
from relay.http.names import LATE, Barred

KEPT = 64 * 1024  # bytes; what Go, Pingora and HAProxy keep for a second attempt


class RequestBody:
    """One request body, sans-IO, in the encoding its taker gets: the client's own framing, or the bare payload."""

    __slots__ = ("_flow", "_limit", "_sent", "bare", "kept", "received")

    def __init__(
        self, framing: int, limit: int, *, bare: bool = False, late: Barred = LATE
    ) -> None:
        self._flow = BytesFlow(framing, UNTIL_CLOSE if bare else framing, "client", late)
        self._limit = limit
        self.bare = bare
        self._sent = False  # the opening is out
        # All that was taken; None: too much to send again
        self.kept: bytearray | None = bytearray()
        self.received = 0  # bytes from the client

    @property
    def done(self) -> bool:
        return self._flow.done

    @property
    def surplus(self) -> bytes:
        """What came behind the body: the next request."""
        return self._flow.surplus

    def take(self, data: bytes) -> bytes:
        """What the upstream gets for `data`. Raises: Fault (malformed, or over the limit: 413)."""
        out = self._flow.feed(data)
        self.received += len(data)
        if self._flow.payload_bytes > self._limit:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        if self.kept is not None:
            self.kept += out
            if self._sent:
                self._forget()
        return out

    @property
    def plain(self) -> bool:
        """Whether the rest may pass unseen: its length is known and within the limit, and it is not kept."""
        return self.kept is None and self._flow.plain

    def wanted(self, limit: int) -> int:
        """How many bytes of a plain body may be taken at once."""
        return self._flow.wanted(limit)

    def passed(self, size: int) -> None:
        """So many bytes of a plain body went by."""
        self._flow.passed(size)
        self.received += size

    def opening(self) -> bytes:
        """What goes out together with the head: all that is there already."""
        return bytes(self.kept or b"")

    @property
    def size(self) -> int:
        """Bytes of the payload so far."""
        return self._flow.payload_bytes

    def given(self) -> bytes:
        """The whole payload, for a source that reads it itself; it is not kept here any longer."""
        payload = self.opening()
        self.kept = None
        return payload

    def sent(self) -> None:
        """The opening is out: from now on what is too large to be sent twice is forgotten."""
        self._sent = True
        self._forget()

    def _forget(self) -> None:
        if self.kept is not None and len(self.kept) > KEPT:
            self.kept = None

    @property
    def resendable(self) -> bool:
        return self.kept is not None
