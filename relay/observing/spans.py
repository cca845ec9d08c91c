"""One OpenTelemetry span per exchange. Loaded only with `trace = "otel"`.

Where they go is set the way the SDK's users know it, by the environment: OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_BSP_*. A provider that the program around relay has set up is used as it is.

Rule: spans are handed to a thread that exports them; no stream waits for a collector, and spans
that it does not take are dropped by the SDK.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from relay import __version__
from relay.http.heads import RequestHead
from relay.observing.ending import Cause, Ending, Side
from relay.observing.record import Record
from relay.observing.traceparent import TRACESTATE, TraceParent

logger = logging.getLogger("relay")

_SHORT: Final = {"otlp": "otlp_proto_http"}  # OTEL_TRACES_EXPORTER's usual value
_NORMAL: Final = frozenset((Cause.COMPLETE, Cause.MAX_AGE, Cause.STOPPED, Cause.DRAINED))


class Span:
    """The span of one exchange."""

    __slots__ = ("_span", "context")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.context = TraceParent(
            trace.format_trace_id(context.trace_id),
            trace.format_span_id(context.span_id),
            context.trace_flags,
        )

    def end(self, record: Record, ending: Ending) -> None:
        """Say what happened (names: OpenTelemetry's HTTP conventions, then relay's own)."""
        span = self._span
        if span.is_recording():
            span.update_name(f"{record.method} {record.route}" if record.route else record.method)
            span.set_attributes(
                {
                    "http.request.method": record.method,
                    "http.route": record.route,
                    "url.path": record.path,
                    "http.response.status_code": record.status,
                    "client.address": record.client,
                    "relay.id": record.id,
                    "relay.upstream": record.upstream,
                    "relay.ending": ending.cause.value,
                    "relay.side": ending.side.value,
                    "relay.phase": ending.phase.value,
                    "relay.events": record.events,
                    "relay.bytes_in": record.bytes_in,
                    "relay.bytes_out": record.bytes_out,
                }
            )
            if record.capture is not None:
                for name, value in record.capture.values.items():
                    span.set_attribute(f"relay.captured.{name}", value)
            if record.first_byte:
                waited = record.first_byte - record.started
                span.set_attribute("relay.time_to_first_byte", waited)
            if ending.side is not Side.CLIENT and ending.cause not in _NORMAL:
                span.set_status(Status(StatusCode.ERROR, ending.detail or ending.cause.value))
        span.end()


class Spans:
    """The spans of one process."""

    __slots__ = ("_provider", "_tracer")

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("relay", __version__)

    def start(self, parent: TraceParent | None, head: RequestHead) -> Span:
        """The span of an exchange whose head has come, below `parent`."""
        context = None
        if parent is not None:
            states = [value.decode("latin-1") for name, value in head.fields if name == TRACESTATE]
            remote = SpanContext(
                int(parent.trace_id, 16),
                int(parent.parent_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(parent.flags),
                trace_state=TraceState.from_header(states),
            )
            context = trace.set_span_in_context(NonRecordingSpan(remote))
        name = head.method.decode("ascii")
        return Span(self._tracer.start_span(name, context, kind=SpanKind.SERVER))

    def flush(self, seconds: float) -> None:
        self._provider.force_flush(int(seconds * 1000))


def open_spans() -> Spans:
    """The provider that is there, or else one set up by the environment.

    Where the environment names an exporter that is not installed, the log says so and the traces
    go on without relay's spans: what is only looked at must not keep relay from starting.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        service = os.environ.get("OTEL_SERVICE_NAME", "relay")
        # At exit nothing is waited for: a drain has flushed, and an end at once is one.
        provider = TracerProvider(
            resource=Resource.create({"service.name": service}), shutdown_on_exit=False
        )
        exporter = _exporter()
        if exporter is not None:
            provider.add_span_processor(BatchSpanProcessor(exporter))
    return Spans(provider)


def _exporter() -> SpanExporter | None:
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    found = entry_points(group="opentelemetry_traces_exporter", name=_SHORT.get(name, name))
    for entry in found:
        exporter: SpanExporter = entry.load()()
        return exporter
    if name != "none":
        logger.error("spans are not exported: no exporter is named %s (OTEL_TRACES_EXPORTER)", name)
    return None
