"""The response head as the client gets it: fields and framing, from values alone."""

from __future__ import annotations

from relay.config.values import FieldEdits, Route, Server
from relay.exchange import cors
from relay.http.bodies import Fields
from relay.http.clock import date
from relay.http.fields import interim_fields, response_fields, response_late
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.heads import RequestHead, ResponseHead
from relay.http.names import LATE, Barred, folded
from relay.http.serialise import response_bytes
from relay.sources.authorize import Grant
from relay.sources.reply import Reply

EVENT_STREAM: Fields = [(b"content-type", b"text/event-stream")]
NO_STORE = (b"cache-control", b"no-store, no-transform")
_KEPT_BY = frozenset((b"surrogate_control", b"x_accel_expires", b"expires"))
_NO_EDITS = FieldEdits()
_CHUNKED_FIELD = (b"transfer-encoding", b"chunked")
_CLOSE_FIELD = (b"connection", b"close")
_KEEP_FIELD = (b"connection", b"keep-alive")
_UPGRADE_OPTION = (b"connection", b"upgrade")


def event_framing(request: RequestHead) -> int:
    """How a body of unknown length is framed for this client: HTTP/1.0 knows only the connection's end."""
    return CHUNKED if request.version == b"1.1" else UNTIL_CLOSE


def framing_to(request: RequestHead, reply: Reply, framing: int) -> int:
    """How an upstream's body is framed for this client; `framing`: as it comes."""
    reframed = reply.events or framing in (UNTIL_CLOSE, CHUNKED)
    return event_framing(request) if reframed else framing


def head_bytes(
    reply: Reply,
    framing: int | None,
    *,
    keep: bool,
    request: RequestHead,
    request_id: str,
    server: Server,
    route: Route | None,
    granted: Grant | None,
) -> bytes:
    """The serialised head of `reply`.

    Args:
        framing: of the body towards the client; None: the head has no body (HEAD, 204, 304).
        keep: the connection may serve another request behind it.
        route: None where no route was found.
        granted: what the route's auth said of the client.
    """
    fields = _fields(reply, request_id, server, route)
    if granted is not None:
        fields += granted.cookies
    if route is not None and route.cors is not None:
        if reply.head is not None:
            fields = cors.without_upstreams(fields)
        fields += cors.fields_for(route.cors, request.fields, resumes=route.resume is not None)
    if framing is not None:
        if framing >= 0:
            fields.append((b"content-length", b"%d" % framing))
        elif framing == CHUNKED:
            fields.append(_CHUNKED_FIELD)
    if reply.status == 101 and reply.head is not None and reply.head.upgrade is not None:
        fields += [_UPGRADE_OPTION, (b"upgrade", reply.head.upgrade)]
    elif not keep:
        fields.append(_CLOSE_FIELD)
    elif request.version == b"1.0":
        fields.append(_KEEP_FIELD)
    reason = reply.head.reason if reply.head is not None else b""
    return response_bytes(reply.status, reason, fields)


def interim_bytes(head: ResponseHead, server: Server, route: Route) -> bytes:
    """The serialised head of a 1xx response that is passed on."""
    edits = route.response_headers
    fields = interim_fields(
        head,
        request_id_header=server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
    )
    return response_bytes(head.status, head.reason, fields)


def late_in_response(reply: Reply, server: Server, route: Route) -> Barred:
    """What does not pass among the trailers of the upstream's response."""
    if reply.head is None:
        return LATE
    edits = route.response_headers
    return response_late(
        reply.head,
        request_id_header=server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
        event_stream=reply.events,
    )


def _fields(reply: Reply, request_id: str, server: Server, route: Route | None) -> Fields:
    edits = route.response_headers if route is not None else _NO_EDITS
    fields = response_fields(
        reply.head if reply.head is not None else reply.fields,
        via=server.via.encode("ascii"),
        request_id=request_id.encode("ascii"),
        request_id_header=server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
        event_stream=reply.events,
        rewritten=reply.rewritten,
        date=date(),
    )
    if route is not None and route.resume is not None:
        # Whatever the upstream says: 204 and 404 are cacheable by default (RFC 9110 §15.1).
        fields = [field for field in fields if not _keeps(folded(field[0]))]
        fields.append(NO_STORE)
    return fields


def _keeps(name: bytes) -> bool:
    """Whether a field (its name folded) tells a cache how long it may keep the answer: the targeted ones (RFC 9213) and that
    of nginx win over Cache-Control."""
    return name.endswith(b"cache_control") or name in _KEPT_BY
