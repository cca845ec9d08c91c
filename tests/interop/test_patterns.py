"""An unchanged client of each pattern works behind relay: the examples as they are, real pages in Chromium.

The clients (`npm/patterns/`) are written as the patterns describe them and know nothing of relay. The hook of Ask is
React; the others are what pages write by hand, or an EventSource.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import (
    ROOT,
    Server,
    free_port,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import last_call

EXAMPLES = ROOT / "examples"
TOKEN = "t0ken-of-the-backend"
PAGES = """
[[routes]]
path = "/page/{{file...}}"
source = "files"
files = {{ directory = "{pages}" }}
"""


@pytest.fixture(scope="module")
def pages(built: Callable[[str], Path]) -> Path:
    """The page with the clients, built by Vite."""
    return built("patterns")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page


def configuration(system: str, pages: Path) -> str:
    """The example's own, and the page beside it."""
    return (EXAMPLES / system / "relay.toml").read_text() + PAGES.format(pages=pages)


def opened(browser: Page, server: Server) -> Page:
    browser.open(f"{server.url}/page/")
    browser.wait_for("window.clients !== undefined")
    return browser


def backend_of(system: str, **env: str) -> Any:
    return start_hypercorn("backend:app", cwd=EXAMPLES / system, env=env)


# -- ask -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Server]:
    with backend_of("ask") as server:
        yield server


@pytest.fixture
def asking(pipeline: Server, pages: Path, browser: Page) -> Iterator[Page]:
    with start_relay(configuration("ask", pages), {"PIPELINE_URL": pipeline.url}) as relay:
        yield opened(browser, relay)


def ask(page: Page, query: str) -> None:
    page.run("document.querySelector('#query').focus()")
    page.command("Input.insertText", text=query)
    page.run("document.querySelector('#ask').click()")


def shown(page: Page) -> dict[str, Any]:
    """What the hook says, once it streams no more."""
    at_rest = "JSON.parse(document.querySelector('#shown').textContent).streaming === false"
    page.wait_for(at_rest)
    said: dict[str, Any] = json.loads(page.run("document.querySelector('#shown').textContent"))
    return said


def test_ask_shows_the_answer(asking: Page, pipeline: Server) -> None:
    query = "does it show 你好, 👩\u200d👩\u200d👧\u200d👦 and e\u0301?"
    whole = httpx.post(f"{pipeline.url}/api/ask", json={"query": query}).json()["response"]
    ask(asking, query)
    asking.wait_for(f"document.querySelector('#text').textContent === {json.dumps(whole)}")
    said = shown(asking)
    assert (said["text"], said["query"], said["success"]) == (whole, query, True)
    assert said["metadata"] == {"confidence": 0.87, "sources": ["handbook.pdf"]}
    assert said["startedAt"].startswith("20"), "a time that a page can read"
    assert said["error"] is None
    assert not asking.errors()


@pytest.mark.parametrize(
    ("query", "code", "retryable"),
    [("", "BAD_REQUEST", False), ("refuse", "UNAVAILABLE", True), ("html", "BAD_ANSWER", False)],
)
def test_ask_shows_what_went_wrong(asking: Page, query: str, code: str, retryable: bool) -> None:
    ask(asking, query)
    asking.wait_for("JSON.parse(document.querySelector('#shown').textContent).error !== null")
    said = shown(asking)
    assert (said["error"]["code"], said["error"]["retryable"]) == (code, retryable)
    assert said["error"]["message"]
    assert (said["text"], said["success"]) == ("", None)


def test_ask_is_cancelled(asking: Page, pipeline: Server) -> None:
    ask(asking, "slow")
    asking.wait_for("JSON.parse(document.querySelector('#shown').textContent).query === 'slow'")
    asking.run("document.querySelector('#cancel').click()")
    wait_until("the pipeline is stopped", lambda: last_call(pipeline)["state"] == "stopped")
    assert shown(asking)["error"] is None


# -- query stream ----------------------------------------------------------------------------------


def test_a_palette_stops_what_is_no_longer_wanted(pages: Path, browser: Page) -> None:
    with (
        backend_of("query-stream") as model,
        start_relay(configuration("query-stream", pages), {"BACKEND_URL": model.url}) as relay,
    ):
        page = opened(browser, relay)
        page.run("window.palette = new clients.Palette(), palette.ask('one'), 0")
        page.wait_for("palette.text.startsWith('A relay passes on')")
        first = last_call(model)["number"]
        page.run("palette.ask('two'), 0")
        page.wait_for("palette.text.startsWith('A relay')")
        wait_until("the first is stopped", lambda: state_of(model, first) == "stopped")
        httpx.post(f"{model.url}/faults", json={"half": True})
        page.wait_for("palette.problem !== ''")
        assert page.run("palette.problem") == "the upstream closed before the body was whole"


