"""One contract for both pumps: the same script, over the epoll pump and the Trio pump.

Real sockets, virtual time: the clock stands still until a test moves it (pytest-trio takes the
clock from a test's own arguments, so each test names it).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.config.keys.sources.local import Local
from relay.config.values import Limits, Route, Timeouts
from relay.exchange.epoll_pump import HURRIED, EpollPump
from relay.exchange.transfer import Transfer
from relay.exchange.trio_pump import TrioPump
from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.counters import Counters
from relay.observing.ending import Cause, Ending, Side
from relay.observing.record import Record
from relay.routing.pattern import Pattern
from relay.sse.completion import Completion
from relay.wires.alarms import LOOK, Alarms
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from tests.harness import RawPeer, chunked

Kind = Literal["epoll", "trio"]
LAST = b"0\r\n\r\n"
HEARTBEAT = chunked(b":\n\n")
EVENT = chunked(b"data: 1\n\n")
ERROR = b'data: {"type":"error",'

SILENT_ROUTE = Route(
    "r", Pattern.parse("/{p...}"), Local(), Timeouts(idle=inf), Limits(), heartbeat=inf
)


def route(*, timeouts: dict[str, float] | None = None, **changes: Any) -> Route:
    """A route whose clocks are off, unless a test sets one."""
    times = SILENT_ROUTE.timeouts._replace(**(timeouts or {}))
    return SILENT_ROUTE._replace(timeouts=times, **changes)


class Stage:
    """One engine, and pumps on it."""

    def __init__(self, kind: Kind, clock: MockClock, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.clock = clock
        self.nursery = nursery
        self.engine = Engine()
        self.alarms = Alarms(self.engine)
        self.pumps: list[Pumped] = []

    def pump(
        self,
        flow: BytesFlow | EventFlow | None = None,
        route: Route = SILENT_ROUTE,
        *,
        run: bool = True,
    ) -> Pumped:
        """Start a pump; chunked on both sides, an event stream, unless `flow` says otherwise."""
        pumped = Pumped(self, flow or EventFlow(CHUNKED, CHUNKED, 100), route)
        if run:
            self.nursery.start_soon(pumped.run)
        self.pumps.append(pumped)
        return pumped

    async def later(self, seconds: float) -> None:
        """Let everything happen that is due, then move the clock and let happen what is due then.

        From deadline to deadline: a clock that passes one is that of a process that stood still (see `stop`).
        """
        await self.quiet()
        self.clock.autojump_threshold = 0.001
        await trio.sleep(seconds)
        self.clock.autojump_threshold = inf
        await self.quiet()
        self.clock.jump(LOOK)  # the portable pump believes a silence that much later
        await self.quiet()

    def stop(self, seconds: float) -> None:
        """The process stands still for so long."""
        self.clock.jump(seconds)

    async def quiet(self) -> None:
        """Wait until nobody has anything to do: the kernel's news included."""
        for _ in range(3):
            await wait_all_tasks_blocked(0.002)


