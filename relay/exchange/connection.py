"""One client connection: heads in, exchanges one after the other, and the only place that catches bugs.

    accepted ─► (PROXY header: who the client is) ─► (one too many: 429) ─► head ─► Exchange ─► head … ─► closed

Rules
  * Bytes behind a request stay here, or in the kernel, until their turn: read-ahead is bounded by one read.
  * The deadline of a head is absolute: from the connection, and on a kept one from the first byte behind the last
    request. Until that byte it has the time of keep-alive.
  * Expected endings are values; what leaves an Exchange as an exception is a bug, is logged with its traceback, and
    costs this connection alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from math import inf

import trio

from relay.exchange import refusal
from relay.exchange.admission import too_many_connections
from relay.exchange.exchange import Exchange
from relay.exchange.preamble import read_proxy_header
from relay.exchange.step import Steps
from relay.exchange.worker import Worker
from relay.http.fault import Fault, MethodRefused
from relay.http.fields import client_view
from relay.http.forwarded import is_trusted
from relay.http.heads import RequestHead, parse_request
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.ids import new_id
from relay.observing.record import Record, logged
from relay.routing.printed_paths import shown
from relay.routing.table import STANDARD_METHODS
from relay.sources.attempt import Begun
from relay.sources.reply import Reply
from relay.wires.client_wire import ClientWire, on_engine
from relay.wires.delayed_cut import Cut, linger
from relay.wires.wire import Expired, Gone

logger = logging.getLogger("relay")

# Stands in for a head that never became one, so that its refusal goes the way of every answer.
_NO_HEAD = RequestHead(b"GET", b"/", b"/", b"", b"1.1", [], b"")
# While a body is pumped there is nothing to cancel; it is never entered.
_NO_SCOPE = trio.CancelScope()
IDLE_GRACE = 0.5  # seconds a drain leaves an idle connection for a request that is on its way
LINGER = 2.0  # seconds an early answer is protected from a reset by reading on (nginx: lingering_timeout 5 s)
LINGER_BYTES = 4 * 1024 * 1024  # and so many bytes at most
REFUSED_LINGER = 0.5  # seconds, behind the 429 to a connection too many


@lru_cache(maxsize=1024)
def _text(value: bytes) -> str:
    """The text, as one object for all exchanges with the same bytes: they may live for hours."""
    return value.decode("latin-1")


class Connection:
    """One client. `run` is its task; `scope` ends it from outside."""

    __slots__ = (
        "background",
        "busy",
        "counted",
        "cut",
        "freed",
        "kept",
        "peer",
        "pending",
        "reusable",
        "scheme",
        "scope",
        "steps",
        "wire",
        "worker",
    )

    def __init__(
        self,
        worker: Worker,
        wire: ClientWire,
        peer: str | None,
        scheme: bytes = b"http",
        *,
        single: bool = False,
    ) -> None:
        """
        Args:
            peer: the address the connection comes from; None: a unix socket.
            single: one request is all that comes, of a client that is known (the ASGI form).
        """
        self.worker = worker
        self.wire = wire
        self.peer = peer
        self.scheme = scheme
        self.scope = trio.CancelScope()  # of what is awaited up to the response's head
        self.pending = b""  # bytes behind the last request
        self.reusable = not single
        self.cut: Cut | None = None  # the last body is not whole: how the client comes to see it
        self.busy = False  # an exchange is under way
        self.kept = False  # it has served a request
        self.background = 0  # of its exchanges, under way
        # Called when the last of them has ended; set when all else has ended
        self.freed: Callable[[], None] | None = None
        self.counted = ""  # the address that this connection counts against
        self.steps: Steps | None = None  # while it waits for a request

    async def run(self) -> None:
        """Serve the connection until either side is done with it. Never raises but for cancellation.

        A body that is pumped is the only thing on the stack, outside of any scope: the pump ends itself when the client
        leaves, and what the exchanges need meanwhile is gone.
        """
        try:
            if self.reusable and self.steps is None and self.has_preamble():
                with self.scope:
                    if not await self._preamble():
                        return
            goes_on = True
            while goes_on:
                exchange = None
                with trio.CancelScope() as self.scope:
                    exchange = await self._until_parked()
                if exchange is None:
                    return
                self.scope = _NO_SCOPE
                try:
                    await exchange.unpark().run()
                    exchange.finish()
                    goes_on = exchange.goes_on()
                except Exception:
                    exchange.ending = Ending(Side.RELAY, exchange.phase, Cause.FAULT)
                    raise
                finally:
                    self.over(exchange)
            await self.linger()
        except (Gone, Expired):
            pass
        except Exception:
            logger.exception("a fault of relay's own; it cost this connection alone")
        finally:
            self.wire.close()
            if self.counted:
                self.worker.admission.disconnect(self.counted)

    def drain(self) -> None:
        """End after the exchange under way; an idle connection may bring one more within IDLE_GRACE,
        because its client may be sending it just now and would get a reset."""
        self.end_after()
        if self.steps is not None:
            self.steps.end_by(trio.current_time() + IDLE_GRACE)
        elif not self.busy:
            self.wire.read_until(min(self.wire.read_by, trio.current_time() + IDLE_GRACE))

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        """Run a background task of an exchange, which keeps this connection's place until it has ended."""
        self.background += 1
        self.worker.background.start(job, within, self._background_ended)

    def _background_ended(self) -> None:
        self.background -= 1
        if not self.background and self.freed is not None:
            self.freed()

    def end_after(self, cut: Cut | None = None) -> None:
        """Serve no request behind the one under way: the one place that says so.

        Args:
            cut: its body is not whole. The connection ends behind it, once its reader has had the time to read.
        """
        self.reusable = False
        self.cut = cut or self.cut

    def take_pending(self) -> bytes:
        pending, self.pending = self.pending, b""
        return pending

    def has_preamble(self) -> bool:
        """Whether there is something to do before the first request; not by default."""
        worker = self.worker
        return worker.admission.counts_connections or worker.config.server.proxy_protocol

    async def _preamble(self) -> bool:
        """Find out who the client is, and count its connections; False: this one is over. Raises: Gone."""
        worker, server = self.worker, self.worker.config.server
        if server.proxy_protocol and is_trusted(self.peer, server.trusted_proxies):
            try:
                found = await read_proxy_header(self.wire, worker.config.timeouts.request_head)
            except Expired:
                return False
            except Fault as fault:
                self.note(Ending(Side.CLIENT, Phase.HEAD, Cause.BAD_REQUEST, fault.message))
                return False
            if found is None:
                return False
            header, self.pending = found
            if header is not None:
                self.peer = header.source
                if header.tls:
                    self.scheme = b"https"
        if not worker.admission.counts_connections or self.peer is None:
            return True
        if is_trusted(self.peer, server.trusted_proxies):
            return True
        if not worker.admission.connect(self.peer, trio.current_time()):
            await self.refuse(too_many_connections())
            await self.linger(REFUSED_LINGER)
            return False
        self.counted = self.peer
        return True

    async def _until_parked(self) -> Exchange | None:
        """Serve requests until the body of one is to be pumped, or (None) the connection has ended."""
        while True:
            found = await self._next()
            if found is None:
                return None
            exchange, begun = found
            parked = False
            try:
                if exchange.delivery is not None:  # a step has begun to answer
                    await exchange.deliver_rest()
                elif exchange.ending is None:  # else a step has ended it
                    await exchange.run(begun)
                parked = exchange.delivery is not None
            except (Gone, Expired) as error:
                exchange.client_left(Cause.STALLED if isinstance(error, Expired) else Cause.LEFT)
                exchange.left_at = 0.0  # found out by writing: nobody knows since when
            except Exception:
                exchange.ending = Ending(Side.RELAY, exchange.phase, Cause.FAULT)
                raise
            finally:
                if not parked:
                    self.over(exchange)
            if parked:
                return exchange
            if not exchange.goes_on():
                await self.linger()
                return None
            if self.pending:
                # A client that pipelines gets its turns like everyone else.
                await trio.lowlevel.checkpoint()

    async def _next(self) -> tuple[Exchange, Begun | None] | None:
        """The next request; None when there is none. What can be served in steps of the engine is, meanwhile."""
        due = inf
        if self.steps is None:
            self.wait_in_steps()
        if (steps := self.steps) is not None:
            try:
                taken = await steps.run()
            finally:
                self.steps = None
            if taken is None:
                return None
            if not isinstance(taken, bytes):
                return taken
            self.pending, due = taken, steps.head_by
        head = await self._head(due)
        if head is None:
            return None
        self.busy = True
        return self.begin(head), None

    def wait_in_steps(self, *, just_accepted: bool = False) -> None:
        """Serve what comes in steps of the engine, where that can be; `run` has the rest. `just_accepted`: see Steps."""
        wire = self.wire
        if not self.pending and on_engine(wire) and self.worker.steps:
            self.steps = Steps(self, wire)
            self.steps.begin(just_accepted=just_accepted)

    async def _head(self, due: float) -> RequestHead | None:
        """The next request head; None when the client has ended the connection, or its head was refused. `due`: by which it
        must have come (absolute seconds); inf: that time begins now, or with its first byte."""
        worker, wire = self.worker, self.wire
        limits, timeouts = worker.config.limits, worker.config.timeouts
        data = self.take_pending()
        idle = self.kept and not data
        wire.read_by = due
        try:
            while True:
                parsed = (
                    parse_request(data, limits.request_head, limits.header_count) if data else None
                )
                if parsed is not None:
                    head, used = parsed
                    self.pending = data[used:]
                    wire.read_by = inf
                    return head
                if wire.read_by == inf:
                    within = timeouts.keep_alive if idle else timeouts.request_head
                    wire.read_by = trio.current_time() + (IDLE_GRACE if worker.draining else within)
                more = await wire.receive()
                if not more:
                    return None
                data = data + more if data else more
                if idle:
                    idle = False
                    if not worker.draining:
                        wire.read_by = inf
        except Expired:
            if data:
                fault = Fault("client", 408, "request_timeout", "the request head took too long")
                await self._refuse_head(fault)
            return None
        except Fault as fault:
            await self._refuse_head(fault)
            return None

    async def _refuse_head(self, fault: Fault) -> None:
        """Answer bytes that never became a request."""
        reply = refusal.of_fault(fault)
        if isinstance(fault, MethodRefused):
            methods = self.worker.table.allowed(fault.path) or STANDARD_METHODS
            reply.fields.append((b"allow", b", ".join(methods)))
        await self.refuse(reply)
        await self.linger()

    async def refuse(self, reply: Reply) -> None:
        """Answer where there is no request."""
        self.end_after()
        exchange = self._without_request()
        try:
            await exchange.answer(reply)
        finally:
            self._log(exchange)

    def note(self, ending: Ending) -> None:
        """Log an end for which there is neither a request nor an answer."""
        exchange = self._without_request()
        exchange.ending = ending
        self._log(exchange)

    def _without_request(self) -> Exchange:
        record = Record(new_id(), self.peer or "unix", trio.current_time())
        exchange = Exchange(self, _NO_HEAD, client_view(_NO_HEAD, self.peer, ()), record)
        exchange.phase = Phase.HEAD
        return exchange

    def begin(self, head: RequestHead, began: tuple[str, float] | None = None) -> Exchange:
        """An exchange for the request. `began`: the id it has already, and when it came."""
        server = self.worker.config.server
        view = client_view(head, self.peer, server.trusted_proxies, self.scheme)
        request_id, started = began or (new_id(), trio.current_time())
        record = Record(request_id, _text(view.address), started)
        record.method = _text(head.method)
        target = head.target if server.log_query else head.path
        record.path = shown(target, self.worker.hidden).decode("latin-1")
        if server.access_log_fields:
            record.fields = logged(head.fields, server.access_log_fields, self.worker.hidden)
        if not head.keep_alive or self.worker.draining:
            self.end_after()
        exchange = Exchange(self, head, view, record)
        if head.traceparent or server.trace != "pass":
            exchange.trace = self.worker.tracing.begin(head, record)
        return exchange

    def over(self, exchange: Exchange) -> None:
        """The exchange has ended, one way or another."""
        self.busy = False
        self.kept = True
        self.wire.on_gone = None
        exchange.finish()
        if exchange.ending is None:  # cancelled from outside: by the drain's deadline
            exchange.answer_at_last()
        self._log(exchange)

    def _log(self, exchange: Exchange) -> None:
        """The exchange is over: its line, and its counts."""
        worker, record = self.worker, exchange.record
        ending = exchange.ending
        if ending is None:  # cancelled in the middle of its answer
            ending = Ending(Side.RELAY, exchange.phase, Cause.DRAINED)
        now = trio.current_time()
        if exchange.body is not None:
            record.bytes_in = exchange.body.received
        if worker.log is not None:
            worker.log.write(worker.lines.end(record, ending, now))
        worker.registry.discard(record.id)
        counters = worker.counters.route(record.route)
        first_byte = record.first_byte - record.started if record.first_byte else -1.0
        counters.ended(ending.cause, record.bytes_in, record.bytes_out, first_byte)
        counters.events += record.events
        if not record.run:  # what a run said is counted once, by its feed
            counters.capture(record)
        if record.streaming:
            counters.duration.observe(now - record.started)
        if exchange.trace is not None:
            exchange.trace.end(record, ending)
        if exchange.left_at and record.upstream:
            counters.cancel_delay.observe(now - exchange.left_at)

    async def linger(self, within: float = LINGER) -> None:
        """Read on for a moment, so that a reset for unread bytes cannot destroy the answer on its way."""
        await linger(self.wire, self.worker.alarms, self.cut, within, LINGER_BYTES)
