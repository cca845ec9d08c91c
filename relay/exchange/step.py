"""Requests in steps of the engine: out, and back. The connection's task sleeps in `run` all the while.

    idle ──_request──► asked ──_heard──► idle …                      a small answer: no task is woken
    idle ──_request──► dialling ──_connected──► asked
    idle ──_leave──► the task, with the bytes that came
    asked ──_stream──► the task, with the exchange whose head and first bytes are out: it parks in the pump
    asked, dialling ──_hand_over──► the task, with the exchange and what was done of it (sources.attempt.Begun)
    asked, dialling ──_client_left──► the task, with the exchange that has ended; its upstream connection is closed already
    asked ──_finish_later──► the task, with the exchange whose answer the client has not taken yet

A request is served here if it has no body, its route only forwards, and its answer's head is one read. Everything else is
the task's, from wherever the step has got to: a head in pieces, pipelined requests, 1xx, an error, an upstream that has a
name or TLS and no idle connection, a connection that was closed, a deadline, a drain.

Rules
  * Nothing is decided here that the ordinary way decides: heads are parsed, routes found, fields and heads written, idle
    connections taken and judged, dials made, streams begun, and counts kept by the same functions.
  * The bytes that came are handed over unchanged, and the task judges them anew: so a refusal has one author.
  * The same owner rules: the lease is released once, in the step that ends the exchange, or by who takes it over.
  * A step that raises wakes the task with the error: it costs this connection alone, and is logged as such.
"""

from __future__ import annotations

from math import inf

import outcome
import trio

from relay.exchange.exchange import Exchange
from relay.exchange.prepared import PreparedAnswer, PreparedRequest
from relay.exchange.preparing import prepared_answer, prepared_request
from relay.exchange.under_way import Host, UnderWay
from relay.exchange.worker import RouteState
from relay.http.fault import Fault
from relay.http.heads import parse_request, parse_response
from relay.observing.ending import Cause, Ending, Side
from relay.observing.ids import new_id
from relay.sources.attempt import Begun, send_whole
from relay.sources.reply import UpstreamBody
from relay.upstreams.dial import begin_dial, finish_dial
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.alarms import Entry
from relay.wires.client_wire import look_for_end, watch
from relay.wires.connecting import Connecting
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Gone

# What the task goes on with: bytes of a request, an exchange under way, or (None) nothing: its time is over.
Taken = bytes | tuple[Exchange, Begun | None] | None


