"""A request on a resumable route: it begins a run, or reads one, or stops it.

    principal, key, cursor ─► decide ─┬─ begin ─► a Feed ─┬─ 200 event stream ─► a view
                                      ├─ view of a run ───┘└─ anything else ─► as it is
                                      └─ 204 · 404 · 429 · a stream that only says why

Rules
  * What decides is feeds.decisions; here its outcome becomes a Reply, as a source's would.
  * Who waits for a head counts as a viewer of the run. `Viewing.release` is how each of them leaves, once, whatever happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from relay.exchange import refusal
from relay.exchange.client_head import NO_STORE
from relay.exchange.client_side import ClientSide
from relay.exchange.feed import Feed as Begun
from relay.exchange.looking import json_in, look
from relay.exchange.run_request import FrozenRequest, frozen_head
from relay.exchange.viewing import Shown, Viewing
from relay.feeds.asking import (
    address,
    key_in_path,
    key_of,
    principal_of,
    read_cursor_of,
    request_hash,
)
from relay.feeds.cursors import Cursor
from relay.feeds.decisions import Outcome, Policy, Question, What, decide
from relay.feeds.feeds import Feed
from relay.feeds.run import Run
from relay.http.bodies import Fields
from relay.http.fault import Fault
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.subject import Values
from relay.routing.template import query_value
from relay.sources.own_events import last_word
from relay.sources.reply import Reply
from relay.sse.dialects import HEARTBEAT_LINE, WITH_FAILURE, gap_event
from relay.wires.wire import Expired, Gone

_STREAM: Final[Fields] = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
    (b"incremental", b"?1"),  # RFC 10036: each part is of use as it comes
]
_SAID: Final = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE)
_CROWDED: Final = "5"  # seconds until one more viewer may find room


@dataclass(frozen=True, slots=True)
class Place:
    """What a request asks of the streams of its route.

    Attributes:
        owner: the principal, hashed.
        key: as the operator and the address call it; None: the run's own.
        question: for `decide`.
    """

    owner: bytes
    key: str | None
    question: Question
    payload: bytes


async def resumed(exchange: ClientSide) -> Reply:
    """What a request on a resumable route, or on a stream's own address, gets. Raises: Failure, Fault."""
    cursor, exchange.head = read_cursor_of(exchange.head)  # whoever asks the source does so without
    place = await _place(exchange, cursor)
    if place is None:
        return await _not_looked_at(exchange, cursor)
    if exchange.head.method == b"DELETE" and place.question.at:
        return _stopped(exchange, place)
    route = exchange.route
    assert route.resume is not None
    book = exchange.worker.feeds.book
    policy = Policy(
        route.resume.repeats,
        route.resume.live_only,
        route.dialect not in WITH_FAILURE,
        route.resume.viewers,
    )
    outcome = decide(policy, book.shelf(route, place.owner), place.question)
    if exchange.head.method == b"HEAD":
        return await _head_only(exchange, place, outcome)
    if outcome.what in (What.BEGIN, What.VIEW) and (crowded := exchange.take_place()) is not None:
        return crowded  # before anything runs that nobody would read
    if outcome.what is What.BEGIN:
        return await _begun(exchange, place, hole=outcome.gap)
    if outcome.what is What.VIEW:
        assert outcome.run is not None
        return await _joined(exchange, place, outcome.run, outcome.after, hole=outcome.gap)
    return _said(exchange, place, outcome)


async def _place(exchange: ClientSide, cursor: Cursor | None) -> Place | None:
    """Whose, which, and behind what. None: the body is too large to be looked at, so the stream is the client's alone."""
    head, route, state = exchange.head, exchange.route, exchange.state
    resume = route.resume
    assert resume is not None and state is not None
    granted = exchange.granted.fields if exchange.granted is not None else ()
    principal = principal_of(resume, Values(fields=head.fields, auth=granted))
    payload = await look(exchange, resume.max_body)
    if payload is None:
        return None
    wants_json = resume.key is not None and resume.key.reads_json
    values = Values(
        params=exchange.params,
        query=head.query,
        payload=payload,
        body=await json_in(payload, exchange.threads.json) if wants_json else None,
        fields=head.fields,
        auth=granted,
    )
    book = exchange.worker.feeds.book
    owner = book.hashed("owner", *principal)
    key = key_in_path(exchange.params["key"]) if state.at else key_of(resume, values)
    question = Question(
        get=head.method in (b"GET", b"HEAD"),
        at=state.at,
        key=None if key is None else book.key(route, owner, key),
        request=request_hash(head.method, head.path, head.query, payload),
        cursor=cursor,
    )
    return Place(owner, key, question, payload)


