"""The client's side of one exchange: its wire, its leaving, the head that goes out, the body that comes in.

Rules
  * What the response's head decides (the connection goes on or not, the status, that it is out) is put down in `open`,
    and how the response ended in `end`; nowhere else.
  * The client's leaving records the Ending and cancels the connection's scope: whatever is awaited, it ends there.
  * One writer to the client at a time: an early head's heartbeats until `settled`, then the delivery.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

import trio

from relay.exchange.client_head import EVENT_STREAM, event_framing, head_bytes, interim_bytes
from relay.exchange.early_head import EarlyHead
from relay.exchange.tally import Claims, Entry
from relay.exchange.upload import BodyReading, Upload, whole_body
from relay.exchange.upstream_head import Requester
from relay.exchange.worker import RouteState, Worker
from relay.http.bodies import Fields
from relay.http.fault import Fault
from relay.http.fields import ClientView
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.heads import RequestHead, ResponseHead
from relay.http.serialise import response_bytes
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.observing.tracing import Trace
from relay.sources.authorize import Grant
from relay.sources.reply import Reply
from relay.sources.request_body import RequestBody
from relay.upstreams.lease import Lease
from relay.wires.client_wire import ClientWire, on_engine, watch
from relay.wires.delayed_cut import Cut

_NO_PARAMETERS: dict[str, bytes] = {}  # shared by all exchanges, so never written to
# Stand in for the head of a request whose response is under way: the version is all that is still asked for.
_FORGOTTEN_1_1 = RequestHead(b"", b"", b"", b"", b"1.1", [], b"")
_FORGOTTEN_1_0 = RequestHead(b"", b"", b"", b"", b"1.0", [], b"")


class Carrier(Protocol):
    """The client's connection, as far as an exchange goes.

    Attributes:
        scope: of what is awaited up to the response's head.
        pending: bytes behind the last request.
        reusable: another request may be served behind this one.
    """

    worker: Worker
    wire: ClientWire
    scope: trio.CancelScope
    pending: bytes
    reusable: bool

    def end_after(self, cut: Cut | None = None) -> None:
        """Serve no request behind this one. `cut`: its body is not whole."""

    def take_pending(self) -> bytes:
        """The bytes behind the request, which are the caller's now."""

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        """Run `job` beside all exchanges."""


