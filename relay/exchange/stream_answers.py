"""What relay says itself to who asks for a stream: a word instead of a view, and the fields of a view.

Rule: every answer on these paths says `no-store`; 204 and 404 are cacheable by default (RFC 9111 §4.2.2).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.exchange import refusal
from relay.exchange.client_head import NO_STORE
from relay.exchange.client_side import ClientSide
from relay.exchange.viewing import Shown
from relay.feeds.asking import address
from relay.feeds.decisions import Outcome, Question, What
from relay.feeds.elsewhere import AnyRun
from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.own_events import last_word
from relay.sources.reply import Reply
from relay.sse.dialects import HEARTBEAT_LINE, gap_event
from relay.stores.store import Known

_STREAM: Final[Fields] = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
    (b"incremental", b"?1"),  # RFC 10036: each part is of use as it comes
]
SAID: Final = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE)
_CROWDED: Final = "5"  # seconds until one more viewer may find room


class Place(NamedTuple):
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


def said(exchange: ClientSide, place: Place, outcome: Outcome[AnyRun]) -> Reply:
    what, route = outcome.what, exchange.route
    assert route.resume is not None
    if what is What.NO_CONTENT:
        return nothing(exchange)
    if what is What.MISSING:
        return missing(exchange)
    if what is What.TOO_MANY:
        ending = Ending(Side.RELAY, Phase.ROUTE, Cause.SHED, "too many viewers of one run")
        reply = refusal.refuse(
            429, "too_many_viewers", "too many read this stream just now", ending
        )
        reply.fields.append((b"retry-after", _CROWDED.encode()))
        return reply
    if what is What.END:
        assert outcome.run is not None
        end, how = end_of(outcome.run)
        reply = only_words(exchange, end.last_words, abort=end.abort, ending=how)
        reply.fields = viewer_fields(exchange, place, outcome.run)
        return reply
    if what is What.DONE:
        return only_words(exchange, HEARTBEAT_LINE)
    if what is What.GONE:
        return gone(exchange)
    cursor = place.question.cursor
    block, _ = gap_event(route.dialect, cursor.text if cursor is not None else "", "")
    return only_words(exchange, block)


def end_of(run: AnyRun) -> tuple[End, Ending | None]:
    """The end of a run that has ended."""
    if isinstance(run, Known):
        assert run.sealed is not None
        return run.sealed.end, run.sealed.ending
    assert run.log.end is not None
    return run.log.end, run.ending


def only_words(
    exchange: ClientSide, block: bytes, *, abort: bool = False, ending: Ending | None = None
) -> Reply:
    """A stream that says one thing and ends."""
    return Shown(
        200,
        [*_STREAM, NO_STORE],
        words=block or HEARTBEAT_LINE,
        abort=abort,
        ending=ending or SAID,
    )


def gone(exchange: ClientSide) -> Reply:
    """What nobody can go on with, and what is not begun again by asking for it."""
    words = last_word(
        exchange.route, "run_gone", "this stream is not kept any more", retryable=True
    )
    return only_words(exchange, words)


def nothing(exchange: ClientSide) -> Reply:
    """204, which tells an EventSource not to come back; LangGraph's SDK throws at it."""
    resume = exchange.route.resume
    assert resume is not None
    if resume.handle == "location" and exchange.head.method == b"GET":
        return only_words(exchange, HEARTBEAT_LINE)
    return Reply(204, [NO_STORE], ending=SAID)


def missing(exchange: ClientSide) -> Reply:
    resume = exchange.route.resume
    assert resume is not None
    if resume.live_only:
        return nothing(exchange)
    ending = Ending(Side.CLIENT, Phase.ROUTE, Cause.REFUSED)
    return refusal.refuse(404, "no_stream", "there is no such stream", ending)


def viewer_fields(exchange: ClientSide, place: Place, run: AnyRun) -> Fields:
    """The head of a view: the upstream's fields that are everybody's, and what a reader needs to come back."""
    return [
        *_STREAM,
        *(run.fields or ()),
        NO_STORE,
        (b"relay-run", run.id.encode()),
        *handle(exchange, run, place.key),
    ]


def handle(exchange: ClientSide, run: AnyRun, key: str | None) -> Fields:
    """Where this stream is joined, resumed and stopped."""
    resume = exchange.route.resume
    assert resume is not None
    if resume.at is None:
        return []
    name = b"location" if resume.handle == "location" else b"content-location"
    return [(name, address(resume.at, run.id if key is None else key))]
