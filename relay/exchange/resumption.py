"""A request on a resumable route: it begins a run, or reads one, or stops it.

    principal, key, cursor ─► decide ─┬─ begin ─► a Feed ─┬─ 200 event stream ─► a view
                                      ├─ view of a run ───┘└─ anything else ─► as it is
                                      └─ 204 · 404 · 429 · a stream that only says why

Rules
  * What decides is feeds.decisions; here its outcome becomes a Reply, as a source's would.
  * Who waits for a head counts as a viewer of the run. `Viewing.release` is how each of them leaves, once, whatever happens.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.exchange import refusal
from relay.exchange.body_peek import json_in, look
from relay.exchange.client_head import NO_STORE
from relay.exchange.client_side import ClientSide
from relay.exchange.feed import Feed as Begun
from relay.exchange.run_request import FrozenRequest, frozen_head
from relay.exchange.stream_answers import (
    SAID,
    Place,
    gone,
    missing,
    nothing,
    only_words,
    said,
    viewer_fields,
)
from relay.exchange.viewing import Shown, Viewing
from relay.feeds.asking import (
    key_in_path,
    key_of,
    principal_of,
    read_cursor_of,
    request_hash,
)
from relay.feeds.cursors import Cursor
from relay.feeds.decisions import Outcome, Policy, Question, What, decide
from relay.feeds.elsewhere import AnyRun, Elsewhere
from relay.feeds.feeds import Feed
from relay.feeds.mirror import Mirror
from relay.feeds.run import Run
from relay.http.fault import Fault
from relay.observing.ending import Cause, Phase
from relay.routing.subject import Values
from relay.routing.template import query_value
from relay.sources.reply import Failure, Reply
from relay.sse.dialects import WITH_FAILURE
from relay.stores.store import Journal, Known
from relay.wires.wire import Expired, Gone

# What may end a run that has no head; any other end is an answer, which the feed has.
_BEFORE_ITS_HEAD: Final = (Cause.STOPPED, Cause.UNWATCHED, Cause.LOST, Cause.FAULT)
_LOOKS: Final = 4  # at most: what was found has gone in the meantime each time


async def resumed(exchange: ClientSide) -> Reply:
    """What a request on a resumable route, or on a stream's own address, gets. Raises: Failure, Fault."""
    cursor, exchange.head = read_cursor_of(exchange.head)  # whoever asks the source does so without
    place = await _place(exchange, cursor)
    if place is None:
        return await _not_looked_at(exchange, cursor)
    if exchange.head.method == b"DELETE" and place.question.at:
        return await _stopped(exchange, place)
    route = exchange.route
    assert route.resume is not None
    feeds = exchange.worker.feeds
    policy = Policy(
        route.resume.repeats,
        route.resume.live_only,
        route.dialect not in WITH_FAILURE,
        route.resume.viewers,
    )
    if feeds.elsewhere is None:
        outcome: Outcome[AnyRun] = decide(
            policy, feeds.book.shelf(route, place.owner), place.question
        )
        return await _given(exchange, place, outcome)
    shelf = await feeds.elsewhere.looked(route, place.owner, place.question)
    for _ in range(_LOOKS):
        outcome = decide(policy, shelf, place.question)
        if outcome.what is not What.VIEW or not isinstance(outcome.run, Known):
            return await _given(exchange, place, outcome)
        async with feeds.elsewhere.held(outcome.run, route) as mirror:
            if mirror is not None:
                outcome = decide(policy, shelf, place.question)  # with all that it has
                if outcome.what is not What.VIEW or outcome.run is mirror:
                    return await _given(exchange, place, outcome)
        shelf = await feeds.elsewhere.looked(route, place.owner, place.question)
    return missing(exchange)


async def _given(exchange: ClientSide, place: Place, outcome: Outcome[AnyRun]) -> Reply:
    """Do what was decided. Raises: Failure, Fault."""
    if exchange.head.method == b"HEAD":
        return await _head_only(exchange, place, outcome)
    if outcome.what in (What.BEGIN, What.VIEW) and (crowded := exchange.take_place()) is not None:
        return crowded  # before anything runs that nobody would read
    if outcome.what is What.BEGIN:
        return await _begun(exchange, place, hole=outcome.gap)
    if outcome.what is What.VIEW:
        assert isinstance(outcome.run, Run)
        return await _joined(exchange, place, outcome.run, outcome.after, hole=outcome.gap)
    return said(exchange, place, outcome)


