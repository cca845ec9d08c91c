"""The request heads that go upstream: the client's own, and relay's on its behalf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from relay.config.values import FieldEdits, Upstream
from relay.http.bodies import Fields
from relay.http.fields import request_fields, request_late
from relay.http.heads import RequestHead
from relay.http.names import Barred
from relay.observing.traceparent import TRACEPARENT, carried
from relay.sources.authorize import ABOUT, asks_with
from relay.sources.reply import Outgoing
from relay.upstreams.origin import Origin

if TYPE_CHECKING:
    from relay.exchange.worker import RouteState, Worker
    from relay.http.forwarded import ClientView
    from relay.observing.record import Record
    from relay.observing.tracing import Trace
    from relay.sources.authorize import Grant

_BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


class Requester(Protocol):
    """On whose behalf relay asks: an exchange, or a run that outlives the one that began it."""

    head: RequestHead
    worker: Worker
    view: ClientView
    record: Record
    trace: Trace | None
    granted: Grant | None

    @property
    def state(self) -> RouteState | None: ...


def clients_request(exchange: Requester, upstream: Upstream, target: bytes) -> Outgoing:
    """The client's request on its way to `upstream`."""
    head = exchange.head
    safely = head.method in _IDEMPOTENT or any(f[0] == b"idempotency-key" for f in head.fields)
    fields = _fields_for(exchange, upstream, head)
    return Outgoing(head.method, target, fields, safely, upgrade=head.upgrade)


def question(exchange: Requester, upstream: Upstream, target: bytes) -> Outgoing:
    """The question whether the client may: a GET with its fields, and where it wants to go."""
    head = exchange.head
    path, _, query = target.partition(b"?")
    asks = replace(
        head,
        method=b"GET",
        target=target,
        path=path,
        query=query,
        fields=asks_with(head.fields),
        framing=0,
        expects_continue=False,
        upgrade=None,
        wants_events=False,
    )
    state = exchange.state
    assert state is not None
    about = zip(ABOUT, (head.method, head.target), strict=True)
    more = [field for field in about if not state.asking.sets(field[0])]
    send = _fields_for(exchange, upstream, asks, state.asking, more)
    return Outgoing(b"GET", target, send, True, b"")


def late_in_request(exchange: Requester, upstream: Upstream) -> Barred:
    """What does not pass among the trailers of the client's request."""
    assert exchange.state is not None
    edits = exchange.state.edits[upstream.name]
    return request_late(
        exchange.head,
        request_id_header=exchange.worker.config.server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
    )


def own_request(
    exchange: Requester,
    upstream: Upstream,
    method: bytes,
    target: bytes,
    content_type: bytes,
    payload: bytes,
    along: tuple[bytes, ...] = (),
) -> Outgoing:
    """A request of relay's own: of the client's fields it has those of the trace, and those named in `along`."""
    path, _, query = target.partition(b"?")
    fields: Fields = [(b"accept", b"application/json, text/event-stream"), *carried(exchange.head)]
    if along:
        fields += [field for field in exchange.head.fields if field[0] in along]
    if payload:
        fields.append((b"content-type", content_type))
    if payload or method not in _BODILESS:  # RFC 9110 §8.6: an empty POST says so
        fields.append((b"content-length", b"%d" % len(payload)))
    head = RequestHead(
        method,
        target,
        path,
        query,
        b"1.1",
        fields,
        exchange.head.host,
        len(payload),
        wants_events=True,
    )
    send = _fields_for(exchange, upstream, head)
    return Outgoing(method, target, send, method in _IDEMPOTENT, payload)


def _fields_for(
    exchange: Requester,
    upstream: Upstream,
    head: RequestHead,
    edits: FieldEdits | None = None,
    more: Fields = (),  # type: ignore[assignment]  # never written
) -> Callable[[Origin], Fields]:
    """The fields of a request to one of the upstream's urls.

    Args:
        edits: None: the route's and the upstream's; then what the route's auth said of the client is set as well.
        more: fields of relay's own.
    """
    state = exchange.state
    assert state is not None
    server = exchange.worker.config.server
    route = state.route
    if edits is None:
        edits = state.edits[upstream.name]
        if exchange.granted is not None:
            more = [f for f in exchange.granted.copied if not edits.sets(f[0])]
    trace = exchange.trace
    if trace is not None and edits.touch(TRACEPARENT):
        trace = None  # the operator's word stands

    def fields(origin: Origin) -> Fields:
        out = request_fields(
            head,
            authority=origin.url.authority if upstream.host_header == "upstream" else head.host,
            client=exchange.view,
            via=exchange.worker.via,
            request_id=exchange.record.id.encode(),
            request_id_header=server.request_id_header,
            set_fields=edits.set,
            remove=edits.remove,
            event_stream=route.stream == "auto",
            expects_events=route.expects_events,
        )
        out += more
        return out if trace is None else trace.put(out)

    return fields
