"""The request heads that go upstream: the client's own, and relay's on its behalf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from relay.config.values import FieldEdits, Route, Upstream
from relay.http.bodies import Fields
from relay.http.fields import request_fields, request_late
from relay.http.heads import RequestHead
from relay.http.names import Barred
from relay.observing.traceparent import TRACEPARENT, carried
from relay.sources.authorize import ABOUT, asks_with
from relay.sources.ordering import Ordering
from relay.sources.reply import Outgoing
from relay.upstreams.group import Group
from relay.upstreams.origin import Origin
from relay.wires.threads import Threads

if TYPE_CHECKING:
    from relay.exchange.worker import RouteState, Worker
    from relay.http.forwarded import ClientView
    from relay.observing.record import Record
    from relay.observing.tracing import Trace
    from relay.sources.authorize import Grant

_BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


class Requester:
    """On whose behalf relay asks: an exchange, or a run that outlives the one that began it.

    What both can do for their source, the same way: the part of sources.context.Context that no client is needed for.

    Attributes:
        trace: None: the client's fields go on as they are.
        granted: what the route's auth said of the client.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # slots of those who inherit
        head: RequestHead
        worker: Worker
        view: ClientView
        record: Record
        trace: Trace | None
        granted: Grant | None
        state: RouteState | None

    @property
    def route(self) -> Route:
        assert self.state is not None
        return self.state.route

    @property
    def threads(self) -> Threads:
        return self.worker.threads

    @property
    def ordering(self) -> Ordering:
        assert self.state is not None
        return self.state.ordering

    def group(self, upstream: Upstream) -> Group:
        return self.worker.group(upstream)

    def reached(self, name: str) -> None:
        self.record.upstream = name
        self.record.upstream_status = 0

    def answered(self, status: int) -> None:
        self.record.upstream_status = status

    def outgoing(self, upstream: Upstream, target: bytes) -> Outgoing:
        """The client's request on its way to `upstream`."""
        head = self.head
        safely = head.method in _IDEMPOTENT or any(f[0] == b"idempotency-key" for f in head.fields)
        fields = _fields_for(self, upstream, head)
        return Outgoing(head.method, target, fields, safely, upgrade=head.upgrade)

    def question(self, upstream: Upstream, target: bytes) -> Outgoing:
        """The question whether the client may: a GET with its fields, and where it wants to go."""
        head = self.head
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
        assert self.state is not None
        asking = self.state.asking
        about = zip(ABOUT, (head.method, head.target), strict=True)
        more = [field for field in about if not asking.sets(field[0])]
        return Outgoing(b"GET", target, _fields_for(self, upstream, asks, asking, more), True, b"")

    def own_request(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        content_type: bytes = b"",
        payload: bytes = b"",
        along: tuple[bytes, ...] = (),
    ) -> Outgoing:
        """A request of relay's own: of the client's fields it has those of the trace, and those named in `along`."""
        path, _, query = target.partition(b"?")
        fields: Fields = [(b"accept", b"application/json, text/event-stream"), *carried(self.head)]
        if along:
            fields += [field for field in self.head.fields if field[0] in along]
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
            self.head.host,
            len(payload),
            wants_events=True,
        )
        send = _fields_for(self, upstream, head)
        return Outgoing(method, target, send, method in _IDEMPOTENT, payload)

    def late_in_request(self, upstream: Upstream) -> Barred:
        """What does not pass among the trailers of the client's request."""
        assert self.state is not None
        edits = self.state.edits[upstream.name]
        return request_late(
            self.head,
            request_id_header=self.worker.config.server.request_id_header,
            set_fields=edits.set,
            remove=edits.remove,
        )


def _fields_for(
    asker: Requester,
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
    state = asker.state
    assert state is not None
    server = asker.worker.config.server
    route = state.route
    if edits is None:
        edits = state.edits[upstream.name]
        if asker.granted is not None:
            more = [f for f in asker.granted.copied if not edits.sets(f[0])]
    trace = asker.trace
    if trace is not None and edits.touch(TRACEPARENT):
        trace = None  # the operator's word stands

    def fields(origin: Origin) -> Fields:
        out = request_fields(
            head,
            authority=origin.url.authority if upstream.host_header == "upstream" else head.host,
            client=asker.view,
            via=asker.worker.via,
            request_id=asker.record.id.encode(),
            request_id_header=server.request_id_header,
            set_fields=edits.set,
            remove=edits.remove,
            event_stream=route.stream == "auto",
            expects_events=route.expects_events,
        )
        out += more
        return out if trace is None else trace.put(out)

    return fields
