"""One exchange's hold of one upstream connection, and the only judgement of whether that connection serves again.

    request   owed ──request_sent──► sent
    answer    awaited ──heard──► begun ──answered──► head ──answer_whole──► whole
    both      ──release──► idle in the pool, or closed

Rules
  * A connection serves again only if its upstream had taken all of the request before the head of the answer came, the
    answer lets it and is whole, and nothing came before the request or behind the answer.
  * Every step has to be reported, and one that was not reported counts as not done. Whatever ends an exchange early, a
    cancelled task too, leaves a step unreported, and `release` closes the connection.
  * The reason: an upstream that is still owed a part of one request takes the next bytes on the connection for it. Then
    the rest of one client's request is read as a request of its own, which no route has seen, and the answers go to the
    wrong clients (RFC 9112 §9.3, §11.2).
  * "Taken" is what the kernel can tell. On a unix socket it means read. Over TCP it means acknowledged: an answer that
    was written after the request had been read acknowledges all of it, so whatever is not acknowledged then tells of an
    early answer. That an upstream answers without having read what its kernel has acknowledged cannot be seen; it has
    to read on, as RFC 9112 §9.3 demands of everyone who keeps a connection open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.wires.wire import Gone

if TYPE_CHECKING:
    from relay.http.heads import ResponseHead
    from relay.upstreams.origin import Origin
    from relay.wires.socket_wire import SocketWire


class Lease:
    """One connection, from the moment it is taken or dialled until `release`.

    Resource handling: owns the wire meanwhile. `release` is the only end, and is called once by whoever holds the lease.
    """

    __slots__ = ("_in_step", "_lets", "_sent", "_whole", "heard", "origin", "reused", "wire")

    def __init__(self, origin: Origin, wire: SocketWire, *, reused: bool) -> None:
        self.origin = origin
        self.wire = wire
        self.reused = reused  # it has served before
        self.heard = False  # bytes of an answer have come, if only of an interim one
        self._sent = False  # the last byte of the request was given to the wire
        self._in_step = True  # nothing came before its time
        self._lets = False  # the head of the answer lets the connection serve again
        self._whole = False  # the answer is whole, and nothing is behind it

    def unasked(self) -> bytes:
        """What a new connection says before it was asked anything: an upstream that is full may answer at once."""
        try:
            data = self.wire.recv_nowait() or b""
        except Gone:
            return b""  # reading tells so again
        if data:
            self.heard = True
            self._in_step = False
        return data

    def request_sent(self) -> None:
        """The wire has the last byte of the request: `post` or `send` came back from it."""
        self._sent = True

    @property
    def request_taken(self) -> bool:
        """Whether the other end has all of the request, as far as the kernel can tell."""
        wire = self.wire
        return self._sent and not wire.torn and not wire.unacknowledged()

    def answered(self, head: ResponseHead) -> None:
        """The final head of the answer has come."""
        if not self.request_taken:
            self._in_step = False
        self._lets = head.keep_alive

    def answer_whole(self) -> None:
        """The last byte of the answer was read, and nothing behind it."""
        self._whole = True

    @property
    def serves_again(self) -> bool:
        """Whether another request may go out on this connection."""
        return self._in_step and self._lets and self._whole

    def release(self) -> None:
        """Give the connection back to its origin, or close it."""
        if self.serves_again:
            self.origin.put(self.wire)
        else:
            self.wire.close()
