"""Small requests in two steps of the engine: one on the way out, one on the way back. No task is woken.

    idle ──_request──► asked ──_answer──► idle …                     the connection's task sleeps in `run` all the while
    idle ──_leave──► the task, with the bytes that came
    asked ──_hand_over──► the task, with the exchange and what was done of it (sources.attempt.Begun)
    asked ──_client_left──► the task, with the exchange that has ended; its upstream connection is closed already

A request is served here if it has no body, its route only forwards, an idle upstream connection is there, and its answer is
one read that is whole. Everything else is the task's, from wherever the step has got to: a head in pieces, pipelined
requests, a stream, a large or unfinished body, 1xx, an error, a connection that was closed, a deadline, a drain.

Rules
  * Nothing is decided here that the ordinary way decides: heads are parsed, routes found, fields and heads written, idle
    connections taken and judged, and counts kept by the same functions (see `exchange.preparing`).
  * The bytes that came are handed over unchanged, and the task judges them anew: so a refusal has one author.
  * The same owner rules: the lease is released once, in the step that ends the exchange, or by who takes it over.
  * A step that raises wakes the task with the error: it costs this connection alone, and is logged as such.
"""

from __future__ import annotations

from math import inf
from typing import Generic, Protocol, TypeVar

import outcome
import trio

from relay.exchange.client_side import Carrier, ClientSide
from relay.exchange.prepared import PreparedAnswer, PreparedRequest
from relay.exchange.preparing import may_be_prepared, prepare_answer, prepare_request
from relay.exchange.transfer import LEFT, STALLED
from relay.exchange.worker import RouteState
from relay.http.clock import date
from relay.http.fault import Fault
from relay.http.heads import MEMO_BYTES, RequestHead, ResponseHead, parse_request, parse_response
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.observing.ids import new_id
from relay.sources.attempt import Begun, send_whole
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.alarms import Entry
from relay.wires.client_wire import watch
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired, Gone

E = TypeVar("E", bound=ClientSide)
# What the task goes on with: bytes of a request, an exchange under way, or (None) nothing: its time is over.
Taken = bytes | tuple[E, Begun | None] | None


class Host(Carrier, Protocol[E]):
    """The connection whose requests these are."""

    peer: str | None
    scheme: bytes
    busy: bool

    def begin(self, head: RequestHead, began: tuple[str, float] | None = None) -> E:
        """An exchange for a request."""

    def over(self, exchange: E) -> None:
        """It has ended."""


