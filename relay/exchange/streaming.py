"""The flow of a response's body, as its route and its source want it."""

from __future__ import annotations

from relay.config.values import Route
from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow, KeptFlow
from relay.http.names import Barred
from relay.sources.reply import Reply
from relay.sse.completion import Completion
from relay.sse.translate import Translator


def new_flow(
    reply: Reply, route: Route, framing_in: int, framing_out: int, late: Barred
) -> BytesFlow | EventFlow:
    """What is between the upstream's bytes and the client's.

    Args:
        framing_in, framing_out: see http.framing.
        late: what does not pass among the trailers.
    """
    if not reply.events:
        return BytesFlow(framing_in, framing_out, "upstream", late)
    completion, translator = _watching(reply, route)
    most = route.limits.max_event
    return EventFlow(
        framing_in, framing_out, most, completion, translator, coding=reply.coding, late=late
    )


def kept_flow(reply: Reply, route: Route, framing_in: int) -> KeptFlow:
    """The same where the events are kept for those who read them."""
    completion, translator = _watching(reply, route)
    most = route.limits.max_event
    return KeptFlow(framing_in, most, completion, translator, coding=reply.coding)


def _watching(reply: Reply, route: Route) -> tuple[Completion | None, Translator | None]:
    """Who looks at the events on their way: for the upstream's marker, and to translate them."""
    completion = Completion(route.complete_when) if route.complete_when != b"eof" else None
    return completion, Translator(reply.translate) if reply.translate is not None else None