class Steps(UnderWay):
    """The wait for a request, the first one of a connection or one behind it. `run` is called once. A Clock (see
    wires.alarms).

    Attributes:
        head_by: by when the head must have come of which `run` returned the first bytes (absolute seconds; inf: not said).
    """

    __slots__ = (
        "_due",
        "_outcome",
        "_task",
        "_within",
        "_writing",
        "closed",
        "entry",
        "head_by",
    )

    def __init__(self, host: Host, client: SocketWire) -> None:
        super().__init__(host, client)
        self._task: trio.lowlevel.Task | None = None
        self._outcome: outcome.Outcome[Taken] | None = None  # kept for a task that has not come yet
        self._writing: Exchange | None = None  # its answer is on its way to the client
        self._due = inf  # by when the connection, the answer or the next request must have come
        self._within = inf  # seconds of which `_due` is the end
        self.closed = False  # it is over: the task goes on
        self.head_by = inf
        self.entry: Entry | None = None

    def begin(self, *, just_accepted: bool) -> None:
        """Wait for requests from now on; the first may be there already. The task is to call `run`.

        Args:
            just_accepted: the engine has not reported on the client's socket yet, so it is read to find out.
        """
        client = self._client
        client.read_by = inf
        client.owner = self.crash
        try:
            self._rest()
            if just_accepted or client.readable:
                self._request(just_accepted=just_accepted)
        except Exception as error:
            self.crash(error)

    async def run(self) -> Taken:
        """Sleep until a request needs the task. Cancellation: the exchange under way has ended, and is counted."""
        client = self._client
        try:
            if self._outcome is None:
                self._task = trio.lowlevel.current_task()
                taken: Taken = await trio.lowlevel.wait_task_rescheduled(self._abort)
            else:
                taken = self._outcome.unwrap()
            if self._writing is None:
                return taken
        except BaseException as error:
            self._end_under_way(Cause.FAULT if isinstance(error, Exception) else None)
            raise
        finally:
            self._worker.alarms.forget(self)
            client.on_readable = client.owner = None
        return await self._write_rest(self._writing)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self.closed = True
        return trio.lowlevel.Abort.SUCCEEDED

    def end_by(self, due: float) -> None:
        """An idle connection has so long for one more request; one that is asked, for its answer as before."""
        if self._asked is None:
            self._due = min(self._due, due)
            self._worker.alarms.arm(self, self._due)

    # -- the way out -----------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Wait for the next request."""
        client = self._client
        self._asked = self._lease = None
        self._host.busy = False
        client.on_gone = None
        client.on_readable = self._request
        timeouts = self._worker.config.timeouts
        within = timeouts.keep_alive if self._host.kept else timeouts.request_head
        self._wait(trio.current_time(), within)

    def _wait(self, now: float, within: float) -> None:
        self._within = within
        self._due = due = now + within
        self._worker.alarms.arm(self, due)

    def _request(self, *, just_accepted: bool = False) -> None:
        """The client has sent something."""
        if self.closed or self._asked is not None:
            return
        client, worker = self._client, self._worker
        try:
            data = client.recv_nowait()
        except Gone:
            data = b""
        if data is None:
            return
        if not data:
            client.readable = True  # the task reads the end again
        elif just_accepted:
            look_for_end(client)
        limits = worker.config.limits
        try:
            parsed = parse_request(data, limits.request_head, limits.header_count) if data else None
        except Fault:
            parsed = None
        if parsed is None or parsed[1] != len(data) or client.hung_up or not worker.steps:
            self._leave(data)
            return
        asked = prepared_request(self._host, *parsed)
        if asked is None or (asked.state.route.retries and not self._host.kept):
            self._leave(data)  # with retries a stream's beginning is waited for: by the task
        else:
            self._ask(asked)

    def _ask(self, asked: PreparedRequest[RouteState]) -> None:
        """Send the request to an idle upstream connection, or dial."""
        client, timeouts = self._client, asked.state.route.timeouts
        self._came_at = now = trio.current_time()
        self._id = new_id()
        self._asked = asked
        self._host.busy = True
        client.on_readable = None
        self._origin = origin = asked.group.choose()
        assert origin is not None, "a group has at least one origin"
        origin.streams += 1
        self._url = asked.parts[origin][1]
        watch(
            client,
            self._client_left,
            None,
            write=timeouts.write,
            half_close_kept=asked.state.route.half_close == "keep",
        )
        wire = origin.take(again=True)
        if wire is not None:
            self._send(Lease(origin, wire, reused=True), now)
        else:
            self._dial(origin, now)

    def _dial(self, origin: Origin, now: float) -> None:
        begun = begin_dial(origin.url, self._worker.engine, self._worker.alarms)
        if begun is None:
            self._hand_over(b"")
        elif isinstance(begun, Connecting):
            self._dialling = begun
            begun.then = self._connected
            begun.owner = self.crash
            assert self._asked is not None
            self._wait(now, self._asked.state.route.timeouts.connect)
        else:
            self._send_first(begun, origin)

    def _connected(self) -> None:
        """The dial has come to its end."""
        dialling, origin = self._dialling, self._origin
        if self.closed or dialling is None or origin is None:
            return
        wire = finish_dial(dialling, self._worker.engine, self._worker.alarms)
        if wire is None:
            self._hand_over(b"")
            return
        self._dialling = None
        self._send_first(wire, origin)

    def _send_first(self, wire: SocketWire, origin: Origin) -> None:
        lease = Lease(origin, wire, reused=False)
        early = lease.unasked()
        self._send(lease, trio.current_time())
        if early:
            self._heard(early)

    def _send(self, lease: Lease, now: float) -> None:
        asked = self._asked
        assert asked is not None
        self._lease = lease
        lease.wire.on_readable = self._answer
        lease.wire.owner = self.crash
        parts, _ = asked.parts[lease.origin]
        timeouts = asked.state.route.timeouts
        send_whole(lease, self._id.encode("ascii").join(parts), timeouts.write)
        self._wait(now, timeouts.response_head)

    # -- the way back ----------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """The upstream has said something."""
        lease = self._lease
        if self.closed or lease is None:
            return
        try:
            data = lease.wire.recv_nowait()
        except Gone:
            data = b""
        try:
            if data:
                lease.heard = True
                self._heard(data)
            elif data is not None:
                lease.wire.readable = True  # the task reads the end again
                self._hand_over(b"")
        except Exception as error:
            # Not by way of the wire: it may be let go of, and knows no owner then
            self.crash(error)

    def _heard(self, data: bytes) -> None:
        asked, lease = self._asked, self._lease
        assert asked is not None and lease is not None
        try:
            limit = asked.state.route.limits.response_head
            parsed = parse_response(data, asked.head.method, limit)
        except Fault:
            parsed = None
        if parsed is None or self._worker.draining:
            self._hand_over(data)
            return
        head, used = parsed
        answer = prepared_answer(self._worker, head, used, asked)
        here = len(data) - used
        if answer is None or 0 <= head.framing < here:
            self._hand_over(data)
        elif head.framing != here:
            self._stream(lease, answer, data[used:])
        elif answer.reply.events:
            self._hand_over(data)
        else:
            self._whole(lease, answer, data[used:])

    def _whole(self, lease: Lease, answer: PreparedAnswer[RouteState], body: bytes) -> None:
        """Pass on an answer that is all there."""
        asked, client, status = self._asked, self._client, answer.head.status
        assert asked is not None
        out = self._answered(lease, answer)
        lease.answer_whole()
        first_byte = trio.current_time()
        client.write_within = asked.state.route.timeouts.write
        client.post(out + body if body else out)
        self._let_go()
        if client.torn:
            self._finish_later(status, len(body), first_byte)
            return
        self._count(status, len(body), first_byte)
        self._host.kept = True
        self._rest()
        if client.readable:  # another one came meanwhile
            self._worker.engine.again(self, self._request)

    def _stream(self, lease: Lease, answer: PreparedAnswer[RouteState], first: bytes) -> None:
        """Begin an answer whose body is still to come."""
        wire, head = lease.wire, answer.head
        out = self._answered(lease, answer)
        exchange = self._exchange()
        exchange.answered(head.status)
        self._asked = self._lease = None
        wire.on_readable = None
        try:
            body = UpstreamBody(lease, head.framing, first)
            exchange.begin_answer(answer.reply.with_body(body), out)
        except BaseException:
            exchange.ending = Ending(Side.RELAY, exchange.phase, Cause.FAULT)
            self._host.over(exchange)
            raise
        wire.owner = None
        self._wake((exchange, None))

    # -- to the task -----------------------------------------------------------------------------------------

    def _leave(self, data: bytes) -> None:
        """What came is for the task."""
        if not self._host.kept:
            self.head_by = self._due
        self._wake(data)

    def _hand_over(self, came: bytes) -> None:
        """The exchange is for the task; `came`: of the answer."""
        exchange, origin = self._exchange(), self._origin
        assert origin is not None
        lease, dialling = self._lease, self._dialling
        self._asked = self._lease = self._dialling = None
        if lease is not None:
            lease.wire.on_readable = lease.wire.owner = None
            lease.wire.read_by = self._due
        if dialling is not None:
            dialling.then = dialling.owner = None
        self._wake((exchange, Begun(origin, lease, came, dialling, self._due)))

    def _client_left(self) -> None:
        """Nothing runs on for nobody: the upstream is closed here, in the step that noticed."""
        exchange = self._exchange()
        self._asked = None
        self._let_go()
        self._wake((exchange, None))
        exchange.client_left()  # behind it: what is cancelled is not woken twice

    def _finish_later(self, status: int, size: int, first_byte: float) -> None:
        """The client takes the answer slowly: the task waits for it."""
        self._writing = self._half_written(status, size, first_byte)
        self._asked = None
        self._wake(None)

    def _wake(self, taken: Taken) -> None:
        self._end(outcome.Value(taken))

    def crash(self, error: Exception) -> None:
        """A bug of ours in a step: it surfaces in the task that owns this connection. Called by the engine too."""
        if not self.closed:
            self._end(outcome.Error(error))

    def _end(self, how: outcome.Outcome[Taken]) -> None:
        self.closed = True
        task, self._task = self._task, None
        if task is None:
            self._outcome = how
        else:
            trio.lowlevel.reschedule(task, how)

    # -- called by the alarms --------------------------------------------------------------------------------

    def ring(self, now: float) -> float:
        if self.closed:
            return inf
        if now < self._due:
            return self._due
        try:
            if self._asked is None:
                self._wake(None)  # the time for another request is over
            else:
                self._hand_over(b"")  # its deadline is over already: the task says so
        except Exception as error:
            self.crash(error)
        return inf

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self._due = min(self._due + seconds, now + self._within)