async def _place(exchange: ClientSide, cursor: Cursor | None) -> Place | None:
    """Whose stream is asked for, which one, and behind which event.

    None: the body is too large to be looked at, so the stream is the client's alone.
    """
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
        request=book.hashed("request", request_hash(head.method, head.path, head.query, payload)),
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
        return gone(exchange)
    return await exchange.state.bring(exchange)


# -- begin, join -------------------------------------------------------------------------------------------------


async def _begun(exchange: ClientSide, place: Place, *, hole: bool) -> Reply:
    """Ask the source; this client is the first viewer, or gets what is no stream."""
    worker, state = exchange.worker, exchange.state
    assert state is not None
    journal = None
    if worker.feeds.elsewhere is not None:
        found = await _entered(exchange, place, worker.feeds.elsewhere)
        if isinstance(found, Run):
            return await _joined(exchange, place, found, 0, hole=hole)
        if isinstance(found, Known):
            async with worker.feeds.elsewhere.held(found, exchange.route) as mirror:
                if mirror is not None:
                    return await _joined(exchange, place, mirror, mirror.first - 1, hole=hole)
            return missing(exchange)
        journal = found
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
        journal=journal,
    )
    worker.feeds.start(feed)
    return await _joined(exchange, place, run, 0, hole=hole, feed=feed)


async def _entered(
    exchange: ClientSide, place: Place, elsewhere: Elsewhere
) -> Journal | Run | Known:
    """Enter a run in the store, so that whoever repeats the request elsewhere finds it; or the one that this repeats."""
    book, route = exchange.worker.feeds.book, exchange.route
    get = exchange.head.method == b"GET"
    card = book.card(route, place.owner, place.key, place.question.request, get=get)
    return await elsewhere.begin(card, route)


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
        fields = viewer_fields(exchange, place, run)
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
    """Wait for the head of the run. Where its source asks for an early head, the client gets one meanwhile."""
    if run.decided.is_set():
        await trio.lowlevel.checkpoint_if_cancelled()
        return
    # A GET that is there already: its source never commits
    if feed is None or exchange.nursery is None:
        await run.decided.wait()
        return
    # A value until the nursery is closed: only bugs leave it as a group
    lost: Gone | Expired | None = None
    async with trio.open_nursery() as waiting:

        async def committed() -> None:
            nonlocal lost
            await feed.committed.wait()
            exchange.early_fields = viewer_fields(exchange, place, run)
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
    end = run.log.end
    if end is not None and run.ending is not None and run.ending.cause in _BEFORE_ITS_HEAD:
        stopped = run.ending.cause is Cause.STOPPED
        if exchange.head.method == b"GET" and stopped:
            return nothing(exchange)
        return only_words(exchange, end.last_words, abort=end.abort and not stopped)
    if exchange.state is not None and exchange.state.at:
        return missing(exchange)
    if isinstance(run, Mirror):
        if run.answer is None:  # too long to be shared, or nobody was known to wait
            late = Failure(502, Cause.FAILED, "the upstream's answer cannot be shared")
            return refusal.of_failure(late, Phase.ROUTE)
        return Reply(run.answer.status, run.answer.fields, body=run.answer.body)
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


async def _head_only(exchange: ClientSide, place: Place, outcome: Outcome[AnyRun]) -> Reply:
    """HEAD never begins a run, and is no viewer."""
    if outcome.what is What.VIEW and outcome.run is not None:
        await trio.lowlevel.checkpoint()
        return Reply(200, viewer_fields(exchange, place, outcome.run))
    if outcome.what is What.BEGIN:
        assert exchange.state is not None
        return await exchange.state.bring(exchange)
    return said(exchange, place, outcome)


# -- stop --------------------------------------------------------------------------------------------------------


async def _stopped(exchange: ClientSide, place: Place) -> Reply:
    """DELETE: everything under way below the key is sealed when this returns."""
    resume = exchange.route.resume
    assert resume is not None and place.question.key is not None
    if not resume.stop:
        return refusal.method_not_allowed((b"GET", b"HEAD"))
    feeds, key = exchange.worker.feeds, place.question.key
    wanted = query_value(exchange.head.query, "run")
    if feeds.elsewhere is not None:
        there, stopped = await feeds.elsewhere.stop(key, wanted, exchange.route)
    else:
        below = [run for run in feeds.book.below(key) if wanted in (None, run.id.encode())]
        there, stopped = len(below), sum(run.under_way for run in below)
        for run in below:
            run.stop(Cause.STOPPED)
    if not there:
        return missing(exchange)
    assert exchange.state is not None
    exchange.state.counters.stops += stopped
    return Reply(204, [NO_STORE], ending=SAID)