class ClientSide(Requester):
    """One client that waits for its response. With Requester, all that sources may ask (sources.context.Context)."""

    __slots__ = (
        "_claims",
        "_early",
        "_upload",
        "alarms",
        "answering",
        "body",
        "connection",
        "early_fields",
        "ending",
        "engine",
        "granted",
        "head",
        "head_out",
        "left_at",
        "nursery",
        "params",
        "phase",
        "record",
        "state",
        "trace",
        "view",
        "wire",
        "worker",
    )

    def __init__(
        self, connection: Carrier, head: RequestHead, view: ClientView, record: Record
    ) -> None:
        self.connection = connection
        self.worker = connection.worker
        self.engine = connection.worker.engine
        self.alarms = connection.worker.alarms
        self.wire = connection.wire
        self.head = head
        self.view = view
        self.record = record
        self.phase = Phase.ROUTE
        self.ending: Ending | None = None
        self.left_at = 0.0  # when the client's leaving was reported, while no pump ran
        self.head_out = False  # the final response head went out (or began to)
        self.body: RequestBody | None = None
        self.params: dict[str, bytes] = _NO_PARAMETERS
        self.state: RouteState | None = None
        self.trace: Trace | None = None  # None: the client's fields go on as they are
        self.nursery: trio.Nursery | None = None
        self.granted: Grant | None = None  # what the route's auth said of the client
        # Fields of a head that goes out before its source has one.
        self.early_fields: Fields = EVENT_STREAM
        self._upload: Upload | None = None
        self.answering = False  # a response is on its way, beyond an early head
        self._claims: Claims | None = None  # what it is counted against; None: nothing
        self._early: EarlyHead | None = None

    def watch_client(self) -> None:
        """Hear of it when the client leaves."""
        route = self.route
        keep = route.half_close == "keep"
        watch(
            self.wire,
            self.client_left,
            self.nursery,
            write=route.timeouts.write,
            half_close_kept=keep,
        )

    def take_route(
        self, head: RequestHead, params: dict[str, bytes], state: RouteState | None
    ) -> None:
        """The route was found; `head`: of the request, as it goes on. None: there is none, or none that takes it."""
        self.head, self.params = head, params
        if state is not None:
            self.state = state
            self.record.route = state.route.name
            if state.at:
                self.record.path = state.place  # the address names the key, or the run

    def charge(self, entries: list[Entry]) -> Reply | None:
        """Count this request against these limits too; the refusal where it is one too many."""
        self._claims = self._claims or Claims()
        return self._claims.add(entries, trio.current_time(), events=self.head.wants_events)

    def take_place(self) -> Reply | None:
        """Count this exchange as an event stream, until it is over; the refusal where it is one too many."""
        return None if self._claims is None else self._claims.take_place(trio.current_time())

    def client_left(self, cause: Cause = Cause.LEFT) -> None:
        """The client hung up: record it, and end whatever is awaited."""
        if self.ending is None:
            self.ending = Ending(Side.CLIENT, self.phase, cause)
            self.left_at = self.engine.now if on_engine(self.wire) else trio.current_time()
        self.connection.scope.cancel()

    def forget(self) -> None:
        """Let go of what only the way to the response needed: a stream may be parked for hours."""
        self.head = _FORGOTTEN_1_1 if self.head.version == b"1.1" else _FORGOTTEN_1_0
        self.params = _NO_PARAMETERS

    def release(self) -> None:
        """The exchange is over: give its place back, and let go of what refers back to this. Idempotent."""
        self._upload = self._early = None
        if self._claims is not None:
            self._claims.release()

    @property
    def upload_fault(self) -> Fault | None:
        """What was wrong with the body that the client sent."""
        return self._upload.fault if self._upload is not None else None

    # -- the response's head and end: what others decide, put down -------------------------------------------

    def open(self, reply: Reply, framing: int | None) -> bytes:
        """The head of `reply`, which is as good as out: the one place that says so, and whether the connection goes on.

        Args:
            framing: of the body towards the client; None: the head has no body.
        """
        connection, worker, body = self.connection, self.worker, self.body
        unread = body is not None and not body.done
        if framing == UNTIL_CLOSE or unread or worker.draining:
            connection.end_after()
        self.mark_head_out(reply.status)
        return head_bytes(
            reply,
            framing,
            keep=connection.reusable,
            request=self.head,
            request_id=self.record.id,
            server=worker.config.server,
            route=self.state.route if self.state is not None else None,
            granted=self.granted,
        )

    def mark_head_out(self, status: int) -> None:
        """A response head is written, and goes out next: by `open`, or as it was prepared (exchange.prepared)."""
        self.head_out = True
        self.record.status = status

    def open_early(self) -> bytes:
        """The head of an event stream of relay's own, before its source has one."""
        reply = Reply(200, list(self.early_fields), events=self.early_fields is EVENT_STREAM)
        return self.open(reply, event_framing(self.head))

    def end(self, ending: Ending, cut: Cut | None = None) -> None:
        """The response has ended; the first Ending stays. `cut`: its body is not whole."""
        if self.ending is None:
            self.ending = ending
        gone = ending.side is Side.CLIENT and ending.cause in (Cause.LEFT, Cause.STALLED)
        if gone or cut is not None:
            self.connection.end_after(cut)

    def hand_over(self) -> bytes:
        """The connection is a tunnel from now on. Returns: what came behind the request."""
        self.connection.end_after()
        return self.connection.take_pending() if self.body is None else self.body.surplus

    # -- the early head --------------------------------------------------------------------------------------

    def promise(self) -> None:
        """Send an early head when the time has passed that the route gives its source."""
        if self.route.commit_after != inf and self.head.method != b"HEAD":
            self._early = self._early_head()
            self._early.begin()

    async def commit(self) -> None:
        if self._early is None:
            self._early = self._early_head()
            await self._early.begin_now()

    async def settled(self) -> None:
        """Nobody but the caller writes to the client from now on."""
        if self._early is not None:
            await self._early.settle()

    @property
    def crowded(self) -> Reply | None:
        """The refusal where there was no place for the stream that was promised; its source was ended."""
        return self._early.refusal if self._early is not None else None

    def _early_head(self) -> EarlyHead:
        assert self.nursery is not None
        return EarlyHead(self, self.nursery, chunked=event_framing(self.head) == CHUNKED)

    # -- what sources may ask for (sources.context) -----------------------------------------------------------------------

    async def interim(self, head: ResponseHead) -> None:
        await self._say(interim_bytes(head, self.worker.config.server, self.route))

    async def _say(self, interim: bytes) -> None:
        """Send an interim response to a client that knows them, unless the final one has begun."""
        if self.head.version != b"1.1" or self.head_out:
            return
        if self._early is not None:
            await self._early.interim(interim)
        else:
            self.wire.write_within = self.route.timeouts.write
            await self.wire.send(interim)

    async def reading(self) -> BodyReading:
        body = self.body
        assert body is not None
        if not body.done and self.head.expects_continue and not body.received:
            await self._say(response_bytes(100, b"", []))
        return BodyReading(body, self.wire, self.route, self.alarms, self.client_left)

    def upload(self, lease: Lease, within: float) -> None:
        assert self.nursery is not None and self.body is not None
        self._upload = Upload(
            BodyReading(self.body, self.wire, self.route, self.alarms, self.client_left),
            lease,
            within,
            write=self.route.timeouts.write,
            awaits_head=lambda: self.phase is Phase.REQUEST,
            failed=self.nursery.cancel_scope.cancel,
        )
        self.nursery.start_soon(self._upload.run)

    async def stop_upload(self) -> None:
        if self._upload is not None:
            await self._upload.stop()  # and kept: a fault it met says how this exchange ends

    async def payload(self, limit: int) -> bytes:
        return b"" if self.body is None else await whole_body(await self.reading(), limit)

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        self.connection.beside(job, within)
