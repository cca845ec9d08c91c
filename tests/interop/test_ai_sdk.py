"""The AI SDK of Vercel, through relay: `streamText` in node, `useChat` of its React package in Chromium.

Each is held to the same: all of it, a break inside an event, an end without its marker, a model that
fell silent, an error of the model's own, a stop by the reader, and one by an operator.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.models import TEXT, TOKENS
from tests.interop.processes import (
    Server,
    free_port,
    require,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import last_call

LOADS = itertools.count()  # a new query is a new page, a new fragment alone is not
START = "".join(TOKENS[:2])  # what a stream that breaks has said until then
BROKEN = {  # script → what is said of it
    "cut": "the upstream closed before the body was whole",
    "unfinished": "the upstream ended without its completion marker",
    "silent": "no event for",
}
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
admin = "127.0.0.1:{admin}"
[upstreams.model]
url = "{url}"
[[routes]]
path = "/{{mood}}/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
dialect = "openai"
complete_when = "[DONE]"
[[routes]]
path = "/abort/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
dialect = "openai"
after_error = "abort"
[[routes]]
path = "/silent/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
dialect = "openai"
event_idle = "500ms"
[[routes]]
path = "/{{mood}}/chat"
upstream = "model"
upstream_path = "/api/chat"
dialect = "ai-sdk"
complete_when = "[DONE]"
heartbeat = "50ms"
[[routes]]
path = "/silent/chat"
upstream = "model"
upstream_path = "/api/chat"
dialect = "ai-sdk"
event_idle = "500ms"
[[routes]]
path = "/{{page...}}"
source = "files"
files = {{ directory = "{pages}" }}
"""


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    with start_hypercorn("tests.interop.models:app") as server:
        yield server


@pytest.fixture(scope="module")
def pages(built: Callable[[str], Path]) -> Path:
    """The page with `useChat`, built by Vite."""
    return built("use_chat")


@pytest.fixture(scope="module")
def admin() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def relay(model: Server, pages: Path, admin: str) -> Iterator[Server]:
    port = admin.rpartition(":")[2]
    with start_relay(CONFIG.format(url=model.url, pages=pages, admin=port)) as server:
        yield server


# -- streamText ------------------------------------------------------------------------------------


def stream_text(npm: Path, relay: Server, script: str, mood: str = "") -> dict[str, Any]:
    base = f"{relay.url}/{mood or script}/v1"
    command: list[str | Path] = [require("node"), npm / "stream_text.mjs", base, script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_stream_text_is_complete(npm: Path, relay: Server) -> None:
    assert stream_text(npm, relay, "complete") == {
        "text": TEXT,
        "told": [],
        "thrown": "",
    }


@pytest.mark.parametrize("script", BROKEN)
def test_stream_text_hears_of_a_broken_stream(npm: Path, relay: Server, script: str) -> None:
    """It is told by its own `onError`, in the words of relay, and nothing is thrown past it."""
    heard = stream_text(npm, relay, script)
    assert heard["text"] == (TEXT if script == "unfinished" else START)
    (message,) = heard["told"]
    assert BROKEN[script] in message
    assert heard["thrown"] == ""


def test_stream_text_does_not_bear_an_abort(npm: Path, relay: Server) -> None:
    """Why `after_error` is "close" in these dialects: behind an abort the SDK throws a second,
    meaningless error out of the iteration."""
    heard = stream_text(npm, relay, "cut", "abort")
    assert heard["text"] == START
    assert heard["thrown"] or len(heard["told"]) > 1


# -- useChat ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page


def ask(browser: Page, relay: Server, script: str) -> None:
    browser.open(f"{relay.url}/?{next(LOADS)}#/{script}/chat")
    browser.wait_for("document.querySelector('#send') !== null")
    browser.run("document.querySelector('#text').focus()")
    browser.command("Input.insertText", text=script)
    browser.run("document.querySelector('#send').click()")


def shown(browser: Page, what: str) -> str:
    return str(browser.run(f"document.querySelector('#{what}').textContent"))


def ends(browser: Page, status: str) -> None:
    browser.wait_for(f"document.querySelector('#status').textContent === '{status}'")


def test_use_chat_is_complete(browser: Page, relay: Server) -> None:
    ask(browser, relay, "complete")
    browser.wait_for(f"document.querySelector('#answer').textContent === {json.dumps(TEXT)}")
    ends(browser, "ready")
    assert shown(browser, "error") == ""


@pytest.mark.parametrize("script", [*BROKEN, "error"])
def test_use_chat_shows_that_a_stream_broke(browser: Page, relay: Server, script: str) -> None:
    """What was said stays, and the error is relay's word (or the model's own), not "network error"."""
    ask(browser, relay, script)
    ends(browser, "error")
    assert shown(browser, "answer") == (TEXT if script == "unfinished" else START)
    assert {**BROKEN, "error": "the model fell over"}[script] in shown(browser, "error")


def test_use_chat_stops_the_model(browser: Page, relay: Server, model: Server) -> None:
    ask(browser, relay, "endless")
    browser.wait_for("document.querySelector('#answer').textContent.length > 20")
    browser.run("document.querySelector('#stop').click()")
    ends(browser, "ready")
    wait_until("the model is stopped", lambda: last_call(model)["state"] == "stopped")


def test_use_chat_takes_an_operators_stop_for_no_error(
    browser: Page, relay: Server, admin: str
) -> None:
    ask(browser, relay, "endless")
    browser.wait_for("document.querySelector('#answer').textContent.length > 20")
    (stream,) = httpx.get(f"{admin}/streams").json()["streams"]
    assert httpx.delete(f"{admin}/streams/{stream['id']}").is_success
    ends(browser, "ready")
    assert shown(browser, "error") == ""
    assert "on and on and" in shown(browser, "answer")
