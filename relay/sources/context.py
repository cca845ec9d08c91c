"""What a source may ask of the exchange it works for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from relay.config.values import Route, Upstream
from relay.http.heads import RequestHead, ResponseHead
from relay.observing.ending import Phase
from relay.sources.ordering import Ordering
from relay.sources.reply import Outgoing
from relay.sources.request_body import RequestBody
from relay.upstreams.group import Group
from relay.upstreams.lease import Lease
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine
from relay.wires.threads import Threads


class Context(Protocol):
    """One exchange, as its source sees it."""

    head: RequestHead
    params: dict[str, bytes]  # route parameters, raw bytes
    body: RequestBody | None  # None: the request has none
    phase: Phase  # the source moves it on: QUEUED, DIAL, REQUEST, RESPONSE
    engine: Engine
    alarms: Alarms

    @property
    def route(self) -> Route:
        """The route that was found, as configured when the exchange began."""

    @property
    def threads(self) -> Threads:
        """What work may be done in threads, and how much at once; shared by all exchanges of this worker."""

    @property
    def ordering(self) -> Ordering:
        """Who comes next on this route, by key; shared by its exchanges in this worker."""

    def group(self, upstream: Upstream) -> Group:
        """The live origins of an upstream."""

    def outgoing(self, upstream: Upstream, target: bytes) -> Outgoing:
        """The client's request as it goes to `upstream`: end-to-end fields, edits, forwarding fields."""

    def question(self, upstream: Upstream, target: bytes) -> Outgoing:
        """Whether the client may: a GET with its fields."""

    def own_request(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        content_type: bytes = b"",
        payload: bytes = b"",
        along: tuple[bytes, ...] = (),
    ) -> Outgoing:
        """A request of relay's own on the client's behalf: forwarding fields, edits, its own payload, and of the client's
        fields those named in `along` (lower case)."""

    def reached(self, name: str) -> None:
        """An upstream's url was chosen; this is put into the record."""

    def answered(self, status: int) -> None:
        """The upstream has answered; this is put into the record."""

    async def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on to the client."""

    def upload(self, lease: Lease, within: float) -> None:
        """Begin to feed the rest of the request body to the connection, beside the source; once it is fed, the response
        head is due `within` seconds."""

    async def stop_upload(self) -> None:
        """The wire of `upload` is given up: stop feeding it; what was read is kept for the next one."""

    async def payload(self, limit: int) -> bytes:
        """The whole request body, decoded. Raises: Fault (413 over the limit)."""

    async def commit(self) -> None:
        """Send the head of an event stream now, and heartbeats until the source comes back: from here on a failure is
        a terminal event."""

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        """Run `job` beside all exchanges for at most `within` seconds; it outlives this one."""


class Aside:
    """An exchange as a request beside it sees it: what becomes of that request shows in no record, and reaches no client.

    Implements Context, but for what belongs to the client's own request.
    """

    __slots__ = ("_context", "alarms", "body", "engine", "head", "params", "phase")

    def __init__(self, context: Context) -> None:
        self._context = context
        self.head = context.head
        self.params = context.params
        self.body: RequestBody | None = None
        self.phase = Phase.ROUTE
        self.engine = context.engine
        self.alarms = context.alarms

    @property
    def route(self) -> Route:
        return self._context.route

    @property
    def threads(self) -> Threads:
        return self._context.threads

    @property
    def ordering(self) -> Ordering:
        return self._context.ordering

    def group(self, upstream: Upstream) -> Group:
        return self._context.group(upstream)

    def outgoing(self, upstream: Upstream, target: bytes) -> Outgoing:
        raise AssertionError("the client's request is not sent beside it")

    def question(self, upstream: Upstream, target: bytes) -> Outgoing:
        raise AssertionError("the client was asked about before")

    def own_request(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        content_type: bytes = b"",
        payload: bytes = b"",
        along: tuple[bytes, ...] = (),
    ) -> Outgoing:
        return self._context.own_request(upstream, method, target, content_type, payload, along)

    def reached(self, name: str) -> None:
        """Not for the record."""

    def answered(self, status: int) -> None:
        """Not for the record."""

    async def interim(self, head: ResponseHead) -> None:
        await trio.lowlevel.checkpoint()

    def upload(self, lease: Lease, within: float) -> None:
        raise AssertionError("there is no body of the client")

    async def stop_upload(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    async def payload(self, limit: int) -> bytes:
        raise AssertionError("there is no body of the client")

    async def commit(self) -> None:
        raise AssertionError("the client hears nothing of it")

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        self._context.beside(job, within)
