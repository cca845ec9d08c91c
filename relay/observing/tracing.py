"""The trace an exchange belongs to (W3C Trace Context) and, where wanted, its span.

`[server] trace` says how much relay takes part:

    pass     traceparent and tracestate go on as they came, and none is made up
    create   the same; a request without a valid traceparent starts a trace
    otel     every exchange is a span, whose id goes upstream as the parent

Rules
  * The trace's id stands in the access log whenever there is one.
  * Only who records a span gives it an id. With `create` a valid traceparent therefore stays as it
    is: a new parent id that nobody recorded would tear the trace in two (Trace Context §3.2: a
    system that does not participate forwards the fields unmodified).
  * A traceparent that breaks the rules starts a new trace, and its tracestate goes (§3.2, §4.2).
  * What is created is marked as sampled. A backend usually follows the flag of its
    caller, and with the flag 00 it would record nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.observing.ending import Ending
from relay.observing.record import Record
from relay.observing.traceparent import TRACEPARENT, TRACESTATE, new, parse

if TYPE_CHECKING:
    from relay.observing.spans import Span, Spans


class Trace:
    """What goes upstream in place of the client's traceparent, and the exchange's span."""

    __slots__ = ("_restarted", "_span", "_value")

    def __init__(self, value: bytes, *, restarted: bool, span: Span | None = None) -> None:
        """`restarted`: the client's tracestate belongs to no trace any more."""
        self._value = value
        self._restarted = restarted
        self._span = span

    def put(self, fields: Fields) -> Fields:
        """`fields` of a request to an upstream, with this trace's traceparent."""
        drop = (TRACEPARENT, TRACESTATE) if self._restarted else (TRACEPARENT,)
        kept = [field for field in fields if field[0] not in drop]
        kept.append((TRACEPARENT, self._value))
        return kept

    def end(self, record: Record, ending: Ending) -> None:
        """The exchange has ended."""
        if self._span is not None:
            self._span.end(record, ending)


class Tracing:
    """The configured part in traces. `begin` is for every exchange that has to do with one."""

    __slots__ = ("_spans", "mode")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._spans: Spans | None = None
        if mode == "otel":
            from relay.observing.spans import open_spans

            self._spans = open_spans()

    def begin(self, head: RequestHead, record: Record) -> Trace | None:
        """Note the trace in `record`. Returns: what is changed on the way upstream, if anything."""
        parent = parse(head.traceparent) if head.traceparent else None
        if self._spans is not None:
            span = self._spans.start(parent, head)
            record.trace = span.context.trace_id
            return Trace(span.context.value(), restarted=parent is None, span=span)
        if parent is None and self.mode == "create":
            parent = new()
            record.trace = parent.trace_id
            return Trace(parent.value(), restarted=True)
        if parent is not None:
            record.trace = parent.trace_id
        return None

    def flush(self, seconds: float) -> None:
        """Export what is waiting; blocks, for `seconds` at most."""
        if self._spans is not None:
            self._spans.flush(seconds)
