"""The promise: a trace goes through relay whole; its id stands in the access log; a span tells how
the exchange ended."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from relay.config import ConfigError, loads
from relay.observing import spans
from relay.observing.traceparent import parse
from tests.harness import EVENT_HEAD, Upstream, chunked, route_to, running, scene

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = f"00-{ID}-{PARENT}-01"
STATE = "vendor=abc"
FIELDS = f"Traceparent: {GOOD}\r\nTracestate: {STATE}\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
ASK = """
[server]
trace = "{mode}"
[upstreams.pipeline]
url = "{url}"
[[routes]]
path = "/ask"
methods = ["POST"]
source = "answer"
[routes.answer]
upstream = "pipeline"
path = "/api/ask"
text = "response"
"""


def mode(name: str) -> str:
    return f'[server]\ntrace = "{name}"\n'


def traced(head: bytes) -> tuple[list[str], list[str]]:
    """The values of traceparent and tracestate in a head."""
    lines = head.decode().split("\r\n")
    found = [line.partition(": ") for line in lines]
    return [v for n, _, v in found if n == "traceparent"], [
        v for n, _, v in found if n == "tracestate"
    ]


async def through(more: str, fields: str, route: str = "") -> tuple[bytes, dict[str, object]]:
    """The head that came to the upstream, and the line of the log."""
    async with scene(route, more=more) as (relay, upstream):
        client = await relay.get("/", fields)
        peer, head = await upstream.request()
        await peer.send(ANSWER)
        await client.head()
        return head, await relay.line()


@pytest.mark.parametrize("name", ["pass", "create"])
async def test_a_trace_goes_on_as_it_came(name: str) -> None:
    head, line = await through(mode(name), FIELDS)
    assert traced(head) == ([GOOD], [STATE])
    assert line["trace"] == ID


@pytest.mark.parametrize("fields", ["", "Traceparent: 00-nonsense\r\nTracestate: a=b\r\n"])
async def test_pass_makes_nothing_up_and_judges_nothing(fields: str) -> None:
    head, line = await through("", fields)
    assert traced(head) == ((["00-nonsense"], ["a=b"]) if fields else ([], []))
    assert "trace" not in line


TWICE = FIELDS + f"Traceparent: {GOOD}\r\n"


@pytest.mark.parametrize(
    "fields", ["", "Traceparent: 00-nonsense\r\nTracestate: a=b\r\n", "Tracestate: a=b\r\n", TWICE]
)
async def test_create_starts_a_trace_where_none_is_valid(fields: str) -> None:
    """Its tracestate, of no trace, goes."""
    head, line = await through(mode("create"), fields)
    [value], states = traced(head)
    started = parse(value.encode())
    assert started is not None
    assert started.trace_id not in (ID, "")
    assert states == []
    assert line["trace"] == started.trace_id


async def test_the_operator_has_the_last_word() -> None:
    head, _ = await through(mode("create"), FIELDS, 'request_headers = { traceparent = "" }')
    assert traced(head)[0] == []
    head, _ = await through(mode("create"), "", 'request_headers = { traceparent = "mine" }')
    assert traced(head)[0] == ["mine"]


@pytest.mark.parametrize(("name", "fields"), [("pass", FIELDS), ("create", FIELDS), ("create", "")])
async def test_requests_of_relays_own_belong_to_the_trace(name: str, fields: str) -> None:
    upstream = await Upstream.open()
    async with running(ASK.format(mode=name, url=upstream.url)) as relay:
        client = await relay.client()
        request = f"POST /ask HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 2\r\n\r\n{{}}"
        await client.send(request.encode())
        peer, head = await upstream.request()
        body = json.dumps({"response": "yes"}).encode()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await client.until(b"0\r\n\r\n")
        values, states = traced(head)
        line = await relay.line()
        assert values[0].split("-")[1] == line["trace"]
        assert (values, states) == ([GOOD], [STATE]) or not fields
    upstream.close()


# -- spans -----------------------------------------------------------------------------------------


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of a provider of the test's own, in place of one from the environment."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "open_spans", lambda: spans.Spans(provider))
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    [span] = exporter.get_finished_spans()
    return span


async def test_an_exchange_is_a_span_between_client_and_upstream(
    exported: InMemorySpanExporter,
) -> None:
    head, line = await through(mode("otel"), FIELDS, 'name = "all"')
    span = only(exported)
    [value], states = traced(head)
    assert span.context is not None
    assert span.parent is not None
    assert format_trace_id(span.context.trace_id) == ID == line["trace"]
    assert format_span_id(span.parent.span_id) == PARENT
    assert value == f"00-{ID}-{format_span_id(span.context.span_id)}-01"
    assert states == [STATE]
    assert (span.name, span.kind) == ("GET all", SpanKind.SERVER)
    assert span.status.status_code is StatusCode.UNSET
    said = dict(span.attributes or {})
    assert said["http.route"] == "all"
    assert said["http.response.status_code"] == 204
    assert said["relay.ending"] == "complete"
    assert said["relay.id"] == line["id"]


async def test_without_a_parent_the_span_starts_the_trace(exported: InMemorySpanExporter) -> None:
    head, line = await through(mode("otel"), "")
    span = only(exported)
    assert span.parent is None
    assert span.context is not None
    assert traced(head)[0][0].split("-")[1] == format_trace_id(span.context.trace_id)
    assert line["trace"] == format_trace_id(span.context.trace_id)


async def test_a_parent_that_is_not_sampled_is_obeyed(exported: InMemorySpanExporter) -> None:
    """The id still goes on and into the log, marked as it came."""
    head, line = await through(mode("otel"), f"Traceparent: {GOOD[:-2]}00\r\n")
    assert exported.get_finished_spans() == ()
    assert traced(head)[0][0].endswith("-00")
    assert line["trace"] == ID


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_client_that_left_is_no_error_and_a_broken_upstream_is(
    exported: InMemorySpanExporter, who: str
) -> None:
    async with scene(more=mode("otel")) as (relay, upstream):
        client = await relay.get()
        peer, _ = await upstream.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        (client if who == "client" else peer).close()
        line = await relay.line()
        span = only(exported)
        said = dict(span.attributes or {})
        assert said["relay.ending"] == line["ending"]
        assert said["relay.events"] == 1
        expected = StatusCode.UNSET if who == "client" else StatusCode.ERROR
        assert span.status.status_code is expected


async def test_nothing_of_opentelemetry_is_loaded_unless_asked_for() -> None:
    """`relay.observing.spans` is the only file that knows it, and only `otel` loads that."""
    import subprocess
    import sys

    script = (
        "import sys, relay.serving.server, relay.admin.listener, relay.exchange.worker;"
        "print([n for n in sys.modules if n.startswith(('opentelemetry', 'prometheus_client'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)  # noqa: ASYNC221
    assert done.stdout.strip() == b"[]"


def test_otel_without_the_extra_is_a_mistake_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.config.keys.server.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs OpenTelemetry"):
        loads(route_to("http://127.0.0.1:9", more=mode("otel")), {})
