"""What a stream said stands in the log: on every kind of route, also when its reader left early, and nowhere twice."""

from __future__ import annotations

import json

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relay.config import ConfigError, describe, loads
from relay.flows.event_flow import EventFlow
from tests.guarantees.admin_setup import admin
from tests.guarantees.resume_setup import LOGS, event, ground
from tests.guarantees.test_trace import exported as exported  # noqa: PLC0414 - a fixture
from tests.guarantees.test_trace import only
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, route_to, running
from tests.io.sources_setup import opened

CAPTURE = """
[routes.capture]
model = "model"
input_tokens = "usage.prompt_tokens"
output_tokens = "usage.completion_tokens"
"""
MODEL = "gpt-x"


def said(**more: object) -> bytes:
    value = {"model": MODEL, "choices": [{"delta": {"content": "hi"}}], "usage": None, **more}
    return chunked(b"data: %b\n\n" % json.dumps(value).encode())


USAGE = said(usage={"prompt_tokens": 12, "completion_tokens": 34})
DONE = chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def begun(relay: Relay, up: Upstream) -> tuple[RawPeer, RawPeer]:
    client = await relay.get("/v1")
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD)
    await client.head()
    return client, peer


@pytest.mark.parametrize("keys", ["", 'complete_when = "[DONE]"\n', 'dialect = "openai"\n'])
async def test_tokens_and_model_of_a_whole_stream(keys: str) -> None:
    up = await Upstream.open()
    try:
        async with running(route_to(up, keys + CAPTURE)) as relay, admin(relay) as desk:
            for _ in range(2):
                client, peer = await begun(relay, up)
                for data in (said(), said(), USAGE, said(), DONE):
                    await peer.send(data)
                await client.until(b"0\r\n\r\n")
                line = await relay.line()
                assert line["captured"] == {
                    "model": MODEL,
                    "input_tokens": 12,
                    "output_tokens": 34,
                }
                assert line["ending"] == "complete"
                peer.close()
            figures = await desk.metrics()
            [route] = {dict(labels)["route"] for name, labels in figures if "captured" in name}
            totals = {
                dict(labels)["name"]: value
                for (name, labels), value in figures.items()
                if name == "relay_captured_total"
            }
            assert route == "/{rest...}"
            assert totals == {"input_tokens": 24, "output_tokens": 68}
    finally:
        up.close()


async def test_a_reader_that_leaves_early() -> None:
    """The usage so far of a stream that counts as it goes (Anthropic's do), with the reader gone in the middle."""
    up = await Upstream.open()
    try:
        async with running(route_to(up, CAPTURE)) as relay:
            client, peer = await begun(relay, up)
            await peer.send(USAGE + said())
            await client.until(b'"usage": null')
            client.close()
            line = await relay.line()
            assert line["ending"] == "client_left"
            assert line["captured"] == {"model": MODEL, "input_tokens": 12, "output_tokens": 34}
    finally:
        up.close()


async def test_an_upstream_that_breaks_inside_an_event() -> None:
    up = await Upstream.open()
    try:
        async with running(route_to(up, CAPTURE)) as relay:
            client, peer = await begun(relay, up)
            await peer.send(said() + USAGE[:-20])
            await client.until(b"usage")
            peer.close()
            line = await relay.line()
            assert line["ending"] == "upstream_broke"
            assert line["captured"] == {"model": MODEL}
    finally:
        up.close()


async def test_the_client_gets_the_same_bytes() -> None:
    stream = said() + USAGE + chunked(b": a comment\n\n") + said() + DONE
    up = await Upstream.open()
    try:
        heads = []
        for keys in ("", CAPTURE):
            async with running(route_to(up, keys)) as relay:
                client, peer = await begun(relay, up)
                await peer.send(stream)
                heads.append(await client.until(b"0\r\n\r\n"))
                peer.close()
                line = await relay.line()
                assert ("captured" in line) == bool(keys)
        assert heads[0] == heads[1]
    finally:
        up.close()


async def test_a_translated_stream_is_read_as_the_upstream_sent_it() -> None:
    """The client is not told the usage; the log is."""
    more = """
[translations.short.choices]
carry = false
fields = { text = "choices[0].delta.content" }
"""
    up = await Upstream.open()
    try:
        text = route_to(up, 'translate = "short"\n' + CAPTURE, more=more)
        async with running(text) as relay:
            client, peer = await begun(relay, up)
            await peer.send(said() + USAGE + DONE)
            shown = await client.until(b"0\r\n\r\n")
            assert b"prompt_tokens" not in shown
            line = await relay.line()
            assert line["captured"] == {"model": MODEL, "input_tokens": 12, "output_tokens": 34}
    finally:
        up.close()


async def test_enqueue() -> None:
    up = await Upstream.open()
    route = """
methods = ["POST"]
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/message"
[routes.follow]
upstream = "backend"
path = "/stream?id={reply.id}"
"""
    text = f'[upstreams.backend]\nurl = "{up.url}"\nkeepalive_idle = "0s"\n'
    try:
        async with running(f'{text}[[routes]]\npath = "/s"{route}{CAPTURE}') as relay:
            client = await relay.client()
            await client.send(b"POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
            job, _ = await up.request()
            await job.send(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"id": 1}')
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + said() + USAGE + DONE)
            await client.until(b"[DONE]")
            line = await relay.line()
            assert line["captured"] == {"model": MODEL, "input_tokens": 12, "output_tokens": 34}
    finally:
        up.close()