class Pumped:
    """One pump under way, with the far ends of its two wires."""

    def __init__(self, stage: Stage, flow: BytesFlow | EventFlow, route: Route) -> None:
        self.upstream_wire, self.upstream = _pair(stage)
        self.client_wire, self.client = _pair(stage)
        self.record = Record("1", "test", 0.0)
        self.record.method = "GET"
        self.transfer = Transfer(
            flow, route, self.record, Counters().route("r"), trio.current_time()
        )
        ends = self.transfer, self.upstream_wire, self.client_wire
        self.pump: EpollPump | TrioPump
        if stage.kind == "epoll":
            self.pump = EpollPump(*ends, stage.engine, stage.alarms)
        else:
            self.pump = TrioPump(*ends, stage.alarms)
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.crash: BaseException | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                await self.pump.run()
            except ZeroDivisionError as error:
                self.crash = error
        self.done.set()

    async def ending(self) -> Ending:
        await self.done.wait()
        assert self.transfer.ending is not None
        return self.transfer.ending

    async def ended(self, cause: Cause, side: Side = Side.UPSTREAM) -> None:
        ending = await self.ending()
        assert (ending.cause, ending.side) == (cause, side)

    async def rest(self) -> bytes:
        """What the client gets to the end; the wire is closed, as its exchange would."""
        await self.done.wait()
        self.client_wire.close()
        return await self.client.rest()

    def close(self) -> None:
        for end in (self.upstream_wire, self.client_wire, self.upstream, self.client):
            end.close()

    def fill(self) -> None:
        """Make the client's socket take no more: the pump's next write is a short one."""
        sock = self.client_wire.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        try:
            while True:
                sock.send(b"#" * 4096)
        except BlockingIOError:
            pass

    async def drain_filling(self) -> None:
        """Let the client read what `fill` wrote."""
        sock = self.client.stream.socket
        while not self.client.buffer.lstrip(b"#"):
            self.client.buffer = self.client.buffer.lstrip(b"#") + await sock.recv(65536)
        self.client.buffer = self.client.buffer.lstrip(b"#")


def _pair(stage: Stage) -> tuple[SocketWire, RawPeer]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = SocketWire(ours, stage.engine, stage.alarms)
    return wire, RawPeer(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))


@pytest.fixture(params=["epoll", "trio"])
async def stage(request: pytest.FixtureRequest, mock_clock: MockClock) -> AsyncIterator[Stage]:
    async with _staged(request.param, mock_clock) as stage:
        yield stage


@asynccontextmanager
async def _staged(kind: Kind, clock: MockClock) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        stage = Stage(kind, clock, nursery)
        nursery.start_soon(stage.engine.run)
        nursery.start_soon(stage.alarms.run)
        yield stage
        nursery.cancel_scope.cancel()
    for pumped in stage.pumps:
        pumped.close()


# -- bodies
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framings", "sent", "got"),
    [
        ((5, 5), b"12345", b"12345"),
        ((5, CHUNKED), b"12345", chunked(b"12345") + LAST),
        ((CHUNKED, CHUNKED), chunked(b"12", b"345") + LAST, chunked(b"12345") + LAST),
        ((CHUNKED, UNTIL_CLOSE), chunked(b"12", b"345") + LAST, b"12345"),
    ],
)
async def test_a_body_of_its_own_framing_ends_itself(
    mock_clock: MockClock, stage: Stage, framings: tuple[int, int], sent: bytes, got: bytes
) -> None:
    pumped = stage.pump(BytesFlow(*framings, "upstream"))
    await pumped.upstream.send(sent)
    await pumped.ended(Cause.COMPLETE)
    assert not pumped.transfer.abort
    assert await pumped.rest() == got
    assert pumped.transfer.sent == len(got)


