"""What a request and its answer look like when nothing but their id is their own (`exchange.prepared` keeps it).

Rules
  * Nothing is decided here. The bytes are what the ordinary functions write for an exchange that has a made-up id, cut where
    that id stands: so there is no second truth about fields, edits or framing.
  * The made-up id is new and random each time, so nothing that a peer sends can look like it.
  * None stands for everything that is not of the plain kind: such an exchange goes its ordinary way.
"""

from __future__ import annotations

from typing import Final

from relay.config.values import Forward, Server
from relay.exchange import own_answers
from relay.exchange.client_head import head_bytes
from relay.exchange.client_side import ClientSide
from relay.exchange.prepared import PreparedAnswer, PreparedRequest
from relay.exchange.worker import RouteState
from relay.http.clock import date
from relay.http.fault import Fault
from relay.http.heads import RequestHead, ResponseHead
from relay.observing.ids import new_id
from relay.observing.lines import about
from relay.sources.attempt import request_to
from relay.sources.forward import asks_again, target_of
from relay.sources.reply import Reply

_URLS: Final = 8  # of an upstream; a request is prepared for each of them


def may_be_prepared(head: RequestHead) -> bool:
    """Whether a request is of the plain kind, as far as its head tells."""
    return (
        head.framing == 0
        and head.keep_alive
        and head.version == b"1.1"
        and head.upgrade is None
        and head.method != b"HEAD"
        and not head.wants_events
    )


def prepare_request(exchange: ClientSide) -> PreparedRequest[RouteState] | None:
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


def prepare_answer(
    head: ResponseHead, request: RequestHead, state: RouteState, server: Server
) -> PreparedAnswer[RouteState] | None:
    """The head of the answer to a prepared request, whose body is there; None where it needs the exchange's own task."""
    if head.status < 200 or head.locates or head.is_stream or asks_again(state.route, head):
        return None
    marker = new_id()
    out = head_bytes(
        Reply(head.status, head.fields, head=head),
        None if head.status in (204, 304) else head.framing,
        keep=True,
        request=request,
        request_id=marker,
        server=server,
        route=state.route,
        granted=None,
    )
    parts = out.split(marker.encode("ascii"))
    return PreparedAnswer(head, state, parts, b"" if head.dated else date())


def _not_shed() -> None:
    """No limit by address is configured: see `Worker.steps`."""
