"""What a request and its answer look like when nothing but their id is their own (`exchange.prepared` keeps it).

Rules
  * Nothing is decided here. The bytes are what the ordinary functions write for an exchange that has a made-up id, cut where
    that id stands: so there is no second truth about fields, edits or framing.
  * The made-up id is new and random each time, so nothing that a peer sends can look like it.
  * None stands for everything that is not of the plain kind: such an exchange goes its ordinary way.
"""

from __future__ import annotations

from typing import Final, Protocol

from relay.config.values import Forward, Server
from relay.exchange import own_answers
from relay.exchange.client_head import framing_to, head_bytes
from relay.exchange.client_side import Carrier, ClientSide
from relay.exchange.prepared import PreparedAnswer, PreparedRequest
from relay.exchange.worker import RouteState, Worker
from relay.http.clock import date
from relay.http.fault import Fault
from relay.http.heads import MEMO_BYTES, RequestHead, ResponseHead
from relay.observing.ids import new_id
from relay.observing.lines import about
from relay.sources.attempt import request_to
from relay.sources.forward import reply_at_once, target_of

_URLS: Final = 8  # of an upstream; a request is prepared for each of them


class Asking(Carrier, Protocol):
    """The connection that a request came on, as far as it is needed here."""

    peer: str | None
    scheme: bytes

    def begin(self, head: RequestHead) -> ClientSide:
        """An exchange for a request."""


def prepared_request(
    host: Asking, head: RequestHead, size: int
) -> PreparedRequest[RouteState] | None:
    """The request as it goes upstream, prepared before or now; None where it needs a task. `size`: of its head, in bytes."""
    store = host.worker.prepared
    asked = store.request(head, host.peer, host.scheme)
    if asked is None and _may_be_prepared(head):
        asked = _prepare_request(host.begin(head))
        if asked is not None and size <= MEMO_BYTES:
            store.keep_request(host.peer, host.scheme, asked)
    return asked


def prepared_answer(
    worker: Worker, head: ResponseHead, size: int, asked: PreparedRequest[RouteState]
) -> PreparedAnswer[RouteState] | None:
    """The same of an answer's head, as it goes to the client."""
    answer = worker.prepared.answer(head, asked.state)
    if answer is None or (answer.date and answer.date is not date()):
        answer = _prepare_answer(head, asked.head, asked.state, worker.config.server)
        if answer is not None and size <= MEMO_BYTES:
            worker.prepared.keep_answer(answer)
    return answer


def _may_be_prepared(head: RequestHead) -> bool:
    """Whether a request is of the plain kind, as far as its head tells."""
    return (
        head.framing == 0
        and head.keep_alive
        and head.version == b"1.1"
        and head.upgrade is None
        and head.method != b"HEAD"
    )


def _prepare_request(exchange: ClientSide) -> PreparedRequest[RouteState] | None:
    """The request of an exchange that nothing else will come of; None where it needs the exchange's own task."""
    head, worker = exchange.head, exchange.worker
    asked = own_answers.look(head, worker.table, _not_shed)
    state = asked.state
    if asked.reply is not None or state is None or asked.head is not head or not state.in_steps:
        return None
    exchange.take_route(asked.head, asked.params, state)
    source = state.route.source
    assert isinstance(source, Forward)
    try:
        out = exchange.outgoing(source.upstream, target_of(source, exchange))
    except Fault:
        return None
    group = worker.group(source.upstream)
    if not out.resent_safely or len(group.origins) > _URLS:
        return None
    marker = exchange.record.id.encode("ascii")
    parts = {}
    for origin in group.origins:
        parts[origin] = request_to(out, origin).split(marker), origin.name
    record = exchange.record
    record.about = about(record)
    return PreparedRequest(head, state, asked.params, group, parts, record)


def _prepare_answer(
    head: ResponseHead, request: RequestHead, state: RouteState, server: Server
) -> PreparedAnswer[RouteState] | None:
    """The head of the answer to a prepared request; None where it needs the exchange's own task."""
    source = state.route.source
    assert isinstance(source, Forward)
    reply = reply_at_once(source, state.route, head)
    if reply is None:
        return None
    marker = new_id()
    out = head_bytes(
        reply,
        None if head.status in (204, 304) else framing_to(request, reply, head.framing),
        keep=True,
        request=request,
        request_id=marker,
        server=server,
        route=state.route,
        granted=None,
    )
    parts = out.split(marker.encode("ascii"))
    return PreparedAnswer(head, state, reply, parts, b"" if head.dated else date())


def _not_shed() -> None:
    """No client is refused here: where a limit by address is configured, nothing is served in steps (`Worker.steps`)."""