async def _not_looked_at(exchange: ClientSide, cursor: Cursor | None) -> Reply:
    """A body over `max_body`: whose request it repeats cannot be told. It is forwarded as on any route, unless it can only
    be about a stream that is there already. Raises: Failure, Fault."""
    assert exchange.state is not None
    if exchange.state.at:
        raise Fault("client", 413, "body_too_large", "the request body is over the limit")
    if cursor is not None and exchange.head.method not in (b"GET", b"HEAD"):
        return _gone(exchange)
    return await exchange.state.bring(exchange)


# -- begin, join -------------------------------------------------------------------------------------------------


async def _begun(exchange: ClientSide, place: Place, *, hole: bool) -> Reply:
    """Ask the source; this client is the first viewer, or gets what is no stream."""
    worker, state = exchange.worker, exchange.state
    assert state is not None
    feed = Begun(worker, state, _frozen(exchange, place))
    get = exchange.head.method == b"GET"
    keyed = place.key is not None or exchange.route.resume.principal is not None  # type: ignore[union-attr]
    whose = place.owner if keyed else worker.feeds.book.hashed("client", exchange.record.client)
    feed.run = run = worker.feeds.book.begin(
        exchange.route,
        place.owner,
        place.key,
        place.question.request,
        get=get,
        whose=whose,
        stop=feed.stop,
    )
    worker.feeds.start(feed)
    return await _joined(exchange, place, run, 0, hole=hole, feed=feed)


async def _joined(
    exchange: ClientSide,
    place: Place,
    run: Run,
    after: int,
    *,
    hole: bool,
    feed: Feed | None = None,
) -> Reply:
    """A view of `run`, as soon as its head is there. `feed`: this client began it."""
    began, cursor = feed is not None, place.question.cursor
    feed = feed or exchange.worker.feeds.of(run)
    viewing = Viewing(run, after, hole, cursor.text if cursor is not None else "")
    run.enter()
    if not began and feed is not None:
        feed.others += 1
    given = False
    try:
        await _until_decided(exchange, place, run, feed)
        if run.fields is None:
            return _no_stream(exchange, run, feed)
        fields = _viewer_fields(exchange, place, run)
        if began and feed is not None:
            fields += feed.cookies
            how = "begin"
        elif cursor is not None:
            how = "resume"
        else:
            how = "join" if run.under_way else "replay"
        exchange.record.watches(run.shown, how, after)
        exchange.record.capture = run.capture
        assert exchange.state is not None
        joins = exchange.state.counters.joins
        joins[how] = joins.get(how, 0) + 1
        given = True
        return Shown(200, fields, viewing=viewing)
    finally:
        if not given:
            viewing.release()


async def _until_decided(exchange: ClientSide, place: Place, run: Run, feed: Feed | None) -> None:
    """Wait for the head of the run. A source that wants the head of the stream out before has its way."""
    if run.decided.is_set() or feed is None:
        await trio.lowlevel.checkpoint_if_cancelled()
        return
    if exchange.nursery is None:  # a GET that is there already: its source never commits
        await run.decided.wait()
        return
    lost: Gone | Expired | None = (
        None  # a value until the nursery is closed: only bugs leave it as a group
    )
    async with trio.open_nursery() as waiting:

        async def committed() -> None:
            nonlocal lost
            await feed.committed.wait()
            exchange.early_fields = _viewer_fields(exchange, place, run)
            try:
                await exchange.commit()
            except (Gone, Expired) as error:
                lost = error.with_traceback(None)
                waiting.cancel_scope.cancel()

        waiting.start_soon(committed)
        await run.decided.wait()
        waiting.cancel_scope.cancel()
    if lost is not None:
        raise lost


def _no_stream(exchange: ClientSide, run: Run, feed: Feed | None) -> Reply:
    """The source brought something else, or the run was stopped before its head."""
    if run.ending is not None and run.ending.cause in (Cause.STOPPED, Cause.UNWATCHED, Cause.LOST):
        if exchange.head.method == b"GET" and run.ending.cause is Cause.STOPPED:
            return _nothing(exchange)
        end = run.log.end
        return _words(exchange, end.last_words if end is not None else b"", abort=False)
    if exchange.state is not None and exchange.state.at:
        return _missing(exchange)
    assert feed is not None
    return feed.take()


def _frozen(exchange: ClientSide, place: Place) -> FrozenRequest:
    """The request as it will be asked, now and perhaps again: whole."""
    size = None if exchange.body is None else len(place.payload)
    return FrozenRequest(
        frozen_head(exchange.head, size),
        exchange.params,
        place.payload,
        exchange.view,
        exchange.record.id,
        exchange.record.client,
        exchange.trace,
        exchange.granted,
    )