async def test_answer_says_what_the_backend_said_and_what_its_events_say() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 6}
    async with opened() as backend:
        text = f"""
[upstreams.pipeline]
url = "{backend.url}"
[[routes]]
path = "/ask"
source = "answer"
[routes.answer]
upstream = "pipeline"
path = "/api/ask"
text = "response"
pace = "1ms"
{CAPTURE}
pieces = "total"
kind = "type"
"""
        async with running(text) as relay:
            client = await relay.client()
            await client.send(b"POST /ask HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
            asked = await backend.asked()
            await asked.answer(200, {"response": "one two", "model": "m", "usage": usage})
            await client.until(b"0\r\n\r\n")
            line = await relay.line()
            assert line["captured"] == {
                "model": "m",
                "input_tokens": 5,
                "output_tokens": 6,
                "pieces": 1,
                "kind": "complete",
            }


async def test_a_run_says_it_once_and_each_of_its_readers_what_it_had_said() -> None:
    """1. A run says its model, and a reader leaves. 2. It says its usage, and ends. 3. A late reader replays it."""
    async with ground(LOGS, more=CAPTURE) as g, admin(g.relay) as desk:
        first, peer = await g.begun()
        await peer.send(event('{"model": "m"}'))
        await first.until(1)
        second = await g.read()
        await second.until(1)
        second.close()
        line = await g.relay.line()
        assert (line["ending"], line["captured"]) == ("client_left", {"model": "m"})
        await peer.send(event('{"usage": {"prompt_tokens": 3}}') + b"0\r\n\r\n")
        await first.rest()
        whole = {"model": "m", "input_tokens": 3}
        late = await g.read("GET", "/at/7")
        await late.rest()
        ended: list[dict[str, object]] = []
        while len(ended) < 3:  # of the run, and of its two readers, in any order
            line = await g.relay.log.line({})
            ended += [line] if line["at"] != "start" else []
        assert sorted(str(each["at"]) for each in ended) == ["end", "end", "run"]
        assert all(each["captured"] == whole for each in ended)
        figures = await desk.metrics()
        totals = {
            dict(labels)["name"]: value
            for (name, labels), value in figures.items()
            if name == "relay_captured_total"
        }
        assert totals == {"input_tokens": 3}


async def test_a_capture_does_not_change_what_a_reader_of_an_ended_run_gets() -> None:
    """Without a marker a clean end is no word that the stream is over: an EventSource that comes back is told the same."""
    heads = []
    for more in ("", CAPTURE):
        async with ground(LOGS, more=more) as g:
            first, peer = await g.begun()
            await peer.send(event('{"model": "m"}') + b"0\r\n\r\n")
            await first.rest()
            again = await g.ask("GET", "/at/7", cursor=first.ids[-1])
            heads.append((await again.head()).status)
    assert heads[0] == heads[1]


async def test_the_span_says_it(exported: InMemorySpanExporter) -> None:
    up = await Upstream.open()
    try:
        text = route_to(up, CAPTURE, more='[server]\ntrace = "otel"\n')
        async with running(text) as relay:
            client, peer = await begun(relay, up)
            await peer.send(USAGE + DONE)
            await client.until(b"0\r\n\r\n")
            await relay.line()
            attributes = only(exported).attributes
            assert attributes is not None
            assert attributes["relay.captured.model"] == MODEL
            assert attributes["relay.captured.output_tokens"] == 34
    finally:
        up.close()


async def test_a_route_without_a_capture_has_nobody_look() -> None:
    up = await Upstream.open()
    try:
        async with running(route_to(up)) as relay:
            client, peer = await begun(relay, up)
            await peer.send(said())
            await client.until(b"usage")
            [transfer] = relay.worker.registry
            assert isinstance(transfer.flow, EventFlow)
            assert transfer.flow.completion is None
            assert transfer.record.capture is None
    finally:
        up.close()


def test_check_shows_what_is_captured() -> None:
    text = describe(loads(route_to("http://127.0.0.1:1", CAPTURE), {}))
    assert "captures model input_tokens output_tokens" in text


WRONG = {
    'x = "a."': ("routes[0].capture.x", "ends too early"),
    'x = ""': ("routes[0].capture.x", "it is empty"),
    "x = 1": ("routes[0].capture.x", "written in quotes"),
    'x = "lenght(a)"': ("routes[0].capture.x", "there is no function"),
    '"a-b" = "a"': ("routes[0].capture.a-b", "a name is"),
    "\n".join(f'x{n} = "a"' for n in range(17)): ("routes[0].capture", "at most 16"),
}


@pytest.mark.parametrize(("lines", "wrong"), WRONG.items(), ids=range(len(WRONG)))
def test_a_mistake_names_its_key(lines: str, wrong: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(route_to("http://127.0.0.1:1", f"[routes.capture]\n{lines}\n"), {})
    [mistake] = caught.value.mistakes
    assert mistake.key == wrong[0]
    assert wrong[1] in mistake.message


def test_where_there_are_no_events_it_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"routes\[0\].capture.*no effect with stream"):
        loads(route_to("http://127.0.0.1:1", 'stream = "bytes"\n' + CAPTURE), {})
    with pytest.raises(ConfigError, match=r"routes\[0\].capture.*brings no events"):
        loads('[[routes]]\npath = "/"\nsource = "local"\n' + CAPTURE, {})
