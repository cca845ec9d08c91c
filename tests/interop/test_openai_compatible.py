"""What vLLM, Ollama and llama.cpp put on the wire, through the routes of docs/how-to/openai-compatible.md, read by
OpenAI's package.

The servers are not here: `models.py` plays what their issue trackers tell of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from relay.config import loads
from tests.interop.late import openai
from tests.interop.models import TEXT, TOKENS
from tests.interop.processes import ROOT, Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import last_call

HOW_TO = ROOT / "docs" / "how-to"
PAGES = ("openai-compatible", "nextjs", "cloudflare-and-alb")


def blocks(page: str) -> list[str]:
    text = (HOW_TO / f"{page}.md").read_text("utf-8")
    return re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_relay_takes_the_files_of_these_pages(page: str) -> None:
    assert blocks(page)
    for block in blocks(page):
        loads(block, {"API_TOKEN": "t"})


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    with start_hypercorn("tests.interop.models:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(model: Server) -> Iterator[Server]:
    [text] = blocks("openai-compatible")
    assert text.count('first_event = "5m"') == 1
    text = text.replace("http://127.0.0.1:9000", model.url).replace('"5m"', '"1s"')
    with start_relay(f'[server]\nlisten = ["${{LISTEN}}"]\n{text}') as server:
        yield server


@pytest.fixture(scope="module")
def client(relay: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{relay.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client: Any, model: str) -> Iterator[str]:
    """The answer's text, piece by piece."""
    question = [{"role": "user", "content": "?"}]
    made = client.chat.completions.create(model=model, messages=question, stream=True)
    return (piece.choices[0].delta.content or "" for piece in made)


def ending(relay: Server, answer: httpx.Response) -> str:
    """That of the request with this answer."""
    told = answer.headers["x-request-id"]
    return str(relay.wait_for_record(lambda r: r["at"] == "end" and r["id"] == told)["ending"])


def test_a_marker_without_its_blank_line_completes(client: Any, relay: Server) -> None:
    question = [{"role": "user", "content": "?"}]
    made = client.chat.completions.create(model="unended", messages=question, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in made) == TEXT
    assert ending(relay, made.response) == "complete"


def test_an_error_before_the_marker_is_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError) as raised:
        list(ask(client, "error-done"))
    assert raised.value.code == "model_error"


def test_an_error_in_a_field_of_its_own_is_seen_by_nobody(relay: Server) -> None:
    """The page says so: it is passed on as it came, and the stream counts as complete."""
    answer = httpx.post(f"{relay.url}/v1/chat/completions", json={"model": "error-field"})
    body = answer.text
    assert '\nerror: {"error":' in body
    assert "upstream_" not in body
    assert ending(relay, answer) == "complete"


def test_pings_are_no_events(client: openai.OpenAI, model: Server) -> None:
    """A model that does nothing but ping is noticed, and stopped."""
    with pytest.raises(openai.APIError) as raised:
        list(ask(client, "pings"))
    assert raised.value.code == "upstream_silent"
    wait_until("the model is stopped", lambda: last_call(model)["state"] == "stopped")


def test_a_stream_that_just_stops_is_told(client: openai.OpenAI) -> None:
    """As Ollama's under /v1/responses: none of the events that end one."""
    with pytest.raises(openai.APIError) as raised:
        list(client.responses.create(model="unfinished", input="?", stream=True))
    assert raised.value.code == "upstream_truncated"


def test_lines_of_json_pass_one_by_one(relay: Server, model: Server) -> None:
    with httpx.stream("POST", f"{relay.url}/api/generate", json={"model": "endless"}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {"response": "on and ", "done": False}
        assert last_call(model)["state"] == "running"
    wait_until("the model is stopped", lambda: last_call(model)["state"] == "stopped")


def test_a_line_that_is_cut_stays_a_cut(relay: Server) -> None:
    """There is no place for words between lines, and no line is made whole."""
    with httpx.stream("POST", f"{relay.url}/api/generate", json={"model": "cut"}) as answer:
        pieces, seen = answer.iter_raw(), b""
        while seen.count(b"\n") < 2:
            seen += next(pieces)
        with pytest.raises(httpx.RemoteProtocolError):
            seen += b"".join(pieces)
    assert seen.count(b"\n") == 2
    lines = seen.splitlines()
    assert [json.loads(line)["response"] for line in lines[:2]] == TOKENS[:2]
    assert b"upstream" not in seen
