"""The response head as the client gets it: fields, framing, and whether the connection goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.config.values import FieldEdits
from relay.exchange import cors
from relay.http.bodies import Fields
from relay.http.clock import date
from relay.http.fields import interim_fields, response_fields, response_late
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.heads import ResponseHead
from relay.http.names import LATE, Barred, folded
from relay.http.serialise import response_bytes
from relay.sources.reply import Reply

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange

EVENT_STREAM: Fields = [(b"content-type", b"text/event-stream")]
NO_STORE = (b"cache-control", b"no-store, no-transform")
_KEPT_BY = frozenset((b"surrogate_control", b"x_accel_expires", b"expires"))
_NO_EDITS = FieldEdits()
_CHUNKED_FIELD = (b"transfer-encoding", b"chunked")
_CLOSE_FIELD = (b"connection", b"close")
_KEEP_FIELD = (b"connection", b"keep-alive")
_UPGRADE_OPTION = (b"connection", b"upgrade")


def event_framing(exchange: Exchange) -> int:
    """How a body of unknown length is framed for this client: HTTP/1.0 knows only the connection's end."""
    return CHUNKED if exchange.head.version == b"1.1" else UNTIL_CLOSE


def head_bytes(exchange: Exchange, reply: Reply, framing: int | None) -> bytes:
    """The serialised head of `reply`. Decides `connection.reusable` for good.

    Args:
        framing: of the body towards the client; None: the head has no body (HEAD, 204, 304).
    """
    connection = exchange.connection
    if framing == UNTIL_CLOSE or exchange.unread or exchange.worker.draining:
        connection.reusable = False
    fields = _fields(exchange, reply)
    if framing is not None:
        if framing >= 0:
            fields.append((b"content-length", b"%d" % framing))
        elif framing == CHUNKED:
            fields.append(_CHUNKED_FIELD)
    if reply.status == 101 and reply.head is not None and reply.head.upgrade is not None:
        fields += [_UPGRADE_OPTION, (b"upgrade", reply.head.upgrade)]
    elif not connection.reusable:
        fields.append(_CLOSE_FIELD)
    elif exchange.head.version == b"1.0":
        fields.append(_KEEP_FIELD)
    exchange.head_out = True
    exchange.record.status = reply.status
    reason = reply.head.reason if reply.head is not None else b""
    return response_bytes(reply.status, reason, fields)


def interim_bytes(exchange: Exchange, head: ResponseHead) -> bytes:
    """The serialised head of a 1xx response that is passed on."""
    edits = _edits(exchange)
    fields = interim_fields(
        head,
        request_id_header=exchange.worker.config.server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
    )
    return response_bytes(head.status, head.reason, fields)


def late_in_response(exchange: Exchange, reply: Reply) -> Barred:
    """What does not pass among the trailers of the upstream's response."""
    if reply.head is None:
        return LATE
    edits = _edits(exchange)
    return response_late(
        reply.head,
        request_id_header=exchange.worker.config.server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
        event_stream=reply.events,
    )


def _edits(exchange: Exchange) -> FieldEdits:
    return exchange.state.route.response_headers if exchange.state is not None else _NO_EDITS


def _fields(exchange: Exchange, reply: Reply) -> Fields:
    server = exchange.worker.config.server
    edits = _edits(exchange)
    fields = response_fields(
        reply.head if reply.head is not None else reply.fields,
        via=server.via.encode("ascii"),
        request_id=exchange.record.id.encode("ascii"),
        request_id_header=server.request_id_header,
        set_fields=edits.set,
        remove=edits.remove,
        event_stream=reply.events,
        rewritten=reply.rewritten,
        date=date(),
    )
    state = exchange.state
    if state is not None and state.route.resume is not None:
        # Whatever the upstream says: 204 and 404 are cacheable by default (RFC 9110 §15.1).
        fields = [field for field in fields if not _keeps(folded(field[0]))]
        fields.append(NO_STORE)
    if exchange.granted is not None:
        fields += exchange.granted.cookies
    if state is not None and state.route.cors is not None:
        if reply.head is not None:
            fields = cors.without_upstreams(fields)
        resumes = state.route.resume is not None
        fields += cors.fields_for(state.route.cors, exchange.head.fields, resumes=resumes)
    return fields


def _keeps(name: bytes) -> bool:
    """Whether a field (its name folded) tells a cache how long it may keep the answer: the targeted ones (RFC 9213) and that
    of nginx win over Cache-Control."""
    return name.endswith(b"cache_control") or name in _KEPT_BY


async def send_event_head(exchange: Exchange) -> None:
    """Send the head of an event stream of relay's own, before its source has one."""
    reply = Reply(200, list(exchange.early_head), events=exchange.early_head is EVENT_STREAM)
    await exchange.wire.send(head_bytes(exchange, reply, event_framing(exchange)))
