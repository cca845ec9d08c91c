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
  * What is created is marked as sampled. The mark 00 would tell every backend whose sampler asks
    its parent, the usual one, to record nothing.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.observing.ending import Ending
from relay.observing.record import Record

if TYPE_CHECKING:
    from relay.observing.spans import Span, Spans

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
_VALUE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class TraceParent(NamedTuple):
    """A valid traceparent."""

    trace_id: str  # 32 hexadecimal digits
    parent_id: str  # 16
    flags: int

    def value(self) -> bytes:
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags:02x}".encode()


def parse(value: bytes) -> TraceParent | None:
    """What a field says; None where it breaks the rules (§3.2.2).

    A version we do not know is read as far as version 00 goes (§4.3).
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), parent_id.decode(), int(flags, 16))


def new() -> TraceParent:
    """The start of a trace."""
    return TraceParent(os.urandom(16).hex(), os.urandom(8).hex(), _SAMPLED)


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


def carried(head: RequestHead) -> Fields:
    """The client's trace fields, for a request of relay's own on its behalf."""
    if not head.traceparent:
        return []
    return [field for field in head.fields if field[0] in (TRACEPARENT, TRACESTATE)]
