"""The pump on the data plane: both ends are sockets on the engine.

    upstream readable ─► ready/_read: recv ─► Transfer ─► send ─► client      (one synchronous step)
    short write ─► rest kept, upstream left unread ─► client writable ─► _write ─► _read again
    client hung up ─► _client_gone: upstream closed in the same step
    alarm ─► ring: heartbeat, clocks, write deadline

The task that runs it is parked all the while and wakes once, when the transfer has ended and its last byte is
written. Cancelling it takes the steps off the wires; both are then the caller's to close.
"""

from __future__ import annotations

from math import inf
from select import EPOLLIN

import outcome
import trio

from relay.exchange.transfer import Transfer, nobody
from relay.feeds.log_wire import LogWire
from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow
from relay.wires.alarms import Alarms, Entry
from relay.wires.client_wire import on_engine
from relay.wires.engine import Engine
from relay.wires.socket_wire import BUFFER, VIEW, SocketWire
from relay.wires.splice import TAKE
from relay.wires.wire import READ_SIZE, Gone

# When a stream of small reads counts as a flood (arbitrary, but far from any stream that a person follows).
CLOSE = 0.0005  # seconds between two reads: 2,000 a second
APART = 0.003  # seconds that end a flood
HURRIED = 16  # reads in a row


class EpollPump:
    """One transfer between two sockets. An Alarm (see wires.alarms)."""

    __slots__ = (
        "_alarms",
        "_asked_turn",
        "_bulk",
        "_client",
        "_detour",
        "_engine",
        "_hurry",
        "_rest",
        "_task",
        "_transfer",
        "_unacknowledged",
        "_upstream",
        "_welded",
        "_write_by",
        "entry",
    )

    def __init__(
        self,
        transfer: Transfer,
        upstream: SocketWire,
        client: SocketWire | LogWire,
        engine: Engine,
        alarms: Alarms,
    ) -> None:
        self._transfer = transfer
        self._upstream = upstream
        self._client = client
        self._engine = engine
        self._alarms = alarms
        self._rest: memoryview | None = None  # what the client's socket did not take yet
        self._write_by = inf
        self._asked_turn = False  # `_next` is to come
        self._hurry = 0  # reads that followed the one before it closely, up to HURRIED
        # Of the client, when the write began to wait or had made progress last
        self._unacknowledged = 0
        self._task: trio.lowlevel.Task | None = None
        self.entry: Entry | None = None
        flow = transfer.flow
        self._bulk: BytesFlow | None = None  # a body that passes unseen
        if isinstance(flow, BytesFlow) and flow.plain and type(upstream) is SocketWire:
            self._bulk = flow
        # A stream whose events may go out as they came.
        self._welded = flow if type(flow) is EventFlow else None
        self._detour = self._bulk is not None or flow.in_steps  # see `ready`

    async def run(self) -> None:
        """Pump until the transfer has its ending and is written out.

        Cancellation: stops at once; both wires stay open.
        """
        transfer, upstream, client = self._transfer, self._upstream, self._client
        upstream.owner = client.owner = self._crashed
        transfer.wake = self._asked
        self._engine.now = trio.current_time()
        try:
            upstream.on_readable = self._read
            if type(upstream) is SocketWire:
                self._engine.hand_over(upstream.fd, self)
            client.on_writable = self._write
            client.on_gone = self._client_gone
            if client.hung_up and not client.half_close_kept:
                self._client_gone()
            elif upstream.readable or transfer.flow.pending:
                self._read()
            if transfer.ending is None or self._rest is not None:
                self._alarms.arm(self, min(transfer.due(), self._write_by))
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
                return
        finally:
            self._unhook()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _unhook(self) -> None:
        self._transfer.wake = nobody
        self._alarms.forget(self)
        if not self._upstream.closed:
            self._engine.hand_over(self._upstream.fd, self._upstream)
        for wire in (self._upstream, self._client):
            wire.on_readable = wire.on_writable = wire.on_gone = wire.owner = None
        self._client.want_write(False)

    # -- steps -----------------------------------------------------------------------------------------------

    def ready(self, mask: int) -> None:
        """A plain upstream socket has news. Bytes that leave as fast as they come, the common case, are moved here without
        a detour; everything else goes the wire's own way, to `_read`."""
        transfer, upstream = self._transfer, self._upstream
        waits = self._rest is not None or self._asked_turn
        if mask != EPOLLIN or waits or transfer.ending is not None or self._detour:
            upstream.ready(mask)
            return
        try:
            size = upstream.sock.recv_into(BUFFER)
        except BlockingIOError:
            upstream.ready(mask)
            return
        except OSError:  # told once: who reads again is told of an end
            self._out(transfer.broke())
            return
        if not 0 < size < READ_SIZE:
            self._took(VIEW[:size].tobytes())
            return
        now = self._engine.now
        if now - transfer.last_in < APART:
            self._hasten(now - transfer.last_in)
        else:
            self._hurry = 0
        out = data = VIEW[:size].tobytes()
        welded = self._welded
        if welded is not None and transfer.asked is None and welded.passes(data):
            transfer.one_event(now)
        else:
            out = transfer.data(data, now)
        if transfer.ending is None and out:
            transfer.sent += len(out)
            try:
                sent = self._client.sock.send(out)
            except OSError:
                sent = 0  # full, or gone: either is found out below
            if sent == len(out):
                return
            self._wait_for_client(memoryview(out)[sent:])
            return
        self._out(out)

    def _hasten(self, gap: float) -> None:
        """A read came soon after the one before. A stream that goes on like that is read once a millisecond: what it sends
        then goes out together, at a fraction of the cost for us, the kernel and the client."""
        if self._hurry < HURRIED:
            self._hurry += gap < CLOSE
        elif not self._upstream.wants_write:
            self._engine.rest(self._upstream)

    def crash(self, error: Exception) -> None:
        self._crashed(error)

    def _read(self) -> None:
        """The upstream has bytes: one recv, one send."""
        transfer = self._transfer
        if self._rest is not None or self._asked_turn or transfer.ending is not None:
            return  # backpressure, or others first: they stay in the kernel
        if self._bulk:
            self._move(self._bulk)
            return
        if transfer.flow.pending:
            self._out(transfer.more(self._engine.now))
            self._go_on()
            return
        data = self._received(READ_SIZE)
        if data is not None:
            self._took(data)

    def _received(self, limit: int) -> bytes | None:
        """What the upstream has sent; None where there is nothing, or it broke."""
        try:
            return self._upstream.recv_nowait(limit)
        except Gone:
            self._out(self._transfer.broke())
            return None

    def _move(self, flow: BytesFlow) -> None:
        """Bytes that pass as they are go from socket to socket without becoming objects."""
        transfer, upstream, client = self._transfer, self._upstream, self._client
        assert on_engine(client)
        try:
            size, rest = self._engine.pipe.move(upstream.sock, client.sock, flow.wanted(TAKE))
        except BlockingIOError:
            upstream.readable = False
            return
        except OSError:
            self._out(transfer.broke())
            return
        except Gone:
            transfer.left(unsent=True)
            self._client_gone()
            return
        if not size:
            self._ended()
            return
        transfer.passed(flow, size, self._engine.now)
        if rest:
            self._wait_for_client(memoryview(rest))
        elif transfer.ending is not None:
            self._wake()
        else:
            self._ask_turn()

    def _took(self, data: bytes) -> None:
        transfer, upstream = self._transfer, self._upstream
        if not data:
            self._ended()
            return
        if len(data) == READ_SIZE:
            upstream.readable = True
        self._out(transfer.data(data, self._engine.now))
        self._go_on()

    def _ended(self) -> None:
        """There is no more of it: its end, unless the request's body was told of a reset before."""
        transfer = self._transfer
        self._out(transfer.broke() if self._upstream.reset else transfer.end())

    def _go_on(self) -> None:
        """Take another turn where there is more to do at once."""
        transfer = self._transfer
        more = self._upstream.readable or transfer.flow.pending
        if more and self._rest is None and transfer.ending is None:
            self._ask_turn()

    def _ask_turn(self) -> None:
        """There may be more: read on when the others had their turns. One at a time, whatever is reported meanwhile."""
        self._asked_turn = True
        self._engine.again(self._upstream, self._next)

    def _next(self) -> None:
        self._asked_turn = False
        if self._task is not None:  # else the pump has ended, or was cancelled since it asked
            self._read()

    def _out(self, out: bytes) -> None:
        """Write to the client, keep what it does not take, and finish once all is said."""
        transfer = self._transfer
        if out and self._rest is not None:
            self._rest = memoryview(bytes(self._rest) + out)
            transfer.unsent += len(out)
            return
        if out:
            transfer.sent += len(out)
            try:
                sent = self._client.send_nowait(out)
            except Gone:
                transfer.left(unsent=True)
                self._client_gone()
                return
            if sent < len(out):
                self._wait_for_client(memoryview(out)[sent:])
        if transfer.ending is not None and self._rest is None:
            self._wake()

    def _wait_for_client(self, rest: memoryview) -> None:
        self._rest = rest
        self._transfer.pause(self._engine.now)
        self._transfer.unsent = len(rest)
        self._write_by = self._engine.now + self._transfer.route.timeouts.write
        self._unacknowledged = self._client.unacknowledged()
        self._client.want_write(True)
        self._alarms.arm(self, self._write_by)

    def _write(self) -> None:
        """The client takes bytes again."""
        if self._rest is None:
            return
        try:
            sent = self._client.send_nowait(self._rest)
        except Gone:
            self._client_gone()
            return
        now = self._engine.now
        if sent < len(self._rest):
            if sent:
                self._rest = self._rest[sent:]
                self._transfer.unsent -= sent
                self._write_by = now + self._transfer.route.timeouts.write
                self._unacknowledged = self._client.unacknowledged()
            return
        self._rest = None
        self._write_by = inf
        self._client.want_write(False)
        transfer = self._transfer
        transfer.resumed(now)
        if transfer.ending is not None:
            self._wake()
            return
        self._alarms.arm(self, transfer.due())
        if self._upstream.readable or transfer.flow.pending:
            self._read()

    def _client_gone(self) -> None:
        """Nothing runs on for nobody: the upstream is closed here, in the step that noticed."""
        self._transfer.left(unsent=self._rest is not None)
        self._rest = None
        self._upstream.close()
        delay = trio.current_time() - self._engine.now  # since the epoll returned
        self._transfer.counters.cancel_delay.observe(delay)
        self._wake()

    def ring(self, now: float) -> float:
        if self._task is None:
            return inf
        self._engine.now = now
        transfer = self._transfer
        if now >= self._write_by:
            left = self._client.unacknowledged()
            if left < self._unacknowledged:
                self._unacknowledged = left
                self._write_by = now + transfer.route.timeouts.write
                return min(transfer.due(), self._write_by)
            transfer.stalled()
            self._rest = None
            self._wake()
            return inf
        try:
            self._out(transfer.tick(now))
        except Exception as error:
            self._crashed(error)
        if self._task is None:
            return inf
        return min(transfer.due(), self._write_by)

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self._transfer.set_back(seconds, now)
        if self._rest is not None:
            write = self._transfer.route.timeouts.write
            self._write_by = min(self._write_by + seconds, now + write)

    def _asked(self) -> None:
        self.ring(trio.current_time())

    # -- the end ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def _crashed(self, error: Exception) -> None:
        """A bug of ours in a step: it surfaces in the task that owns this exchange, and nowhere else."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Error(error))
