"""A Reply on its way out: head first, then the body, then the connections are given back or closed.

Reply.body      ─► head and body in one send
Reply.upstream  ─► whole already: one send · still coming: head, then a pump · 101: a tunnel
Reply.produce   ─► head, then a pump behind a channel
"""

from __future__ import annotations

import trio

from relay.exchange.body_flow import new_flow
from relay.exchange.channel_wire import ChannelWire
from relay.exchange.client_head import EVENT_STREAM, event_framing, framing_to, late_in_response
from relay.exchange.client_side import ClientSide
from relay.exchange.file_body import send_file
from relay.exchange.pumps import Pump, cut_of, pump_for
from relay.exchange.refusal import in_words
from relay.exchange.transfer import LEFT, STALLED, Transfer
from relay.exchange.tunnel import tunnel
from relay.exchange.viewing import Shown, viewer_of
from relay.feeds.socket_viewer import SocketViewer
from relay.feeds.stream_viewer import StreamViewer
from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow
from relay.http.bodies import LengthReader
from relay.http.framing import UNTIL_CLOSE
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.sources.own_events import retry_in
from relay.sources.reply import Failure, OpenFile, Reply, SendEvents, UpstreamBody, unreadable
from relay.wires.client_wire import on_engine
from relay.wires.delayed_cut import Cut
from relay.wires.wire import READ_SIZE, Expired, Gone, Source

_STOPS_A_BROWSER = frozenset((502, 503, 504))  # an EventSource that gets one never comes back

_FORGOTTEN = Reply(200, [])  # stands in for a reply whose head is out; never changed