async def test_a_body_until_the_close(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(BytesFlow(UNTIL_CLOSE, CHUNKED, "upstream"))
    await pumped.upstream.send(b"all")
    assert await pumped.client.exactly(len(chunked(b"all"))) == chunked(b"all")
    pumped.upstream.close()
    await pumped.ended(Cause.COMPLETE)
    assert await pumped.rest() == LAST


@pytest.mark.parametrize("framing", [CHUNKED, 1000])
@pytest.mark.parametrize("leave", [RawPeer.close, RawPeer.reset])
async def test_a_body_that_is_cut(
    mock_clock: MockClock, stage: Stage, framing: int, leave: Callable[[RawPeer], None]
) -> None:
    pumped = stage.pump(BytesFlow(framing, CHUNKED, "upstream"))
    await pumped.upstream.send(chunked(b"some") if framing == CHUNKED else b"some")
    await pumped.client.until(chunked(b"some"))
    leave(pumped.upstream)
    await pumped.ended(Cause.BROKE)
    assert pumped.transfer.abort
    assert await pumped.rest() == b""


async def test_a_reset_behind_the_news_of_bytes(mock_clock: MockClock) -> None:
    """1. The kernel has told that there is something to read. 2. The upstream resets a body that only its end would end,
    before anything is read. 3. The body was cut."""
    async with _staged("epoll", mock_clock) as stage:
        pumped = stage.pump(EventFlow(UNTIL_CLOSE, CHUNKED, 100))
        await stage.quiet()
        pumped.upstream_wire.sock.send(b"unread, so that the close is a reset")
        pumped.upstream.close()
        assert isinstance(pumped.pump, EpollPump)
        pumped.pump.ready(select.EPOLLIN)
        await pumped.ended(Cause.BROKE)
        assert pumped.transfer.abort


async def test_a_body_that_is_no_body(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(BytesFlow(CHUNKED, CHUNKED, "upstream"))
    await pumped.upstream.send(b"no chunk\r\n")
    await pumped.ended(Cause.NONSENSE)
    assert pumped.transfer.abort


async def test_more_than_one_read_that_was_there_before(
    mock_clock: MockClock, stage: Stage
) -> None:
    """1. The upstream has sent 200 kB and says no more. 2. The pump starts. No event of the kernel
    follows."""
    pumped = Pumped(stage, BytesFlow(200_000, 200_000, "upstream"), SILENT_ROUTE)
    stage.pumps.append(pumped)
    for sock in (pumped.upstream_wire.sock, pumped.client_wire.sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    pumped.upstream.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    with trio.CancelScope() as sending:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pumped.upstream.send, bytes(200_000))
            await stage.quiet()
            assert pumped.upstream_wire.readable
            stage.nursery.start_soon(pumped.run)
            assert await pumped.client.exactly(200_000) == bytes(200_000)
    assert not sending.cancelled_caught
    await pumped.ended(Cause.COMPLETE)


# -- events
# ------------------------------------------------------------------------------------------


async def test_whole_events_and_nothing_else(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    await pumped.upstream.send(chunked(b"data: 1\n\ndata: "))
    assert await pumped.client.exactly(len(EVENT)) == EVENT
    await stage.quiet()
    assert pumped.transfer.flow.held == 6
    await pumped.upstream.send(chunked(b"2\n\n"))
    assert await pumped.client.until(b"\n\n\r\n") == chunked(b"data: 2\n\n")
    await pumped.upstream.send(LAST)
    await pumped.ended(Cause.COMPLETE)
    assert await pumped.rest() == LAST
    assert pumped.transfer.flow.events == 2


async def test_a_heartbeat_after_silence(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(route=route(heartbeat=15))
    await stage.later(14)
    await pumped.upstream.send(EVENT)
    await pumped.client.until(EVENT)
    await stage.later(14)
    assert pumped.client.buffer == b""
    await stage.later(1)
    await pumped.client.until(HEARTBEAT)
    await stage.later(15)
    await pumped.client.until(HEARTBEAT)


async def test_a_heartbeat_beside_an_unfinished_event_is_before_it(
    mock_clock: MockClock, stage: Stage
) -> None:
    pumped = stage.pump(route=route(heartbeat=15))
    await pumped.upstream.send(chunked(b"data: "))
    await stage.later(15)
    await pumped.upstream.send(chunked(b"1\n\n"))
    assert await pumped.client.until(b"1\n\n\r\n") == HEARTBEAT + EVENT


async def test_no_heartbeat_inside_an_event_that_is_too_long_to_hold(
    mock_clock: MockClock, stage: Stage
) -> None:
    pumped = stage.pump(route=route(heartbeat=15))
    half = chunked(b"data: " + b"x" * 200)
    await pumped.upstream.send(half)
    await pumped.client.until(half)
    await stage.later(15)
    await pumped.upstream.send(chunked(b"y\n\n"))
    assert await pumped.client.until(b"y\n\n\r\n") == chunked(b"y\n\n")
    await stage.later(15)
    await pumped.client.until(HEARTBEAT)


# -- clocks
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heartbeat", [5.0, inf])
async def test_a_silent_upstream(mock_clock: MockClock, stage: Stage, heartbeat: float) -> None:
    """Heartbeats of our own are not a sign of the upstream's life."""
    pumped = stage.pump(route=route(heartbeat=heartbeat, timeouts={"idle": 20}))
    for _ in range(4):
        assert not pumped.done.is_set()
        await stage.later(5)
    await pumped.ended(Cause.SILENT)
    out = await pumped.rest()
    assert out.count(HEARTBEAT) == (3 if heartbeat == 5 else 0)
    assert ERROR in out
    assert not out.endswith(LAST)


async def test_a_silent_body(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(BytesFlow(10, 10, "upstream"), route(timeouts={"idle": 20}))
    await stage.later(19)
    await pumped.upstream.send(b"x")
    await stage.later(19)
    assert not pumped.done.is_set()
    await stage.later(1)
    await pumped.ended(Cause.SILENT)
    assert await pumped.rest() == b"x"


async def test_comments_alone_do_not_satisfy_the_event_clock(
    mock_clock: MockClock, stage: Stage
) -> None:
    pumped = stage.pump(route=route(event_idle=30, timeouts={"idle": 20}))
    await pumped.upstream.send(EVENT)
    for _ in range(3):
        await stage.later(10)
        await pumped.upstream.send(chunked(b": still there\n\n"))
    await pumped.ended(Cause.SILENT)


async def test_events_satisfy_the_event_clock(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(route=route(event_idle=30))
    for _ in range(4):
        await stage.later(29)
        await pumped.upstream.send(EVENT)
    await pumped.client.exactly(4 * len(EVENT))
    assert not pumped.done.is_set()


async def test_the_first_event_has_a_clock_of_its_own(mock_clock: MockClock, stage: Stage) -> None:
    late, early = (stage.pump(route=route(first_event=10)) for _ in range(2))
    await early.upstream.send(EVENT)
    await late.upstream.send(chunked(b": connected\n\n"))
    await stage.later(10)
    await late.ended(Cause.SILENT)
    await stage.later(100)
    assert not early.done.is_set()


async def test_the_age_limit_says_farewell(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(route=route(max_age=100))
    await pumped.upstream.send(EVENT + chunked(b"data: half"))
    await pumped.client.until(EVENT)
    await stage.later(79)
    assert not pumped.done.is_set()
    await stage.later(21)
    await pumped.ended(Cause.MAX_AGE, Side.RELAY)
    out = await pumped.rest()
    assert out.startswith(b"d\r\nretry: ")
    assert out.endswith(LAST)


async def test_the_age_limit_inside_an_event_too_long_to_hold(
    mock_clock: MockClock, stage: Stage
) -> None:
    """1. Half of a long event is out. 2. The age limit comes. 3. The rest of the event, then the
    farewell."""
    pumped = stage.pump(route=route(max_age=100))
    half = chunked(b"data: " + b"x" * 200)
    await pumped.upstream.send(half)
    await pumped.client.until(half)
    await stage.later(100)
    assert not pumped.done.is_set()
    await pumped.upstream.send(chunked(b"y\n\n"))
    await pumped.client.until(chunked(b"y\n\n"))
    await pumped.ended(Cause.MAX_AGE, Side.RELAY)
    assert b"retry: " in await pumped.rest()


# -- how it ends
# -------------------------------------------------------------------------------------

DIALECTS = {
    "plain": b'data: {"type":"error","code":"upstream_broke"',
    "named": b'event: error\ndata: {"type":"error","code":"upstream_broke"',
    "openai": b'data: {"error":{',
    "anthropic": b'event: error\ndata: {"type":"error","error":{',
    "ai-sdk": b'data: {"type":"error","errorText":"',
    "off": b"",
}


@pytest.mark.parametrize("after_error", ["abort", "close"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("framing_out", [CHUNKED, UNTIL_CLOSE])
async def test_a_cut_inside_an_event(
    mock_clock: MockClock, stage: Stage, dialect: str, after_error: str, framing_out: int
) -> None:
    pumped = stage.pump(
        EventFlow(CHUNKED, framing_out, 100), route(dialect=dialect, after_error=after_error)
    )
    await pumped.upstream.send(EVENT + chunked(b'data: {"half": '))
    pumped.upstream.close()
    await pumped.ended(Cause.BROKE)
    out = await pumped.rest()
    if framing_out == CHUNKED:
        assert out.endswith(LAST) == (after_error == "close")
        out = dechunked(out)
    before, event, rest = out.partition(b"data: 1\n\n")
    assert (before, event) == (b"", b"data: 1\n\n")
    assert rest.startswith(DIALECTS[dialect])
    assert rest.count(b"\n\n") == (0 if dialect == "off" else 1)
    assert b"half" not in rest
    assert pumped.transfer.abort == (after_error == "abort")


async def test_a_cut_inside_an_event_too_long_to_hold(mock_clock: MockClock, stage: Stage) -> None:
    """Half of it is out already: whatever is added would become part of it."""
    pumped = stage.pump(route=route(after_error="close"))
    half = chunked(b"data: " + b"x" * 200)
    await pumped.upstream.send(half)
    pumped.upstream.close()
    await pumped.ended(Cause.BROKE)
    assert await pumped.rest() == half
    assert pumped.transfer.abort


async def test_a_clean_end_without_the_marker(mock_clock: MockClock, stage: Stage) -> None:
    flow = EventFlow(CHUNKED, CHUNKED, 100, Completion(b"[DONE]"))
    pumped = stage.pump(flow)
    await pumped.upstream.send(EVENT + LAST)
    await pumped.ended(Cause.TRUNCATED)
    out = await pumped.rest()
    assert out.startswith(EVENT)
    assert ERROR in out
    assert not out.endswith(LAST)
    assert b"[DONE]" not in out


async def test_a_clean_end_with_the_marker(mock_clock: MockClock, stage: Stage) -> None:
    flow = EventFlow(CHUNKED, CHUNKED, 100, Completion(b"[DONE]"))
    pumped = stage.pump(flow)
    done = chunked(b"data: [DONE]\n\n")
    await pumped.upstream.send(EVENT + done + LAST)
    await pumped.ended(Cause.COMPLETE)
    assert dechunked(await pumped.rest()) == b"data: 1\n\ndata: [DONE]\n\n"


async def test_nonsense_behind_whole_events(mock_clock: MockClock, stage: Stage) -> None:
    """What was whole before the nonsense arrives, in one read or in two."""
    pumped = stage.pump()
    await pumped.upstream.send(EVENT + b"zz\r\n")
    await pumped.ended(Cause.NONSENSE)
    out = dechunked(await pumped.rest())
    assert out.startswith(b"data: 1\n\n" + ERROR)


# -- what others ask
# ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("cause", [Cause.STOPPED, Cause.DRAINED])
async def test_asked_to_end(mock_clock: MockClock, stage: Stage, cause: Cause, method: str) -> None:
    """A reader that reconnects by itself gets a farewell; a POST is not repeated, so it is told."""
    pumped = stage.pump()
    pumped.record.method = method
    await pumped.upstream.send(EVENT + chunked(b"data: half"))
    await pumped.client.until(EVENT)
    await stage.quiet()
    pumped.transfer.ask(cause)
    await pumped.ended(cause, Side.RELAY)
    out = await pumped.rest()
    if cause is Cause.DRAINED and method == "GET":
        assert b"retry: " in out
        assert out.endswith(LAST)
    else:
        assert ERROR in out
        assert pumped.transfer.abort
    assert b"half" not in out


async def test_asked_to_end_a_body(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(BytesFlow(CHUNKED, CHUNKED, "upstream"))
    await stage.quiet()
    pumped.transfer.ask(Cause.STOPPED)
    await pumped.ended(Cause.STOPPED, Side.RELAY)
    assert await pumped.rest() == b""
    assert pumped.transfer.abort


async def test_asked_inside_an_event_too_long_to_hold(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    half = chunked(b"data: " + b"x" * 200)
    await pumped.upstream.send(half)
    await pumped.client.until(half)
    await stage.quiet()
    pumped.transfer.ask(Cause.DRAINED)
    await stage.quiet()
    assert not pumped.done.is_set()
    await pumped.upstream.send(chunked(b"y\n\n"))
    await pumped.ended(Cause.DRAINED, Side.RELAY)
    out = await pumped.rest()
    assert out.startswith(chunked(b"y\n\n"))
    assert b"retry: " in out


async def test_asked_before_the_pump_runs(mock_clock: MockClock, stage: Stage) -> None:
    pumped = Pumped(stage, EventFlow(CHUNKED, CHUNKED, 100), SILENT_ROUTE)
    stage.pumps.append(pumped)
    pumped.transfer.ask(Cause.DRAINED)
    stage.nursery.start_soon(pumped.run)
    await pumped.ended(Cause.DRAINED, Side.RELAY)


async def test_asked_while_the_client_takes_nothing(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    await stage.quiet()
    pumped.fill()
    await pumped.upstream.send(EVENT)
    await stage.quiet()
    assert pumped.transfer.paused
    pumped.transfer.ask(Cause.DRAINED)
    await stage.quiet()
    await pumped.drain_filling()
    await pumped.ended(Cause.DRAINED, Side.RELAY)
    out = await pumped.rest()
    assert out.startswith(EVENT)
    assert out.endswith(LAST)


# -- a flood of small reads: the upstream is heard of once a millisecond
# ----------------------------------------------------------------------


def _event(number: int) -> bytes:
    return chunked(b"data: %d\n\n" % number)


async def _flood(stage: Stage, pumped: Pumped) -> bytes:
    """Twice as many reads in a row as make a flood; what the client must get for them."""
    events = [_event(number) for number in range(2 * HURRIED)]
    for event in events:
        await pumped.upstream.send(event)
        await stage.quiet()
    return b"".join(events)


async def test_a_flood_arrives_whole_and_in_order(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    wanted = await _flood(stage, pumped)
    assert await pumped.client.exactly(len(wanted)) == wanted
    await pumped.upstream.send(LAST)
    await pumped.ended(Cause.COMPLETE)
    assert await pumped.rest() == LAST
    assert pumped.transfer.flow.events == 2 * HURRIED


async def test_what_comes_in_a_rest_of_a_flood_goes_out_together(mock_clock: MockClock) -> None:
    """1. Small reads follow each other closely, until the upstream's socket rests. 2. Two more events come: the engine
    looks at its sockets and does not hear of them. 3. The rest is over, and both go out."""
    async with _staged("epoll", mock_clock) as stage:
        pumped = stage.pump()
        await stage.quiet()
        far_end = pumped.upstream.stream.socket.fileno()
        events = [_event(number) for number in range(HURRIED + 2)]
        # Without an await in between: the engine's own task has no turn, so no rest ends.
        for event in events[:-1]:
            os.write(far_end, event)
            stage.engine.look()
        sent = pumped.transfer.sent
        assert sent == sum(map(len, events[:-1]))
        for event in (events[-1], LAST):
            os.write(far_end, event)
            stage.engine.look()
            assert pumped.transfer.sent == sent
        await pumped.ended(Cause.COMPLETE)
        assert await pumped.rest() == b"".join(events) + LAST


@pytest.mark.parametrize("seen_first", [True, False])
async def test_the_upstream_breaks_in_a_flood(
    mock_clock: MockClock, stage: Stage, seen_first: bool
) -> None:
    pumped = stage.pump()
    wanted = await _flood(stage, pumped)
    last = _event(99)
    await pumped.upstream.send(last)
    if seen_first:
        await stage.quiet()
    pumped.upstream.close()
    await pumped.ended(Cause.BROKE)
    assert (await pumped.rest()).startswith(wanted + last)


async def test_a_client_leaves_a_silent_stream(mock_clock: MockClock, stage: Stage) -> None:
    """1. The upstream says nothing. 2. The client hangs up: nothing is written that could fail, and nobody cancels. 3. The
    upstream is closed, and the pump has ended."""
    pumped = stage.pump()
    await stage.quiet()
    pumped.client.close()
    await pumped.ended(Cause.LEFT, Side.CLIENT)
    assert pumped.upstream_wire.closed
    assert pumped.client_wire.on_gone is None


async def test_a_client_leaves_while_it_is_written_to(mock_clock: MockClock, stage: Stage) -> None:
    """1. The client takes nothing, so a write waits. 2. It hangs up."""
    pumped = stage.pump()
    pumped.fill()
    await pumped.upstream.send(EVENT)
    await stage.quiet()
    assert pumped.transfer.paused
    pumped.client.close()
    await pumped.ended(Cause.LEFT, Side.CLIENT)
    assert pumped.upstream_wire.closed


async def test_a_client_has_left_before_the_pump_runs(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(run=False)
    pumped.client.close()
    await stage.quiet()
    await pumped.run()
    await pumped.ended(Cause.LEFT, Side.CLIENT)
    assert pumped.upstream_wire.closed


async def test_the_client_leaves_in_a_flood(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    await _flood(stage, pumped)
    await pumped.upstream.send(_event(99))
    pumped.client.close()
    await pumped.ended(Cause.LEFT, Side.CLIENT)


async def test_a_client_that_stops_reading_in_a_flood(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump()
    wanted = await _flood(stage, pumped)
    await pumped.client.exactly(len(wanted))
    pumped.fill()
    more = await _flood(stage, pumped)
    await pumped.drain_filling()
    assert await pumped.client.exactly(len(more)) == more


# -- a client that reads slowly
# ----------------------------------------------------------------------


async def test_backpressure(mock_clock: MockClock, stage: Stage) -> None:
    """What the client does not take is left in the upstream's kernel, but for one read."""
    pumped = stage.pump(BytesFlow(10_000_000, 10_000_000, "upstream"))
    await stage.quiet()
    pumped.fill()
    sent = 0
    sock = pumped.upstream.stream.socket
    raw = socket.socket(fileno=sock.fileno())
    try:
        for _ in range(50):
            try:
                sent += raw.send(bytes(65536), socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            await stage.quiet()
    finally:
        raw.detach()
    assert pumped.transfer.paused
    assert pumped.transfer.flow.payload_bytes <= 2 * 65536
    assert sent < 1_000_000
    await pumped.drain_filling()
    await pumped.client.exactly(sent)


async def test_a_client_that_stops_reading(mock_clock: MockClock, stage: Stage) -> None:
    pumped = stage.pump(route=route(timeouts={"write": 30}))
    await stage.quiet()
    pumped.fill()
    await pumped.upstream.send(EVENT)
    await stage.later(29)
    assert not pumped.done.is_set()
    await stage.later(1)
    await pumped.ended(Cause.STALLED, Side.CLIENT)


async def test_a_body_is_complete_when_it_is_delivered(mock_clock: MockClock, stage: Stage) -> None:
    """1. The upstream's body is whole. 2. The client has not taken it. 3. It never does."""
    pumped = stage.pump(BytesFlow(5, 5, "upstream"), route(timeouts={"write": 30}))
    await stage.quiet()
    pumped.fill()
    await pumped.upstream.send(b"12345")
    await stage.later(30)
    await pumped.ended(Cause.STALLED, Side.CLIENT)
    assert pumped.transfer.abort


async def test_a_client_that_leaves_before_the_last_bytes(
    mock_clock: MockClock, stage: Stage
) -> None:
    pumped = stage.pump(BytesFlow(5, 5, "upstream"))
    await stage.quiet()
    pumped.fill()
    await pumped.upstream.send(b"12345")
    await stage.quiet()
    pumped.client.close()
    await pumped.ended(Cause.LEFT, Side.CLIENT)


async def test_the_time_a_client_does_not_read_is_not_the_upstreams(
    mock_clock: MockClock, stage: Stage
) -> None:
    pumped = stage.pump(route=route(timeouts={"idle": 20}))
    await stage.quiet()
    pumped.fill()
    await stage.later(15)
    await pumped.upstream.send(EVENT)
    await stage.later(25)
    assert not pumped.done.is_set()
    await pumped.drain_filling()
    await stage.later(19)
    assert not pumped.done.is_set()
    await stage.later(1)
    await pumped.ended(Cause.SILENT)


@pytest.mark.parametrize("clock", ["max_age", "idle"])
async def test_a_clock_runs_out_while_the_client_takes_nothing(
    mock_clock: MockClock, stage: Stage, clock: str
) -> None:
    """1. The client takes nothing. 2. A clock of the stream runs out. 3. The worker lives on, and
    the
    write deadline ends the stream."""
    times = {"write": 300.0} | ({"idle": 50.0} if clock == "idle" else {})
    ages = {"max_age": 50.0} if clock == "max_age" else {}
    pumped = stage.pump(route=route(timeouts=times, **ages))
    other = stage.pump()
    await stage.quiet()
    pumped.fill()
    await (pumped.upstream.send(EVENT) if clock == "max_age" else stage.quiet())
    await stage.later(51)
    await stage.later(200)
    await other.upstream.send(EVENT)
    await other.client.until(EVENT)
    await stage.later(100)
    await pumped.done.wait()


# -- faults and cancellation
# -------------------------------------------------------------------------


class Faulty(EventFlow):
    """A flow with a bug."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        raise ZeroDivisionError

    def inject(self, events: bytes) -> bytes | None:
        raise ZeroDivisionError


@pytest.mark.parametrize("step", ["read", "clock"])
async def test_a_fault_in_a_step_ends_one_stream_alone(
    mock_clock: MockClock, stage: Stage, step: str
) -> None:
    broken = stage.pump(Faulty(CHUNKED, CHUNKED, 100), route(heartbeat=15))
    sound = stage.pump()
    if step == "read":
        await broken.upstream.send(EVENT)
    else:
        await stage.later(15)
    await broken.done.wait()
    assert broken.crash is not None
    await sound.upstream.send(EVENT)
    await sound.client.until(EVENT)


@pytest.mark.parametrize("blocked", [False, True])
async def test_cancellation_leaves_both_wires_open_and_alone(
    mock_clock: MockClock, stage: Stage, blocked: bool
) -> None:
    pumped = stage.pump()
    await stage.quiet()
    if blocked:
        pumped.fill()
        await pumped.upstream.send(EVENT)
        await stage.quiet()
        assert pumped.transfer.paused
    pumped.scope.cancel()
    await pumped.done.wait()
    assert pumped.transfer.ending is None
    for wire in (pumped.upstream_wire, pumped.client_wire):
        assert not wire.closed
        hooks = (wire.on_readable, wire.on_writable, wire.on_gone, wire.owner)
        assert hooks == (None, None, None, None)
    await pumped.upstream.send(b"more")
    await stage.quiet()
    assert pumped.upstream_wire.recv_nowait() == b"more"


def dechunked(data: bytes) -> bytes:
    """The payload of chunks, the last one included or not."""
    out = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        assert data[size : size + 2] == b"\r\n"
        out, data = out + data[:size], data[size + 2 :]
    return out