class Steps(Generic[E]):
    """The wait for a request on a connection that has served one. `run` is called once. A Clock (see wires.alarms)."""

    __slots__ = (
        "_asked",
        "_came_at",
        "_client",
        "_due",
        "_host",
        "_id",
        "_lease",
        "_task",
        "_url",
        "_within",
        "_worker",
        "_writing",
        "entry",
    )

    def __init__(self, host: Host[E], client: SocketWire) -> None:
        self._host = host
        self._client = client
        self._worker = host.worker
        self._task: trio.lowlevel.Task | None = None
        self._asked: PreparedRequest[RouteState] | None = None  # None: the client is idle
        self._lease: Lease | None = None  # of the request under way
        self._id = ""
        self._url = ""  # whom it was sent to
        self._writing: E | None = None  # its answer is on its way to the client
        self._came_at = 0.0
        self._due = inf  # the answer, or the next request
        self._within = inf  # seconds, from which `_due` was reckoned
        self.entry: Entry | None = None

    async def run(self) -> Taken[E]:
        """Serve requests until one needs the task. Cancellation: the exchange under way has ended, and is counted."""
        client = self._client
        client.read_by = inf
        client.owner = self.crash
        self._task = trio.lowlevel.current_task()
        self._rest()
        try:
            taken: Taken[E] = await trio.lowlevel.wait_task_rescheduled(self._abort)
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
        self._wait(trio.current_time(), self._worker.config.timeouts.keep_alive)
        if client.readable:  # it came meanwhile
            self._worker.engine.again(self, self._request)

    def _wait(self, now: float, within: float) -> None:
        self._within = within
        self._due = due = now + within
        self._worker.alarms.arm(self, due)

    def _request(self) -> None:
        """The client has sent something."""
        if self._task is None or self._asked is not None:
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
        limits = worker.config.limits
        try:
            parsed = parse_request(data, limits.request_head, limits.header_count) if data else None
        except Fault:
            parsed = None
        if parsed is None or parsed[1] != len(data) or client.hung_up or not worker.steps:
            self._leave(data)
            return
        asked = self._prepared(*parsed)
        if asked is None:
            self._leave(data)
        else:
            self._ask(asked)

    def _prepared(self, head: RequestHead, size: int) -> PreparedRequest[RouteState] | None:
        host, store = self._host, self._worker.prepared
        asked = store.request(head, host.peer, host.scheme)
        if asked is None and may_be_prepared(head):
            asked = prepare_request(host.begin(head))
            if asked is not None and size <= MEMO_BYTES:
                store.keep_request(host.peer, host.scheme, asked)
        return asked

    def _ask(self, asked: PreparedRequest[RouteState]) -> None:
        """Send the request to an idle upstream connection; where there is none the task dials."""
        host, client = self._host, self._client
        self._came_at = now = trio.current_time()
        self._id = request_id = new_id()
        self._asked = asked
        host.busy = True
        client.on_readable = None
        origin = asked.group.choose()
        assert origin is not None, "a group has at least one origin"
        origin.streams += 1
        parts, self._url = asked.parts[origin]
        wire = origin.take(again=True)
        if wire is None:
            self._hand_over(origin, b"")
            return
        self._lease = lease = Lease(origin, wire, reused=True)
        wire.on_readable = self._answer
        wire.owner = self.crash
        timeouts = asked.state.route.timeouts
        send_whole(lease, request_id.encode("ascii").join(parts), timeouts.write)
        self._wait(now, timeouts.response_head)
        watch(
            client,
            self._client_left,
            None,
            write=timeouts.write,
            half_close_kept=asked.state.route.half_close == "keep",
        )

    # -- the way back ----------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """The upstream has said something."""
        lease, asked, client = self._lease, self._asked, self._client
        if self._task is None or lease is None or asked is None:
            return
        origin, wire = lease.origin, lease.wire
        try:
            data = wire.recv_nowait()
        except Gone:
            data = b""
        if data is None:
            return
        if not data:
            wire.readable = True  # the task reads the end again
            self._hand_over(origin, b"")
            return
        lease.heard = True
        route = asked.state.route
        try:
            parsed = parse_response(data, asked.head.method, route.limits.response_head)
        except Fault:
            parsed = None
        if parsed is None or parsed[0].framing != len(data) - parsed[1] or self._worker.draining:
            self._hand_over(origin, data)
            return
        head, used = parsed
        answer = self._prepared_answer(head, used, asked)
        if answer is None:
            self._hand_over(origin, data)
            return
        lease.answered(head)
        origin.worked()
        lease.answer_whole()
        out = self._id.encode("ascii").join(answer.parts)
        first_byte = trio.current_time()
        client.write_within = route.timeouts.write
        client.post(out + data[used:] if head.framing else out)
        self._let_go()
        if client.torn:
            self._finish_later(head.status, head.framing, first_byte)
        else:
            self._count(head.status, head.framing, first_byte)
            self._rest()

    def _prepared_answer(
        self, head: ResponseHead, size: int, asked: PreparedRequest[RouteState]
    ) -> PreparedAnswer[RouteState] | None:
        worker = self._worker
        answer = worker.prepared.answer(head, asked.state)
        if answer is None or (answer.date and answer.date is not date()):
            answer = prepare_answer(head, asked.head, asked.state, worker.config.server)
            if answer is not None and size <= MEMO_BYTES:
                worker.prepared.keep_answer(answer)
        return answer

    def _count(self, status: int, size: int, first_byte: float) -> None:
        """The exchange is over: its line, and its counts."""
        asked, log = self._asked, self._worker.log
        assert asked is not None
        record = asked.record
        record.id, record.started, record.first_byte = self._id, self._came_at, first_byte
        record.status = record.upstream_status = status
        record.upstream, record.bytes_out = self._url, size
        if log is not None:
            log.write(self._worker.lines.end(record, COMPLETE, trio.current_time()))
        asked.state.counters.ended(COMPLETE.cause, 0, size, first_byte - self._came_at)

    def _let_go(self) -> None:
        """Be done with the upstream connection: it serves again, or is closed."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.origin.streams -= 1
            lease.release()

    # -- to the task -----------------------------------------------------------------------------------------

    def _exchange(self) -> E:
        """The exchange as the task has it."""
        asked = self._asked
        assert asked is not None
        exchange = self._host.begin(asked.head, (self._id, self._came_at))
        exchange.take_route(asked.head, asked.params, asked.state)
        exchange.phase = Phase.REQUEST
        exchange.reached(self._url)
        self._client.on_gone = None
        return exchange

    def _leave(self, data: bytes) -> None:
        """What came is for the task."""
        self._wake(data)

    def _hand_over(self, origin: Origin, came: bytes) -> None:
        """The exchange is for the task; `came`: of the answer."""
        exchange = self._exchange()
        lease, self._lease = self._lease, None
        self._asked = None
        if lease is not None:
            lease.wire.on_readable = lease.wire.owner = None
            lease.wire.read_by = self._due
        self._wake((exchange, Begun(origin, lease, came)))

    def _client_left(self) -> None:
        """Nothing runs on for nobody: the upstream is closed here, in the step that noticed."""
        exchange = self._exchange()
        self._asked = None
        self._let_go()
        self._wake((exchange, None))
        exchange.client_left()  # behind it: what is cancelled is not woken twice

    def _finish_later(self, status: int, size: int, first_byte: float) -> None:
        """The client takes the answer slowly: the task waits for it."""
        self._writing = exchange = self._exchange()
        self._asked = None
        exchange.answering = True
        exchange.phase = Phase.RESPONSE
        record = exchange.record
        record.status, record.bytes_out, record.first_byte = status, size, first_byte
        exchange.answered(status)
        self._wake(None)

    async def _write_rest(self, exchange: E) -> Taken[E]:
        try:
            exchange.watch_client()
            await self._client.flushed()
            exchange.end(COMPLETE)
        except (Gone, Expired) as error:
            exchange.end(STALLED if isinstance(error, Expired) else LEFT)
        except BaseException:
            self._host.over(exchange)
            raise
        return exchange, None

    def _end_under_way(self, cause: Cause | None) -> None:
        """The task does not come to it any more: it is cancelled (None), or a step raised."""
        if self._asked is None:
            return
        exchange = self._exchange()
        self._asked = None
        self._let_go()
        if cause is not None:
            exchange.ending = Ending(Side.RELAY, exchange.phase, cause)
        self._host.over(exchange)

    def _wake(self, taken: Taken[E]) -> None:
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task, outcome.Value(taken))

    # -- called by the engine and the alarms -----------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._task is None

    def crash(self, error: Exception) -> None:
        """A bug of ours in a step: it surfaces in the task that owns this connection."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Error(error))

    def ring(self, now: float) -> float:
        if self._task is None:
            return inf
        if now < self._due:
            return self._due
        try:
            if self._asked is None:
                self._wake(None)  # the time for another request is over
            else:
                assert self._lease is not None
                self._hand_over(self._lease.origin, b"")  # the task sees that it is too late
        except Exception as error:
            self.crash(error)
        return inf

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self._due = min(self._due + seconds, now + self._within)