# -- what is said without a view ---------------------------------------------------------------------------------


def _said(exchange: ClientSide, place: Place, outcome: Outcome[Run]) -> Reply:
    what, route = outcome.what, exchange.route
    assert route.resume is not None
    if what is What.NO_CONTENT:
        return _nothing(exchange)
    if what is What.MISSING:
        return _missing(exchange)
    if what is What.TOO_MANY:
        ending = Ending(Side.RELAY, Phase.ROUTE, Cause.SHED, "too many viewers of one run")
        reply = refusal.refuse(
            429, "too_many_viewers", "too many read this stream just now", ending
        )
        reply.fields.append((b"retry-after", _CROWDED.encode()))
        return reply
    if what is What.END:
        assert outcome.run is not None and outcome.run.log.end is not None
        end = outcome.run.log.end
        reply = _words(exchange, end.last_words, abort=end.abort, ending=outcome.run.ending)
        reply.fields = _viewer_fields(exchange, place, outcome.run)
        return reply
    if what is What.DONE:
        return _words(exchange, HEARTBEAT_LINE)
    if what is What.GONE:
        return _gone(exchange)
    cursor = place.question.cursor
    block, _ = gap_event(route.dialect, cursor.text if cursor is not None else "", "")
    return _words(exchange, block)


def _words(
    exchange: ClientSide, block: bytes, *, abort: bool = False, ending: Ending | None = None
) -> Reply:
    """A stream that says one thing and ends."""
    return Shown(
        200,
        [*_STREAM, NO_STORE],
        words=block or HEARTBEAT_LINE,
        abort=abort,
        ending=ending or _SAID,
    )


def _gone(exchange: ClientSide) -> Reply:
    """What nobody can go on with, and what is not begun again by asking for it."""
    words = last_word(
        exchange.route, "run_gone", "this stream is not kept any more", retryable=True
    )
    return _words(exchange, words)


def _nothing(exchange: ClientSide) -> Reply:
    """204, which tells an EventSource not to come back; LangGraph's SDK throws at it."""
    resume = exchange.route.resume
    assert resume is not None
    if resume.handle == "location" and exchange.head.method == b"GET":
        return _words(exchange, HEARTBEAT_LINE)
    return Reply(204, [NO_STORE], ending=_SAID)


def _missing(exchange: ClientSide) -> Reply:
    resume = exchange.route.resume
    assert resume is not None
    if resume.live_only:
        return _nothing(exchange)
    ending = Ending(Side.CLIENT, Phase.ROUTE, Cause.REFUSED)
    return refusal.refuse(404, "no_stream", "there is no such stream", ending)


async def _head_only(exchange: ClientSide, place: Place, outcome: Outcome[Run]) -> Reply:
    """HEAD never begins a run, and is no viewer."""
    if outcome.what is What.VIEW and outcome.run is not None:
        await trio.lowlevel.checkpoint()
        return Reply(200, _viewer_fields(exchange, place, outcome.run))
    if outcome.what is What.BEGIN:
        assert exchange.state is not None
        return await exchange.state.bring(exchange)
    return _said(exchange, place, outcome)


# -- stop --------------------------------------------------------------------------------------------------------


def _stopped(exchange: ClientSide, place: Place) -> Reply:
    """DELETE: everything under way below the key is sealed when this returns."""
    resume = exchange.route.resume
    assert resume is not None and place.question.key is not None
    if not resume.stop:
        return refusal.method_not_allowed((b"GET", b"HEAD"))
    book = exchange.worker.feeds.book
    wanted = query_value(exchange.head.query, "run")
    below = [run for run in book.below(place.question.key) if wanted in (None, run.id.encode())]
    if not below:
        return _missing(exchange)
    assert exchange.state is not None
    for run in below:
        exchange.state.counters.stops += run.under_way
        run.stop(Cause.STOPPED)
    return Reply(204, [NO_STORE], ending=_SAID)


# -- fields ------------------------------------------------------------------------------------------------------


def _viewer_fields(exchange: ClientSide, place: Place, run: Run) -> Fields:
    """The head of a view: the upstream's fields that are everybody's, and what a reader needs to come back."""
    return [
        *_STREAM,
        *(run.fields or ()),
        NO_STORE,
        (b"relay-run", run.id.encode()),
        *_handle(exchange, run, place.key),
    ]


def _handle(exchange: ClientSide, run: Run, key: str | None) -> Fields:
    """Where this stream is joined, resumed and stopped."""
    resume = exchange.route.resume
    assert resume is not None
    if resume.at is None:
        return []
    name = b"location" if resume.handle == "location" else b"content-location"
    return [(name, address(resume.at, run.id if key is None else key))]
