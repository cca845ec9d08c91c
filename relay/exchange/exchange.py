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

from math import inf

import trio

from relay.exchange import own_answers, refusal
from relay.exchange.answer_at_shutdown import last_ending, last_event, last_reply
from relay.exchange.body_peek import granted
from relay.exchange.client_head import event_framing
from relay.exchange.client_side import Carrier, ClientSide
from relay.exchange.delivery import Delivery
from relay.exchange.pumps import Pump
from relay.exchange.quotas import keys_of
from relay.exchange.worker import RouteState
from relay.http.fault import Fault
from relay.http.fields import ClientView
from relay.http.heads import RequestHead
from relay.http.names import LATE
from relay.observing.record import Record
from relay.sources.attempt import Begun
from relay.sources.reply import Failure, Reply
from relay.sources.request_body import RequestBody
from relay.wires.client_wire import on_engine, send_last
from relay.wires.delayed_cut import Cut
from relay.wires.wire import Expired, Gone


class Exchange(ClientSide):
    """One request, until its Ending stands in `ending`.

    Attributes:
        delivery: begun, its pump still to be run.
    """

    __slots__ = ("delivery",)

    def __init__(
        self, connection: Carrier, head: RequestHead, view: ClientView, record: Record
    ) -> None:
        super().__init__(connection, head, view, record)
        self.delivery: Delivery | None = None

    # -- the way of the request ------------------------------------------------------------------------------

    async def run(self, begun: Begun | None = None) -> None:
        """Answer the request whose head has come; the bytes behind it are the connection's `pending`.

        Args:
            begun: a step has found the route and asked its upstream (exchange.step). Owned by this from now on.

        Afterwards `delivery` is set where a body is still to be pumped: by the caller, who then calls its `finish`.
        """
        try:
            if begun is not None:
                self.watch_client()
                await self._respond(park=True, begun=begun)
                return
            reply = self._route() or self._admit(late=False)
            self.body = self._request_body()
            if self.body is not None:
                self.body.take(self.connection.take_pending())
            if reply is not None:
                await self.answer(reply)
            elif self._alone():
                self.watch_client()
                await self._respond(park=True)
            else:
                await self._respond_beside_upload()
        except Fault as fault:
            await self._refuse(fault)
        finally:
            if begun is not None:
                begun.give_up()

    def begin_answer(self, reply: Reply, head: bytes) -> None:
        """Begin to deliver an upstream's body that is still to come, in a step of the engine; `deliver_rest` is for
        the task. `head`: of `reply`, as `open` would write it."""
        self.answering = True
        self.delivery = Delivery(self, reply)
        self.delivery.begin_now(head)

    async def deliver_rest(self) -> None:
        """What `run` is for an exchange that a step has begun to answer. Afterwards `delivery` is set where a body is still
        to be pumped."""
        delivery, self.delivery = self.delivery, None
        assert delivery is not None
        try:
            if on_engine(self.wire) and self.wire.torn:
                self.watch_client()
            await delivery.begin()
            if delivery.pump is not None:
                self.delivery = delivery
        finally:
            if self.delivery is None:
                delivery.finish()

    def unpark(self) -> Pump:
        """What is still to be run of a parked exchange, in no scope: a pump hears of the client's hang-up itself. Lets go of
        what only the way to it needed."""
        assert self.delivery is not None and self.delivery.pump is not None
        self.forget()
        return self.delivery.pump

    def finish(self) -> None:
        """Close the books, and let go of what refers back to this: nothing waits for the garbage collector. Idempotent."""
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            delivery.finish()
        self.release()

    def goes_on(self) -> bool:
        """Whether the connection may serve another request; what was read of it is put back."""
        if self.ending is None or not self.connection.reusable:
            return False
        if self.body is not None and self.body.done:
            self.connection.pending = self.body.surplus
        return self.body is None or self.body.done

    def _shed(self) -> Reply | None:
        """A 429 where the client's address has asked for too much."""
        admission = self.worker.admission
        return self.charge(admission.of(self.record.client)) if admission.active else None

    def _route(self) -> Reply | None:
        """Find the route; a Reply where relay answers without a source."""
        asked = own_answers.look(self.head, self.worker.table, self._shed)
        state = asked.state
        self.take_route(asked.head, asked.params, state)
        if asked.reply is None and state is not None:
            self._check_length(state)
        return asked.reply

    def _check_length(self, state: RouteState) -> None:
        if self.head.framing > state.route.limits.request_body:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")

    def _admit(self, *, late: bool) -> Reply | None:
        """A 429 where a limit by key (`late`: by what the auth said) is reached, or by the stream that surely comes."""
        assert self.state is not None
        counted = self.state.counted_late if late else self.state.counted
        if counted:
            client = self.record.client
            keys = keys_of(counted, self.head, self.params, self.granted, client)
            if (crowded := self.charge(keys)) is not None:
                return crowded
        streams = self.route.source.streams and self.head.method != b"HEAD"
        return self.take_place() if streams else None

    def _request_body(self) -> RequestBody | None:
        framing = self.head.framing
        if framing == 0:
            return None
        if self.state is None:
            return RequestBody(framing, self.worker.config.limits.request_body)
        route = self.state.route
        plan = route.source
        to = plan.passes_body_to
        late = LATE if to is None else self.late_in_request(to)
        return RequestBody(framing, route.limits.request_body, bare=plan.reads_body, late=late)

    def _alone(self) -> bool:
        """Whether this task can do it all: nothing to read beside the response, and the engine watches."""
        return (
            (self.body is None or self.body.done)
            and on_engine(self.wire)
            and not self.route.source.streams
            and self.route.commit_after == inf
        )

    async def _respond_beside_upload(self) -> None:
        """The same with a child that owns the client's read side. What ends it early is a value until the nursery is
        closed, so that only bugs leave it as a group."""
        early: Fault | Gone | Expired | None = None
        async with trio.open_nursery() as self.nursery:
            self.watch_client()
            try:
                await self._respond()
            except (Fault, Gone, Expired) as caught:
                early = caught.with_traceback(None)
            self.nursery.cancel_scope.cancel()
        self.nursery = None
        if early is None and self.ending is None:
            early = self.upload_fault
        if early is not None:
            raise early
        if self.ending is None and self.crowded is not None:
            await self.answer(self.crowded)

    async def _respond(self, *, park: bool = False, begun: Begun | None = None) -> None:
        """Run the source and deliver what it brings; with `park` the pump is left to the caller of `run`."""
        if self.ending is not None:
            await trio.lowlevel.checkpoint()  # the client has left: nobody is dialled for it
        failure: Failure | None = None
        try:
            reply = await self._refused()
            if reply is None:
                assert self.state is not None
                if not self.route.source.says_when:
                    self.promise()
                if self.state.resumed is not None:
                    reply = await self.state.resumed(self)
                else:
                    reply = await self.state.bring(self, begun)
        except Failure as caught:
            # Without the traceback, which refers to this frame: nothing here waits for the garbage collector.
            failure = caught.with_traceback(None)
            reply = refusal.of_failure(caught, self.phase)
        await self.answer(reply, failure, park=park)

    async def _refused(self) -> Reply | None:
        """Ask who may, where the route says so, and count what is known then. Raises: Failure, Fault."""
        found = await granted(self)
        if isinstance(found, Reply):
            return found
        self.granted = found
        return self._admit(late=True)

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
        self.connection.end_after()
        reply = refusal.of_fault(fault, self.phase)
        if not self.answering:
            return await self.answer(reply, refusal.as_failure(fault))
        self.ending = self.ending or reply.ending
        return self.connection.end_after(Cut.UNFINISHED)

    def answer_at_last(self) -> None:
        """Everything ends: say what can still be said without waiting, where no answer is on its way."""
        if self.ending is not None or self.answering:
            return
        self.connection.end_after()
        ending = last_ending(self.phase)
        if self.head_out:
            out = last_event(self.route, event_framing(self.head))
        else:
            reply = last_reply(ending)
            payload = b"" if self.head.method == b"HEAD" else reply.body
            self.record.bytes_out = len(payload)
            out = self.open(reply, len(payload) or None) + payload
        send_last(self.wire, out)
        self.ending = ending
