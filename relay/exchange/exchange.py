"""One request and its response: from the route to the Ending.

    head ─► route ─► source ─► Reply ─► head out ─► pump ─► Ending ─► record

Who runs what
  * A request whose body is there already runs in the connection's own task, and the engine tells of a hang-up: no
    nursery, no second task.
  * Otherwise there is one nursery: its child owns the client's read side (upload, then watching), the parent the
    response.
  * The client's leaving records the Ending and cancels the connection's scope: whatever is awaited, it ends there, and
    every wire is closed on the way out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from relay.config.values import Answer, Enqueue, Forward, Local, Route, Upstream
from relay.exchange import own_answers, refusal
from relay.exchange.client_head import EVENT_STREAM, interim_bytes
from relay.exchange.commitment import Commitment
from relay.exchange.delivery import Delivery, Pump
from relay.exchange.looking import refused
from relay.exchange.quotas import keys_of
from relay.exchange.resumption import resumed
from relay.exchange.tally import Claims, Entry
from relay.exchange.upload import Upload
from relay.exchange.upstream_head import (
    clients_request,
    late_in_request,
    own_request,
    question,
)
from relay.exchange.worker import RouteState
from relay.http.fault import Fault
from relay.http.fields import ClientView
from relay.http.heads import RequestHead, ResponseHead
from relay.http.names import LATE
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.observing.tracing import Trace
from relay.sources.authorize import Grant
from relay.sources.bring import bring
from relay.sources.reply import Failure, Outgoing, Reply
from relay.sources.request_body import RequestBody
from relay.sources.turns import Turns
from relay.upstreams.group import Group
from relay.upstreams.lease import Lease
from relay.wires.socket_wire import SocketWire
from relay.wires.threads import Threads
from relay.wires.wire import Expired, Gone

if TYPE_CHECKING:
    from relay.exchange.connection import Connection

_NO_PARAMETERS: dict[str, bytes] = {}  # never written: a route's are the table's own
# Stand in for the head of a request whose response is under way: the version is all that is still asked for.
_FORGOTTEN_1_1 = RequestHead(b"", b"", b"", b"", b"1.1", [], b"")
_FORGOTTEN_1_0 = RequestHead(b"", b"", b"", b"", b"1.0", [], b"")


class Exchange:
    """One request, until its Ending stands in `ending`. Implements sources.ask.Ask."""

    __slots__ = (
        "_claims",
        "_commitment",
        "_upload",
        "alarms",
        "answering",
        "body",
        "connection",
        "delivery",
        "early_head",
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
        self, connection: Connection, head: RequestHead, view: ClientView, record: Record
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
        self.delivery: Delivery | None = None  # begun, its pump still to be run
        self.state: RouteState | None = None
        self.trace: Trace | None = None  # None: the client's fields go on as they are
        self.nursery: trio.Nursery | None = None
        self.granted: Grant | None = None  # what the route's auth said of the client
        self.early_head = EVENT_STREAM  # fields of a head that goes out before its source has one
        self._upload: Upload | None = None
        self.answering = False  # a response is on its way, beyond an early head
        self._claims: Claims | None = None  # what it is counted against; None: nothing
        self._commitment: Commitment | None = None

    @property
    def route(self) -> Route:
        assert self.state is not None
        return self.state.route

    # -- the way of the request ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer the request whose head has come; the bytes behind it are the connection's `pending`.

        Afterwards `delivery` is set where a body is still to be pumped: by the caller, who then calls its `finish`.
        """
        try:
            reply = self._route() or self._admit(late=False)
            self.body = self._request_body()
            if self.body is not None:
                self.body.take(self.connection.take_pending())
            if reply is not None:
                await self.answer(reply)
            elif self._alone():
                self._watch()
                await self._respond(park=True)
            else:
                await self._respond_beside_upload()
        except Fault as fault:
            await self._refuse(fault)

    @property
    def pump(self) -> Pump:
        """What is still to be run of a parked exchange. Lets go of what only the way to it needed."""
        assert self.delivery is not None and self.delivery.pump is not None
        self._forget()
        return self.delivery.pump

    def finish(self) -> None:
        """Close the books, and let go of what refers back to this: nothing waits for the garbage collector. Idempotent."""
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            delivery.finish()
        self._upload = self._commitment = None
        if self._claims is not None:
            self._claims.release()

    def _forget(self) -> None:
        """Let go of what only the way to the response needed: a stream may be parked for hours."""
        self.head = _FORGOTTEN_1_1 if self.head.version == b"1.1" else _FORGOTTEN_1_0
        self.params = _NO_PARAMETERS

    def goes_on(self) -> bool:
        """Whether the connection may serve another request; what was read of it is put back."""
        if self.ending is None or not self.connection.reusable:
            return False
        if self.body is not None and self.body.done:
            self.connection.pending = self.body.rest
        return self.body is None or self.body.done

    def _shed(self) -> Reply | None:
        """A 429 where the client's address has asked for too much."""
        admission = self.worker.admission
        return self._charge(admission.of(self.record.client)) if admission.active else None

    def _charge(self, entries: list[Entry]) -> Reply | None:
        self._claims = self._claims or Claims()
        return self._claims.add(entries, trio.current_time(), events=self.head.wants_events)

    def _route(self) -> Reply | None:
        """Find the route; a Reply where relay answers without a source."""
        asked = own_answers.look(self.head, self.worker.table, self._shed)
        self.head, self.params, state = asked.head, asked.params, asked.state
        if state is not None:
            self.state = state
            self.record.route = state.route.name
            if state.at:
                self.record.path = state.place  # the address names the key, or the run
            if asked.reply is None and self.head.framing > state.route.limits.request_body:
                raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        return asked.reply

    def _admit(self, *, late: bool) -> Reply | None:
        """A 429 where a limit by key (`late`: by what the auth said) is reached, or by the stream that surely comes."""
        assert self.state is not None
        counted = self.state.counted_late if late else self.state.counted
        if counted:
            client = self.record.client
            keys = keys_of(counted, self.head, self.params, self.granted, client)
            if (crowded := self._charge(keys)) is not None:
                return crowded
        streams = isinstance(self.route.source, Enqueue | Answer) and self.head.method != b"HEAD"
        return self.take_place() if streams else None

    def take_place(self) -> Reply | None:
        """Count this exchange as an event stream, until it is over; the refusal where it is one too many."""
        return None if self._claims is None else self._claims.take_place(trio.current_time())

    def _request_body(self) -> RequestBody | None:
        framing = self.head.framing
        if framing == 0:
            return None
        if self.state is None:
            return RequestBody(framing, self.worker.config.limits.request_body)
        route = self.state.route
        source = route.source
        bare = isinstance(source, Enqueue | Answer)
        late = late_in_request(self, source.upstream) if isinstance(source, Forward) else LATE
        return RequestBody(framing, route.limits.request_body, bare=bare, late=late)

    def _alone(self) -> bool:
        """Whether this task can do it all: nothing to read beside the response, and the engine watches."""
        return (
            (self.body is None or self.body.done)
            and isinstance(self.wire, SocketWire)
            and isinstance(self.route.source, Forward | Local)
            and self.route.commit_after == float("inf")
        )

    def _watch(self) -> None:
        """Have the engine tell when the client leaves."""
        wire = self.wire
        assert isinstance(wire, SocketWire)
        wire.bound_unread(self.route.timeouts.write)
        wire.half_close_kept = self.route.half_close == "keep"
        if wire.hung_up and not wire.half_close_kept:
            self.client_left()
        else:
            wire.on_gone = self.client_left

    async def _respond_beside_upload(self) -> None:
        """The same with a child that owns the client's read side. What ends it early is a value until the nursery is
        closed, so that only bugs leave it as a group."""
        early: Fault | Gone | Expired | None = None
        async with trio.open_nursery() as self.nursery:
            if isinstance(self.wire, SocketWire):
                self._watch()
            else:
                self.wire.on_gone = self.client_left
                self.wire.watch(self.nursery)
            try:
                await self._respond()
            except (Fault, Gone, Expired) as caught:
                early = caught.with_traceback(None)
            self.nursery.cancel_scope.cancel()
        self.nursery = None
        if early is None and self._upload is not None and self.ending is None:
            early = self._upload.fault
        if early is not None:
            raise early
        if self.ending is None and self._commitment is not None and self._commitment.refusal:
            await self.answer(self._commitment.refusal)

    async def _respond(self, *, park: bool = False) -> None:
        """Run the source and deliver what it brings; with `park` the pump is left to the caller of `run`."""
        if self.ending is not None:
            await trio.lowlevel.checkpoint()  # the client has left: nobody is dialled for it
        failure: Failure | None = None
        try:
            reply = await refused(self) or self._admit(late=True)
            if reply is None:
                self._commitment = Commitment.begin(self)
                resumes = self.route.resume is not None
                reply = await (resumed(self) if resumes else bring(self.route.source, self))
        except Failure as caught:
            # Without the traceback, which refers to this frame: nothing here waits for the garbage collector.
            failure = caught.with_traceback(None)
            reply = refusal.of_failure(caught, self.phase)
        await self.answer(reply, failure, park=park)

    async def answer(
        self, reply: Reply, failure: Failure | None = None, *, park: bool = False
    ) -> None:
        """Deliver `reply`, whatever kind it is."""
        self.answering = True
        delivery = Delivery(self, reply, failure)
        try:
            await delivery.begin()
            if delivery.pump is not None:
                if park:
                    self.delivery = delivery
                    return
                await delivery.pump.run()
        finally:
            if self.delivery is None:
                delivery.finish()

    async def _refuse(self, fault: Fault) -> None:
        """An answer to bytes that cannot be trusted any further: the connection ends behind it."""
        self.connection.reusable = False
        reply = refusal.of_fault(fault, self.phase)
        if not self.answering:
            return await self.answer(reply, refusal.as_failure(fault))
        self.ending = self.ending or reply.ending
        return self.connection.cut_short()

    # -- called from outside ---------------------------------------------------------------------------------

    def client_left(self, cause: Cause = Cause.LEFT) -> None:
        """The client hung up: record it, and end whatever is awaited."""
        if self.ending is None:
            self.ending = Ending(Side.CLIENT, self.phase, cause)
            reported = isinstance(self.wire, SocketWire)
            self.left_at = self.engine.now if reported else trio.current_time()
        self.connection.scope.cancel()

    # -- Ask: what sources may ask for -----------------------------------------------------------------------

    def group(self, upstream: Upstream) -> Group:
        return self.worker.group(upstream)

    @property
    def threads(self) -> Threads:
        return self.worker.threads

    @property
    def turns(self) -> Turns:
        assert self.state is not None
        return self.state.turns

    def reached(self, name: str) -> None:
        self.record.upstream = name

    def outgoing(self, upstream: Upstream, target: bytes) -> Outgoing:
        return clients_request(self, upstream, target)

    def question(self, upstream: Upstream, target: bytes) -> Outgoing:
        return question(self, upstream, target)

    def own_request(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        content_type: bytes = b"",
        payload: bytes = b"",
        along: tuple[bytes, ...] = (),
    ) -> Outgoing:
        return own_request(self, upstream, method, target, content_type, payload, along)

    async def interim(self, head: ResponseHead) -> None:
        await self.say(interim_bytes(self, head))

    async def say(self, interim: bytes) -> None:
        """Send an interim response to a client that knows them, unless the final one has begun."""
        if self.head.version != b"1.1" or self.head_out:
            return
        if self._commitment is not None:
            await self._commitment.interim(interim)
        else:
            self.wire.write_within = self.route.timeouts.write
            await self.wire.send(interim)

    def upload(self, lease: Lease, within: float) -> None:
        assert self.nursery is not None
        self._upload = Upload(self, lease, within)
        self.nursery.start_soon(self._upload.run)

    async def stop_upload(self) -> None:
        if self._upload is not None:
            await self._upload.stop()  # and kept: a fault it met says how this exchange ends

    async def payload(self, limit: int) -> bytes:
        return await Upload.whole(self, limit)

    async def commit(self) -> None:
        if self._commitment is None:
            self._commitment = await Commitment.at_once(self)

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        self.connection.beside(job, within)

    async def settled(self) -> None:
        """Nobody but the caller writes to the client from now on."""
        if self._commitment is not None:
            await self._commitment.settle()

    @property
    def unread(self) -> bool:
        """Whether a part of the request body is still to be read from the client."""
        return self.body is not None and not self.body.done