class Delivery:
    """One reply, in three steps: `begin` sends what can be sent now, `pump` is what is then still to be run (None: nothing),
    `finish` leaves the exchange's Ending and every wire given back or closed. Three, because a long stream spends its life
    in the second, and nothing but the pump should be on the stack then.
    A step of the engine cannot wait: it calls `begin_now` first, and `begin` then sends what the client did not take.
    """

    __slots__ = ("_body", "_exchange", "_failure", "_reply", "_transfer", "_viewer", "pump")

    def __init__(self, exchange: ClientSide, reply: Reply, failure: Failure | None = None) -> None:
        self._exchange = exchange
        self._reply = reply
        self._failure = failure
        self._body = reply.upstream
        self._transfer: Transfer | None = None
        self._viewer: SocketViewer | StreamViewer | None = None
        self.pump: Pump | None = None

    async def begin(self) -> None:
        """Send the head, and the body where it is there. Cancellation: `finish` is still to be called."""
        exchange, reply = self._exchange, self._reply
        try:
            await exchange.settled()
            if self._transfer is not None:
                await self._flush_begun(self._transfer)
            elif exchange.head_out and isinstance(reply, Shown):
                await self._show(reply)
            elif exchange.head_out:
                await self._after_commitment()
            elif self._hidden_from_event_source():
                await self._retry_event()
            elif reply.status == 101:
                await self._switch()
            elif self._is_stream() and (refused := exchange.take_place()) is not None:
                await self._whole(refused.body, refused)
            elif isinstance(reply, Shown):
                await self._show(reply)
            elif reply.produce is not None and exchange.head.method != b"HEAD":
                await self._produce()
            elif reply.file is not None and exchange.head.method != b"HEAD":
                await self._file(reply.file)
            elif self._body is None:
                await self._whole(reply.body)
            elif self._is_whole(self._body):
                if len(self._body.first) == self._body.framing:
                    self._body.lease.answer_whole()
                await self._whole(self._body.first[: self._body.framing])
            else:
                await self._stream(self._body)
        except (Gone, Expired) as error:
            exchange.end(STALLED if isinstance(error, Expired) else LEFT)

    def begin_now(self, head: bytes) -> None:
        """What `begin` does for an upstream's body that is still to come, without waiting: the client's socket, which is on
        the engine, gets what it takes. `head`: the response head, written already."""
        exchange, body, reply = self._exchange, self._body, self._reply
        assert body is not None and on_engine(exchange.wire)
        framing = framing_to(exchange.head, reply, body.framing)
        transfer = self._new_transfer(body.framing, framing)
        exchange.mark_head_out(reply.status)
        exchange.wire.write_within = exchange.route.timeouts.write
        exchange.wire.post(self._first_bytes(transfer, head, body.first))
        if not exchange.wire.torn:
            self._start_pump(transfer, body.wire)

    def finish(self) -> None:
        """The books, and the upstream connection. Idempotent."""
        exchange, transfer, body = self._exchange, self._transfer, self._body
        if transfer is not None:
            self._transfer = None
            self._close_books(transfer)
        if self._viewer is not None:
            viewer, self._viewer = self._viewer, None
            self._close_view(viewer)
        if isinstance(self._reply, Shown) and self._reply.viewing is not None:
            viewing, self._reply.viewing = self._reply.viewing, None
            viewing.release()
        if body is not None:
            self._body = None
            body.release()
        if self._reply.file is not None:
            self._reply.file.close()
        unfinished = self._reply.on_unfinished
        if unfinished is not None:
            self._reply.on_unfinished = None
        if unfinished is not None and (exchange.ending is None or not exchange.ending.clean):
            unfinished()

    def _is_stream(self) -> bool:
        """Whether the body is an event stream, also on a route that has it pass as bytes."""
        reply = self._reply
        if isinstance(reply, Shown):
            return reply.viewing is not None
        if reply.events or reply.head is None:
            return reply.events
        return reply.head.is_stream

    def _is_whole(self, body: UpstreamBody) -> bool:
        if self._exchange.head.method == b"HEAD":
            return True  # an event stream too is nothing but its head then
        return 0 <= body.framing <= len(body.first) and not self._reply.events

    # -- ways out --------------------------------------------------------------------------------------------

    async def _whole(self, payload: bytes, instead: Reply | None = None) -> None:
        """Head and body, complete as they are. `instead`: of what was brought, which is let go."""
        exchange, reply = self._exchange, instead or self._reply
        bodyless = exchange.head.method == b"HEAD" or reply.status in (204, 304)
        out = exchange.open(reply, None if bodyless else len(payload))
        exchange.record.first_byte = trio.current_time()
        if not bodyless:
            exchange.record.bytes_out = len(payload)
            # All clients of a route's own body wait with the same bytes
            if len(payload) > READ_SIZE:
                await self._send(out)
                out = b""
            out += payload
        await self._send(out)
        exchange.end(reply.ending or COMPLETE)

    async def _stream(self, body: UpstreamBody) -> None:
        """Head now, then the body as it comes."""
        exchange, reply = self._exchange, self._reply
        framing = framing_to(exchange.head, reply, body.framing)
        transfer = self._new_transfer(body.framing, framing)
        await self._open(transfer, exchange.open(reply, framing), body.wire, body.first)

    async def _produce(self) -> None:
        """Events of our own, written by a task beside the pump."""
        exchange, reply = self._exchange, self._reply
        assert exchange.nursery is not None
        framing = event_framing(exchange.head)
        head = b"" if exchange.head_out else exchange.open(reply, framing)
        wire = ChannelWire.produced_by(self._told, exchange.nursery)
        transfer = self._new_transfer(UNTIL_CLOSE, framing)
        await self._open(transfer, head, wire, b"")

    async def _told(self, send: SendEvents) -> None:
        """Run the producer; the Ending it returns is the reply's, and there before the stream ends."""
        assert self._reply.produce is not None
        self._reply.ending = await self._reply.produce(send)

    async def _show(self, reply: Shown) -> None:
        """Head now, if it is not out; then what there is of a run, and what comes."""
        exchange = self._exchange
        if exchange.head.method == b"HEAD":
            await self._whole(b"")
            return
        framing = event_framing(exchange.head)
        head = b"" if exchange.head_out else exchange.open(reply, framing)
        exchange.phase = Phase.BODY
        record, worker = exchange.record, exchange.worker
        now = trio.current_time()
        record.first_byte = record.first_byte or now
        if reply.viewing is None:
            await self._say(reply, head, framing)
            return
        record.streaming = True
        assert exchange.state is not None
        self._viewer = viewer_of(
            reply.viewing,
            framing,
            exchange.wire,
            record,
            exchange.state.counters,
            worker.engine,
            worker.alarms,
        )
        self._viewer.counters.active += 1
        if head:
            await self._send(head)
        if worker.log is not None:
            worker.log.write(worker.lines.start(record, now))
        worker.registry.add(self._viewer)
        self.pump = self._viewer

    async def _say(self, reply: Shown, head: bytes, framing: int) -> None:
        """Send one block of relay's own, then end the body."""
        words = reply.framed(framing)
        self._exchange.record.bytes_out = len(words)
        if reply.abort:
            self._exchange.connection.end_after(Cut.UNFINISHED)
        await self._send(head + words)
        self._exchange.end(reply.ending or COMPLETE)

    def _close_view(self, viewer: SocketViewer | StreamViewer) -> None:
        """The books of a view; who ended it has said how."""
        exchange = self._exchange
        record = exchange.record
        record.events = viewer.events
        record.bytes_out += viewer.sent
        viewer.count()
        ending = viewer.ending
        if ending is None:
            return  # cancelled, or the client left: whoever did it has recorded it
        unframed = exchange.head.version != b"1.1"
        exchange.end(ending, cut_of(viewer, exchange.wire, unframed) if viewer.abort else None)

    async def _file(self, file: OpenFile) -> None:
        """Head now, then the file, piece by piece."""
        exchange = self._exchange
        exchange.phase = Phase.BODY
        exchange.record.first_byte = trio.current_time()
        await self._send(exchange.open(self._reply, file.size))
        short = await send_file(exchange.wire, file, exchange.record, exchange.threads.files)
        exchange.end(short or COMPLETE, Cut.UNFINISHED if short is not None else None)

    async def _switch(self) -> None:
        """101: bytes both ways until both have ended."""
        exchange, body, head = self._exchange, self._body, self._reply.head
        assert body is not None and head is not None
        exchange.phase = Phase.TUNNEL
        first = exchange.hand_over(), body.first
        await self._send(exchange.open(self._reply, None))
        timeouts = exchange.route.timeouts
        exchange.end(await tunnel(exchange.wire, body.wire, first, timeouts, exchange.record))

    async def _after_commitment(self) -> None:
        """The head is out since the commitment: events go on, anything else becomes a terminal event."""
        body = self._body
        framing = event_framing(self._exchange.head)
        if self._reply.produce is not None:
            await self._produce()
            return
        if self._reply.events and body is not None:
            transfer = self._new_transfer(body.framing, framing)
            assert isinstance(transfer.flow, EventFlow)
            transfer.flow.inject(b"")
            await self._open(transfer, b"", body.wire, body.first)
            return
        if self._reply.opaque:  # the client was promised events, not bytes in a coding
            self._failure = unreadable(self._reply.opaque)
            self._reply.ending = self._failure.ending(Phase.RESPONSE)
        await self._say_failure(framing)

    def _hidden_from_event_source(self) -> bool:
        state, status = self._exchange.state, self._reply.status
        hides = state is not None and state.route.unavailable == "retry-event"
        return hides and status in _STOPS_A_BROWSER

    async def _retry_event(self) -> None:
        """200, `retry:` and the error as an event, because a 503 would stop an EventSource for good.

        A clean end, whatever the route says: it is whole, and a break could cost the reader the hint.
        """
        exchange = self._exchange
        framing = event_framing(exchange.head)
        event, ending = self._failed()
        hint = b"retry: %d\n" % retry_in(exchange.route)
        words = hint + (event or b"\n")
        shown = Shown(200, list(EVENT_STREAM), events=True, words=words, ending=ending)
        if exchange.head.method == b"HEAD":
            await self._whole(b"", shown)
        else:
            await self._say(shown, exchange.open(shown, framing), framing)

    async def _say_failure(self, framing: int) -> None:
        """One terminal event and the end, where a status can no longer be given."""
        event, ending = self._failed()
        abort = self._exchange.route.after_error == "abort"
        await self._say(Shown(200, [], words=event, abort=abort, ending=ending), b"", framing)

    def _failed(self) -> tuple[bytes, Ending]:
        """What failed, as an event and as an Ending."""
        event, message = in_words(self._failure, self._reply.status, self._exchange.route)
        failed = Ending(Side.UPSTREAM, Phase.RESPONSE, Cause.FAILED, message)
        return event, self._reply.ending or failed

    # -- parts -----------------------------------------------------------------------------------------------

    def _new_transfer(self, framing_in: int, framing_out: int) -> Transfer:
        exchange, reply, state = self._exchange, self._reply, self._exchange.state
        assert state is not None
        late = late_in_response(reply, exchange.worker.config.server, state.route)
        flow = new_flow(reply, state.route, exchange.record, framing_in, framing_out, late)
        exchange.record.streaming = reply.events or bool(reply.opaque)
        exchange.record.coding = reply.opaque.decode("ascii", "backslashreplace")
        return Transfer(flow, state.route, exchange.record, state.counters, trio.current_time())

    async def _open(self, transfer: Transfer, head: bytes, upstream: Source, first: bytes) -> None:
        """Send the head with what there is of the body; the pump for the rest of it."""
        out = self._first_bytes(transfer, head, first)
        if out:
            await self._send(out)
        self._start_pump(transfer, upstream)

    async def _flush_begun(self, transfer: Transfer) -> None:
        """Send what the client did not take of `begin_now`."""
        wire, body = self._exchange.wire, self._body
        if on_engine(wire) and wire.torn:
            await wire.flushed()
            assert body is not None
            self._start_pump(transfer, body.wire)

    def _first_bytes(self, transfer: Transfer, head: bytes, first: bytes) -> bytes:
        """Begin the transfer. Returns: the head, with what there is of the body."""
        exchange = self._exchange
        record = exchange.record
        exchange.phase = Phase.BODY
        now = trio.current_time()
        record.first_byte = record.first_byte or now
        out = transfer.data(first, now) if first or transfer.flow.done else b""
        transfer.sent = len(out)
        if record.streaming:
            transfer.counters.active += 1
        self._transfer = transfer
        return head + out

    def _start_pump(self, transfer: Transfer, upstream: Source) -> None:
        """The first bytes are sent: make the pump for the rest of the body."""
        exchange = self._exchange
        record, worker = exchange.record, exchange.worker
        if record.streaming and worker.log is not None:
            worker.log.write(worker.lines.start(record, trio.current_time()))
        worker.registry.add(transfer)
        if transfer.ending is not None:
            return
        self.pump = pump_for(transfer, upstream, exchange.wire, worker)
        self._forget()

    def _forget(self) -> None:
        """Let go of what only the beginning needed: a stream may be parked for hours."""
        reply = self._reply
        if reply.produce is None:
            unfinished = reply.on_unfinished
            self._reply = Reply(200, [], on_unfinished=unfinished) if unfinished else _FORGOTTEN
        if self._body is not None:
            self._body.first = b""

    def _close_books(self, transfer: Transfer) -> None:
        exchange = self._exchange
        record, ending, flow = exchange.record, transfer.ending, transfer.flow
        record.events = flow.events
        record.bytes_out += transfer.sent
        if record.streaming:
            transfer.counters.active -= 1
        if ending is None:
            return  # cancelled, or the client left: whoever did it has recorded it
        cut = None
        if transfer.abort:
            counted = isinstance(flow, BytesFlow) and isinstance(flow.reader, LengthReader)
            unframed = exchange.head.version != b"1.1" and not flow.reader.done and not counted
            cut = cut_of(transfer, exchange.wire, unframed)
        if ending is COMPLETE and flow.reader.done and not flow.surplus and self._body is not None:
            self._body.lease.answer_whole()
        exchange.end((ending is COMPLETE and self._reply.ending) or ending, cut)

    async def _send(self, out: bytes) -> None:
        exchange = self._exchange
        state = exchange.state
        timeouts = exchange.worker.config.timeouts if state is None else state.route.timeouts
        exchange.wire.write_within = timeouts.write
        await exchange.wire.send(out)
