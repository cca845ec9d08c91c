"""The `openai` and `anthropic` packages, and httpx-sse, streaming through relay.

Each is held to the same: all of it, a break inside an event, an end without its marker, an error of
the model's own, a model that fell silent, and a client that goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import httpx_sse
import pytest
import trio

from tests.interop.late import anthropic, openai
from tests.interop.models import TEXT, TOKENS
from tests.interop.processes import Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import calls, last_call

ASKED: Any = {"role": "user", "content": "?"}
Piece = TypeVar("Piece")
START = "".join(TOKENS[:2])  # what a stream that breaks has said until then
BROKEN = {
    "cut": "upstream_broke",
    "unfinished": "upstream_truncated",
    "silent": "upstream_silent",
}
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.model]
url = "{url}"
"""
ROUTE = """
[[routes]]
path = "/{after}{path}"
upstream = "model"
upstream_path = "{path}"
dialect = "{dialect}"
complete_when = "{marker}"
after_error = "{after}"
heartbeat = "50ms"
event_idle = "500ms"
"""
ROUTES = [
    ("/v1/chat/completions", "openai", "[DONE]"),
    ("/v1/responses", "openai", "event:response.completed|event:response.incomplete|event:error"),
    ("/v1/messages", "anthropic", "event:message_stop|event:error"),
]


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    with start_hypercorn("tests.interop.models:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(model: Server) -> Iterator[Server]:
    config = CONFIG.format(url=model.url)
    for after in ("abort", "close"):
        for path, dialect, marker in ROUTES:
            config += ROUTE.format(after=after, path=path, dialect=dialect, marker=marker)
    with start_relay(config) as server:
        yield server


@pytest.fixture(params=["abort", "close"])
def base(request: pytest.FixtureRequest, relay: Server) -> str:
    """Both ways to end after an error."""
    return f"{relay.url}/{request.param}"


def stopped(model: Server) -> None:
    wait_until("the model is stopped", lambda: last_call(model)["state"] == "stopped")


def keep(pieces: Iterator[Piece], into: list[Piece]) -> None:
    """Read them all; those before an exception are kept (`extend` does not promise that)."""
    for piece in pieces:
        into.append(piece)


# -- openai ----------------------------------------------------------------------------------------


@pytest.fixture
def gpt(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, script: str) -> Iterator[str]:
    with client.chat.completions.create(model=script, messages=[ASKED], stream=True) as stream:
        for piece in stream:
            yield piece.choices[0].delta.content or ""


def respond(client: openai.OpenAI, script: str) -> Iterator[str]:
    with client.responses.create(model=script, input="?", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta


def message(client: anthropic.Anthropic, script: str) -> Iterator[str]:
    with client.messages.stream(model=script, messages=[ASKED], max_tokens=9) as stream:
        yield from stream.text_stream


def test_openai_chat_is_complete(gpt: openai.OpenAI) -> None:
    assert "".join(chat(gpt, "complete")) == TEXT


@pytest.mark.parametrize("script", BROKEN)
def test_openai_chat_hears_of_a_broken_stream(gpt: openai.OpenAI, script: str) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIError) as raised:
        keep(chat(gpt, script), got)
    assert "".join(got) == (TEXT if script == "unfinished" else START)
    error = raised.value
    assert error.body == {
        "type": "server_error",
        "code": BROKEN[script],
        "message": error.message,
        "retryable": True,
        "param": None,
    }
    assert "upstream" in error.message or "no event" in error.message


def test_openai_chat_hears_the_models_own_error(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="the model fell over") as raised:
        list(chat(gpt, "error"))
    assert raised.value.code == "model_error"


def test_openai_chat_hears_an_error_status(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="too many"):
        list(chat(gpt, "busy"))


def test_openai_chat_stops_the_model(gpt: openai.OpenAI, model: Server) -> None:
    stream = chat(gpt, "endless")
    for _ in range(3):
        next(stream)
    assert last_call(model)["state"] == "running"
    stream.close()  # type: ignore[attr-defined]
    stopped(model)


def test_openai_responses_are_complete(gpt: openai.OpenAI) -> None:
    assert "".join(respond(gpt, "complete")) == TEXT


@pytest.mark.parametrize("script", BROKEN)
def test_openai_responses_hear_of_a_broken_stream(gpt: openai.OpenAI, script: str) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIError) as raised:
        keep(respond(gpt, script), got)
    assert raised.value.code == BROKEN[script]
    assert "".join(got) == (TEXT if script == "unfinished" else START)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_openai_cancelled_by_a_scope_stops_the_model(base: str, model: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        with trio.CancelScope() as scope:
            stream = await client.chat.completions.create(
                model="endless",
                messages=[ASKED],
                stream=True,
            )
            async with stream:
                async for _ in stream:
                    scope.cancel()
    await trio.to_thread.run_sync(stopped, model)


# -- anthropic -------------------------------------------------------------------------------------


@pytest.fixture
def claude(base: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base, api_key="k", max_retries=0) as client:
        yield client


def test_anthropic_is_complete(claude: anthropic.Anthropic) -> None:
    assert "".join(message(claude, "complete")) == TEXT


@pytest.mark.parametrize("script", BROKEN)
def test_anthropic_hears_of_a_broken_stream(claude: anthropic.Anthropic, script: str) -> None:
    got: list[str] = []
    with pytest.raises(anthropic.APIStatusError) as raised:
        keep(message(claude, script), got)
    assert "".join(got) == (TEXT if script == "unfinished" else START)
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert (body["error"]["type"], body["error"]["code"]) == ("api_error", BROKEN[script])
    assert body["error"]["message"] in raised.value.message


def test_anthropic_hears_the_models_own_error(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="too many people"):
        list(message(claude, "error"))


def test_anthropic_hears_an_error_status(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        list(message(claude, "busy"))
    assert raised.value.status_code == 529


def test_anthropic_stops_the_model(claude: anthropic.Anthropic, model: Server) -> None:
    stream = message(claude, "endless")
    for _ in range(3):
        next(stream)
    assert last_call(model)["state"] == "running"
    stream.close()  # type: ignore[attr-defined]
    stopped(model)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_anthropic_cancelled_by_a_scope_stops_the_model(base: str, model: Server) -> None:
    async with anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client:
        with trio.CancelScope() as scope:
            async with client.messages.stream(
                model="endless",
                messages=[ASKED],
                max_tokens=9,
            ) as stream:
                async for _ in stream.text_stream:
                    scope.cancel()
    await trio.to_thread.run_sync(stopped, model)


# -- httpx-sse -------------------------------------------------------------------------------------


def test_httpx_sse_reads_every_event(relay: Server) -> None:
    url = f"{relay.url}/abort/v1/messages"
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "POST", url, json={"model": "complete"}) as source,
    ):
        events = list(source.iter_sse())
    texts = [event.json()["delta"]["text"] for event in events if "block_delta" in event.event]
    assert "".join(texts) == TEXT
    assert events[-1].event == "message_stop"


def test_httpx_sse_reads_the_terminal_event_and_sees_the_cut(relay: Server) -> None:
    url = f"{relay.url}/abort/v1/messages"
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "POST", url, json={"model": "cut"}) as source,
    ):
        events: list[httpx_sse.ServerSentEvent] = []
        with pytest.raises(httpx.RemoteProtocolError):
            keep(source.iter_sse(), events)
    assert events[-1].event == "error"
    assert events[-1].json()["error"]["code"] == "upstream_broke"


def test_httpx_sse_stops_the_model(relay: Server, model: Server) -> None:
    url = f"{relay.url}/abort/v1/messages"
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "POST", url, json={"model": "endless"}) as source,
    ):
        events = source.iter_sse()
        next(events)
        assert last_call(model)["state"] == "running"
    stopped(model)


def test_the_log_tells_the_endings_apart(relay: Server, model: Server) -> None:
    endings = {record["ending"] for record in relay.records if record["at"] == "end"}
    assert endings >= {"complete", "client_left", *BROKEN.values()}
    assert not [call for call in calls(model) if call["state"] == "running"]
    assert "Traceback" not in relay.stderr.text
