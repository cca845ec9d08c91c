"""A feed: the exchange of a run, whose client is a log.

    frozen request ─► source ─► Reply ─┬─ 200 event stream ─► Intake ─► LogWire ─► EventLog ─► the run's viewers
                                       └─ anything else ─► those who wait for it, as it is

A task of the worker, not of any client. Who can cancel it: `stop` (a DELETE, nobody watching, the drain), in every phase;
the upstream's connection is closed on the way out, and the run is sealed before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import uniform
from typing import TYPE_CHECKING, Final

import trio

from relay.config.values import Route
from relay.exchange import refusal
from relay.exchange.body_flow import capture_of, kept_flow
from relay.exchange.channel_wire import ChannelWire
from relay.exchange.epoll_pump import EpollPump
from relay.exchange.run_request import FrozenRequest, RunRequest
from relay.exchange.transfer import Transfer
from relay.exchange.trio_pump import TrioPump
from relay.feeds.asking import CURSOR_FIELD
from relay.feeds.endings import bad_end, ended_by_us
from relay.feeds.log_wire import LogWire
from relay.feeds.run import Run
from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.http.fault import Fault
from relay.http.fields import HOP_BY_HOP
from relay.http.framing import UNTIL_CLOSE
from relay.http.names import barred
from relay.observing.ending import COMPLETE, Cause, Ending, Phase
from relay.observing.lines import RunFigures
from relay.observing.record import Record
from relay.sources.call import read_whole
from relay.sources.reply import Failure, Reply
from relay.stores.store import Answer
from relay.wires.client_wire import on_engine

if TYPE_CHECKING:
    from relay.exchange.worker import RouteState, Worker

logger = logging.getLogger("relay")

SHARED: Final = 64 * 1024  # bytes of an answer that is no stream, for those who joined meanwhile
_SHARED_WITHIN: Final = 30.0  # seconds in which it must be whole
_FIRST_PAUSE: Final = 0.25  # seconds before a broken upstream is asked again; doubled, jittered
_LONGEST_PAUSE: Final = 10.0

# Of one client, or of one moment: not for those who come later.
_ONE_READERS: Final = barred(
    b"set-cookie vary date age etag location x-request-id retry-after cache-control x-accel-buffering"
    b" content-type content-length content-encoding content-digest repr-digest digest content-md5 expires pragma"
    b" last-modified accept-ranges content-range trailer relay-run incremental".split()
    + list(HOP_BY_HOP),
    (b"access_control_", b"ratelimit", b"x_ratelimit"),
)


class Feed:
    """One run under way.

    Attributes:
        ask: the request, for its source.
        cookies: those of the response, for the client that began the run.
        others: how many wait for the head beside that client.
        reply: what the source brought, where that is no event stream; see `take`.
    """

    __slots__ = (
        "_completed",
        "_failure",
        "_nursery",
        "_reply_taken",
        "_scope",
        "_state",
        "ask",
        "cookies",
        "others",
        "reply",
        "run",
        "worker",
    )

    def __init__(self, worker: Worker, state: RouteState, request: FrozenRequest) -> None:
        self.worker = worker
        self.ask = RunRequest(worker, state, request)
        self.run: Run | None = None
        self.reply: Reply | None = None
        self.cookies: Fields = []
        self.others = 0
        self._state = state
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._reply_taken = trio.Event()
        self._completed = False  # the source's completion marker was seen
        self._failure: Failure | Fault | None = None

    @property
    def route(self) -> Route:
        return self._state.route

    @property
    def record(self) -> Record:
        return self.ask.record

    @property
    def committed(self) -> trio.Event:
        return self.ask.committed

    # -- its life ------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Ask the source, and keep what it brings until it ends. Never raises but for cancellation."""
        run = self.run
        assert run is not None
        ending = ended_by_us(Cause.LOST, self.ask.phase)
        try:
            with self._scope:
                ending = await self._bring(run)
        except Exception:
            logger.exception("a fault of relay's own; it cost this run alone")
            ending = ended_by_us(Cause.FAULT, self.ask.phase)
        finally:
            self._seal(ending)
            run.decided.set()
            if self.reply is not None and not self._reply_taken.is_set():
                _release(self.reply)
            self._log()

    def stop(self, cause: Cause) -> None:
        """End the run now: sealed when this returns; the upstream is closed with the next turn of the loop."""
        if self.run is not None and self.run.under_way:
            self._seal(ended_by_us(cause, self.ask.phase))
        assert self.run is not None
        self.run.decided.set()
        self._scope.cancel()

    async def _bring(self, run: Run) -> Ending:
        async with trio.open_nursery() as self._nursery:
            reply = await self._asked()
            if run.ending is not None:  # stopped in the step in which the head came: too late
                _release(reply)
                ending = run.ending
            elif reply.events and reply.status == 200:
                await self._begin_stream(run, reply)
                ending = await self._streamed(reply)
                ending = await self._reconnected(run, ending)
            else:
                ending = await self._not_a_stream(run, reply)
            self._nursery.cancel_scope.cancel()
        return ending

    async def _asked(self) -> Reply:
        self._failure = None
        try:
            return await self._state.bring(self.ask)
        except Failure as failure:
            self._failure = failure
            return refusal.of_failure(failure, self.ask.phase)
        except Fault as fault:
            self._failure = fault
            return refusal.of_fault(fault, self.ask.phase)

    # -- an event stream -----------------------------------------------------------------------------------------

    async def _begin_stream(self, run: Run, reply: Reply) -> None:
        """The head is there: the key moves, and everybody who waits begins to read."""
        fields = reply.head.fields if reply.head is not None else reply.fields
        named = reply.head.connection if reply.head is not None else frozenset()
        dropped = _ONE_READERS.and_named(named)
        if run.resume.handle != "location":
            dropped = dropped.and_named((b"content-location",))
        run.fields = [field for field in fields if not dropped.bars(field[0])]
        self.cookies = [field for field in fields if field[0] == b"set-cookie"]
        self.ask.phase = Phase.BODY
        run.capture = self.record.capture = capture_of(reply, self.route)
        self.worker.feeds.book.head(run)
        if run.journal is not None:
            try:
                await run.journal.head(run.fields)
            except BaseException:  # stopped meanwhile: nobody takes the body
                _release(reply)
                raise
        run.decided.set()

    async def _streamed(self, reply: Reply) -> Ending:
        """The stream, to its end. The body is released, whatever happens."""
        run, body = self.run, reply.upstream
        assert run is not None and self._nursery is not None
        now = trio.current_time()
        framing = body.framing if body is not None else UNTIL_CLOSE
        flow = kept_flow(reply, self.route, self.record, framing)
        transfer = Transfer(flow, self.route, self.ask.record, self._state.counters, now)
        log = LogWire(run)
        try:
            if body is None:
                wire = ChannelWire.produced_by(
                    lambda send: self._produced(reply, send), self._nursery
                )
                await TrioPump(transfer, wire, log, self.worker.alarms).run()
            else:
                first, body.first = body.first, b""
                out = transfer.data(first, now) if first or flow.done else b""
                log.send_nowait(out)
                if transfer.ending is None:
                    if on_engine(body.wire):
                        await EpollPump(
                            transfer, body.wire, log, self.worker.engine, self.worker.alarms
                        ).run()
                    else:
                        await TrioPump(transfer, body.wire, log, self.worker.alarms).run()
                if transfer.ending is COMPLETE and flow.reader.done and not flow.surplus:
                    body.lease.answer_whole()
        finally:
            self._completed = flow.completed
            if body is not None:
                body.release()
            unfinished, reply.on_unfinished = reply.on_unfinished, None
            if unfinished is not None and transfer.ending is not COMPLETE:
                unfinished()
        ending = transfer.ending
        assert ending is not None
        return (ending is COMPLETE and reply.ending) or ending

    async def _produced(self, reply: Reply, send: Callable[[bytes], Awaitable[None]]) -> None:
        assert reply.produce is not None
        reply.ending = await reply.produce(send)

    async def _reconnected(self, run: Run, ending: Ending) -> Ending:
        """Ask a broken upstream again, behind the last id that it gave, as often as the route says."""
        pause, asked = _FIRST_PAUSE, self.ask.head
        for _ in range(run.resume.reconnect):
            if ending.cause not in (Cause.BROKE, Cause.SILENT) or run.upstream_id is None:
                return ending
            await trio.sleep(pause * uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PAUSE)
            fields = [field for field in asked.fields if field[0] != CURSOR_FIELD]
            if run.upstream_id:
                fields.append((CURSOR_FIELD, run.upstream_id))
            self.ask.head = replace(asked, fields=fields)
            reply = await self._asked()
            if reply.events and reply.status == 200:
                self.ask.phase = Phase.BODY
                before = run.last
                ending = await self._streamed(reply)
                if run.last > before:
                    pause = _FIRST_PAUSE
            else:
                _release(reply)
        return ending

    # -- anything else -------------------------------------------------------------------------------------------

    async def _not_a_stream(self, run: Run, reply: Reply) -> Ending:
        """It goes to those who wait: to one alone as it is, to several as a copy of at most SHARED bytes."""
        ending = reply.ending or COMPLETE
        if (self.others or run.elsewhere) and reply.upstream is not None:
            reply = await self._copied(reply)
        if run.elsewhere and run.journal is not None and run.under_way:
            answer = Answer(reply.status, reply.fields, reply.body)
            run.journal.seal(End(clean=True), ending, answer)
        self.reply = reply
        self.worker.feeds.book.forget(run)
        run.decided.set()
        if run.viewers and (reply.upstream is not None or reply.produce is not None):
            await self._reply_taken.wait()  # the last of them who leaves instead stops the run
        return ending

    async def _copied(self, reply: Reply) -> Reply:
        body, head = reply.upstream, reply.head
        assert body is not None and head is not None
        try:
            with self.worker.alarms.within(_SHARED_WITHIN):
                payload = await read_whole(body, SHARED)
                dropped = HOP_BY_HOP | head.connection | {b"set-cookie", b"content-length"}
                fields = [field for field in head.fields if field[0] not in dropped]
                return Reply(head.status, fields, body=payload)
        except Failure as failure:
            return refusal.of_failure(failure, self.ask.phase)
        late = Failure(504, Cause.SILENT, "the upstream's answer did not come to its end")
        return refusal.of_failure(late, self.ask.phase)

    def take(self) -> Reply:
        """The reply, for one who waited for a stream. A body in it is now the taker's to release.

        Raises: Failure, Fault: what the source raised.
        """
        assert self.reply is not None
        if self._failure is not None:
            raise self._failure
        self._reply_taken.set()
        return self.reply

    # -- the end -------------------------------------------------------------------------------------------------

    def _seal(self, ending: Ending) -> None:
        """Put down the end of the run, once: what every reader is told, now and later."""
        run = self.run
        assert run is not None
        if not run.under_way:
            return
        if ending.clean:
            run.seal(End(clean=True, over=self._completed), ending)
            return
        run.seal(bad_end(self.route, run.id, ending), ending)

    def _log(self) -> None:
        run, log = self.run, self.worker.log
        assert run is not None
        self._state.counters.capture(self.record)
        if log is not None and run.fields is not None and run.ending is not None:
            figures = RunFigures(
                run.shown, run.last, run.log.total, run.most_viewers, run.unwatched_seconds
            )
            now = trio.current_time()
            log.write(self.worker.lines.run(self.record, run.ending, now, figures))


def _release(reply: Reply) -> None:
    """Release a reply that nobody takes."""
    if reply.upstream is not None:
        reply.upstream.release()
    unfinished, reply.on_unfinished = reply.on_unfinished, None
    if unfinished is not None:
        unfinished()