def state_of(backend: Server, number: int) -> str:
    calls = httpx.get(f"{backend.url}/state").json()["calls"]
    return str(next(call["state"] for call in calls if call["number"] == number))


# -- message broker --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chatting(pages: Path, browser: Page) -> Iterator[Callable[[str], dict[str, Any]]]:
    env = {"BROKER_API_KEY": TOKEN, "ENGINE_URL": "http://127.0.0.1:1"}
    with (
        backend_of("message-broker", BROKER_API_KEY=TOKEN) as broker,
        start_relay(
            configuration("message-broker", pages), {**env, "BROKER_URL": broker.url}
        ) as relay,
    ):
        page = opened(browser, relay)

        def say(message: str) -> dict[str, Any]:
            script = "(async () => { const chat = new clients.Chat(); await chat.send('ann', %s); return chat; })()"
            said: dict[str, Any] = page.run(script % json.dumps(message))
            return said

        yield say


def test_a_chat_hears_the_pages_words(chatting: Callable[[str], dict[str, Any]]) -> None:
    said = chatting("hello")
    assert said["words"] == ["status", "progress", "complete"]
    assert said["state"] == "queued"
    assert said["answer"] == said["progress"].strip()
    assert said["problem"] is None


@pytest.mark.parametrize("message", ["timeout", "lost", "refuse"])
def test_a_chat_hears_what_went_wrong(
    chatting: Callable[[str], dict[str, Any]], message: str
) -> None:
    said = chatting(message)
    assert said["words"][-1] == "error"
    assert said["problem"]
    assert said["answer"] is None


# -- event gateway ---------------------------------------------------------------------------------


def test_an_event_source_follows_an_entity_through_everything(pages: Path, browser: Page) -> None:
    """Another origin, and no token in the page. 1. The changes come. 2. The backend breaks off inside an event: the
    source comes back behind the last change it has seen. 3. The backend is gone: the source does not give up. 4. It is
    there again: the changes go on. Nothing that is no change has reached the page."""
    port, other = free_port(), f"http://127.0.0.1:{free_port()}"
    quick = 'retry_hint = "100ms"\n'
    config = configuration("event-gateway", pages).replace(
        'heartbeat = "15s"', quick + 'heartbeat = "50ms"'
    )

    def backend() -> Any:
        env = {"BACKEND_TOKEN": TOKEN}
        return start_hypercorn("backend:app", cwd=EXAMPLES / "event-gateway", env=env, port=port)

    env = {"BACKEND_URL": f"http://127.0.0.1:{port}", "BACKEND_TOKEN": TOKEN}
    here = {"LISTEN": other.removeprefix("http://"), "APP_ORIGIN": other}  # serves the page alone
    with (
        start_relay(config, {**env, **here}) as app,
        start_relay(config, {**env, "APP_ORIGIN": app.url}) as relay,
    ):
        page = opened(browser, app)
        with backend() as bus:
            url = f"{relay.url}/api/events/file.123"
            page.run(f"window.changes = new clients.Changes('{url}', 'file'), 0")
            page.wait_for("changes.numbers.length >= 3")
            assert page.run("changes.opened") == 1
            httpx.post(f"{bus.url}/faults", json={"half": True})
            page.wait_for("changes.opened === 2")
            bus.kill()
        seen = page.run("changes.numbers.length")
        page.wait_for("changes.opened >= 4")  # 200 and a hint each time, and nobody behind it
        with backend():
            page.wait_for(f"changes.numbers.length > {seen}")
        assert page.run("changes.source.readyState") in (0, 1)
        assert page.run("changes.broken") is None
        page.run("changes.source.close()")
        assert TOKEN not in json.dumps(list(page.messages))


# -- workload logs ---------------------------------------------------------------------------------


def test_a_log_viewer_shows_lines_and_nothing_else(pages: Path, browser: Page) -> None:
    with (
        backend_of("workload-logs") as service,
        start_relay(configuration("workload-logs", pages), {"BACKEND_URL": service.url}) as relay,
    ):
        page = opened(browser, relay)
        page.run("window.log = new clients.Log('/api/v1/workloads/trainer/logs'), 0")
        page.wait_for("log.lines.length >= 3")
        httpx.post(f"{service.url}/faults", json={"half": True})
        page.wait_for("log.source.readyState === 0")
        before = page.run("log.lines.length")
        # It came back by itself, behind the last line
        page.wait_for(f"log.lines.length > {before}")
        assert page.run("log.lines.every((line) => typeof line === 'string')")
        page.run("log.source.close()")
        page.run("window.log = new clients.Log('/api/v1/workloads/missing/logs'), 0")
        page.wait_for("log.source.readyState === 2")  # a 404 stays one, and ends an EventSource
        assert page.run("log.lines.length") == 0
