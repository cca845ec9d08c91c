"""What a source brings back: a response whose head is known, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from threading import Lock

from relay.http.bodies import Fields
from relay.http.heads import ResponseHead
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sse.capture import Capture
from relay.sse.translate import Translation
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.socket_wire import SocketWire

SendEvents = Callable[[bytes], Awaitable[None]]
Produce = Callable[[SendEvents], Awaitable[Ending | None]]  # None: the stream is complete


@dataclass(slots=True)
class UpstreamBody:
    """A response body that is still to come from an upstream connection.

    Resource handling: whoever holds it calls `release`, once; before that, `lease.answer_whole` if it is so.
    """

    lease: Lease
    framing: int
    first: bytes  # body bytes that came with the head

    @property
    def wire(self) -> SocketWire:
        return self.lease.wire

    @property
    def origin(self) -> Origin:
        return self.lease.origin

    def release(self) -> None:
        """Be done with it: the connection serves again or is closed, and the url has an exchange less."""
        self.lease.origin.streams -= 1
        self.lease.release()


class OpenFile:
    """A regular file that is a response's body.

    Resource handling: owns the descriptor. `close` may be called again, and while a thread reads: it closes then.
    """

    __slots__ = ("_closed", "_lock", "_reading", "fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size  # bytes, as it was when it was opened: what the head promises
        self._lock = Lock()
        self._reading = False
        self._closed = False

    def read(self, at: int, limit: int) -> bytes:
        """Up to `limit` bytes from `at` on; in a thread, one at a time. Raises: OSError."""
        with self._lock:
            if self._closed:
                return b""
            self._reading = True
        try:
            return os.pread(self.fd, limit, at)
        finally:
            with self._lock:
                self._reading = False
                if self._closed:
                    os.close(self.fd)

    def close(self) -> None:
        with self._lock:
            if not self._closed and not self._reading:
                os.close(self.fd)
            self._closed = True


@dataclass(slots=True)
class Reply:
    """A response on its way to the client.

    Exactly one of the four bodies is meant: `upstream` (with its `head`), `produce`, `file`, else the bytes of `body`.
    """

    status: int
    fields: Fields  # as the source has them; of an upstream's head only the end-to-end ones go on
    body: bytes = b""
    head: ResponseHead | None = None
    upstream: UpstreamBody | None = None
    produce: Produce | None = None  # writes events of our own
    file: OpenFile | None = None
    events: bool = False  # the body is an event stream and treated as one
    opaque: bytes = b""  # it is one in this coding, which relay does not read: it passes as bytes
    translate: Translation | None = None
    capture: Capture | None = None  # of a source that looks at what it is told itself
    ending: Ending | None = None  # of an answer that is not simply complete
    on_unfinished: Callable[[], None] | None = None  # called once if it did not reach its end

    def with_body(self, upstream: UpstreamBody) -> Reply:
        """One more of the same, with a body of its own."""
        return Reply(
            self.status,
            self.fields,
            head=self.head,
            upstream=upstream,
            events=self.events,
            opaque=self.opaque,
            translate=self.translate,
        )

    @property
    def coding(self) -> bytes:
        """The coding of the events, which is undone on their way; b"" where there is none."""
        return self.head.coding if self.events and self.head is not None else b""

    @property
    def rewritten(self) -> bool:
        """Whether the body's content is not what the upstream sent."""
        return self.events and (self.translate is not None or self.coding != b"")


class Failure(Exception):
    """A source found no usable response: an expected ending on its way up, not a bug.

    Attributes:
        status: what the client gets while no head is out.
        cause, side: for the Ending; `detail` for its line in the log, where names of the inside may stand.
        retryable: whether another attempt may succeed; nothing was processed, or the route allows it.
        message: for the client; no secret, no address, no bytes of a body.
        answered: bytes of an answer had come, if not a whole head: the request was processed, in part at least.
    """

    __slots__ = (
        "answered",
        "cause",
        "code",
        "detail",
        "message",
        "retry_after",
        "retryable",
        "side",
        "status",
    )

    def __init__(
        self,
        status: int,
        cause: Cause,
        message: str,
        *,
        side: Side = Side.UPSTREAM,
        code: str = "",
        detail: str = "",
        retryable: bool = True,
        retry_after: float = inf,
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.message = message
        self.side = side
        self.code = code  # for programs; "": the cause's own
        self.detail = detail or message
        self.retryable = retryable
        self.retry_after = retry_after  # seconds the upstream asked for; inf: it did not
        self.answered = answered

    def ending(self, phase: Phase) -> Ending:
        """The Ending of the exchange that it ended in this phase."""
        return Ending(self.side, phase, self.cause, self.detail)


def unreadable(coding: bytes) -> Failure:
    """The upstream's event stream is in a coding that is not undone, where its events are needed."""
    name = coding.decode("ascii", "backslashreplace")
    return Failure(
        502,
        Cause.NONSENSE,
        "the upstream's event stream is in a content coding that relay does not read",
        code="bad_coding",
        detail=f"an event stream in the content coding {name}, though identity was asked for",
        retryable=False,
    )


@dataclass(slots=True)
class Outgoing:
    """A request that relay sends: all but what depends on the origin it goes to."""

    method: bytes
    target: bytes  # without the origin's base path
    fields: Callable[[Origin], Fields]
    resent_safely: bool = False  # idempotent (RFC 9110 §9.2.2), or says so (Idempotency-Key)
    payload: bytes | None = None  # a body of relay's own; None: the client's, if it has one
    upgrade: bytes | None = None  # the protocols it offers to switch to (RFC 9110 §7.8)
