"""The flow of a response's body, as its route and its source want it."""

from __future__ import annotations

from relay.config.values import Route
from relay.flows.bytes_flow import BytesFlow
from relay.flows.chunks_flow import ChunksFlow
from relay.flows.event_flow import EventFlow, KeptFlow
from relay.http.framing import CHUNKED
from relay.http.names import Barred
from relay.observing.record import Record
from relay.sources.reply import Reply
from relay.sse.capture import Capture, Watch
from relay.sse.completion import Completion
from relay.sse.translate import Translator


def new_flow(
    reply: Reply, route: Route, record: Record, framing_in: int, framing_out: int, late: Barred
) -> BytesFlow | EventFlow:
    """What is between the upstream's bytes and the client's.

    Args:
        framing_in, framing_out: see http.framing.
        late: what does not pass among the trailers.
        record: of what the stream says, where the route asks for that.
    """
    if not reply.events:
        if framing_in == framing_out == CHUNKED:
            return ChunksFlow("upstream", late)
        return BytesFlow(framing_in, framing_out, "upstream", late)
    completion, translator = _watching(reply, route, record)
    most = route.limits.max_event
    return EventFlow(
        framing_in, framing_out, most, completion, translator, coding=reply.coding, late=late
    )


def kept_flow(reply: Reply, route: Route, record: Record, framing_in: int) -> KeptFlow:
    """The same where the events are kept for those who read them."""
    completion, translator = _watching(reply, route, record)
    most = route.limits.max_event
    return KeptFlow(framing_in, most, completion, translator, coding=reply.coding)


def capture_of(reply: Reply, route: Route) -> Capture | None:
    """Where what the stream says is kept, if the route asks for that."""
    if reply.capture is not None or route.capture is None:
        return reply.capture
    return Capture(route.capture)


def _watching(
    reply: Reply, route: Route, record: Record
) -> tuple[Completion | None, Translator | None]:
    """Who looks at the events on their way: for the upstream's marker, for the record, and to translate them."""
    completion = Completion(route.complete_when) if route.complete_when != b"eof" else None
    capture = record.capture or capture_of(reply, route)
    if capture is not None:
        record.capture = capture
        completion = Watch(route.complete_when, capture)
    return completion, Translator(reply.translate) if reply.translate is not None else None
