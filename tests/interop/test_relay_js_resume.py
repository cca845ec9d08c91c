"""relay.js with `resume: true` against a real relay, in node and in Chromium: a cut, a reload, a second tab, a stop."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import (
    ROOT,
    Server,
    require,
    start_hypercorn,
    start_relay,
    wait_until,
)

MODULE = ROOT / "relay" / "js" / "relay.js"
TESTS = ROOT / "tests" / "interop" / "relay_js_resume.test.mjs"
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
access_log = "off"
[upstreams.model]
url = "{url}"
[[routes]]
path = "/logs/{{id}}"
methods = ["GET"]
upstream = "model"
upstream_path = "/answers/{{id}}"
resume = {{ principal = "public", key = "{{id}}", at = "/streams/logs/{{key}}", stop = true }}
[[routes]]
path = "/chat/{{id}}"
methods = ["POST"]
upstream = "model"
upstream_path = "/answers/{{id}}"
resume = {{ principal = "public", key = "{{id}}", at = "/streams/chat/{{key}}", stop = true }}
[[routes]]
path = "/own/{{id}}"
methods = ["POST"]
upstream = "model"
upstream_path = "/answers/{{id}}"
resume = {{ at = "/streams/own/{{key}}", stop = true }}
[[routes]]
path = "/short/{{id}}"
methods = ["GET"]
upstream = "model"
upstream_path = "/answers/{{id}}"
resume = {{ principal = "public", key = "{{id}}", at = "/streams/short/{{key}}", log = "4KiB" }}
[[routes]]
path = "/unstoppable/{{id}}"
methods = ["GET"]
upstream = "model"
upstream_path = "/answers/{{id}}"
resume = {{ principal = "public", key = "{{id}}", at = "/streams/unstoppable/{{key}}", unwatched = "0s" }}
[[routes]]
path = "/relay.js"
methods = ["GET"]
source = "local"
local = {{ content_type = "text/javascript", body = "{{file:{module}}}" }}
[[routes]]
path = "/"
methods = ["GET"]
source = "local"
local = {{ content_type = "text/html", body = "<!doctype html><title>page</title>" }}
"""


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    with start_hypercorn("tests.interop.answers:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(model: Server) -> Iterator[Server]:
    with start_relay(CONFIG.format(url=model.url, module=MODULE)) as server:
        yield server


def test_in_node(model: Server, relay: Server) -> None:
    """Cuts, reloads, stops, ends, gaps: tests/interop/relay_js_resume.test.mjs."""
    env = {**os.environ, "RELAY_URL": relay.url, "ORIGIN_URL": model.url}
    ran = subprocess.run(
        [require("node"), "--test", str(TESTS)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]


@pytest.fixture(scope="module")
def page(relay: Server) -> Iterator[Page]:
    with start_browser() as page:
        page.command("Network.enable")
        page.open(f"{relay.url}/")
        yield page


READER = """
(async (call) => {
  const relay = await import("/relay.js");
  window.seen = [];
  window.gaps = [];
  window.ended = "";
  const reconnect = { delay: 20, maxDelay: 100 };
  const options = { resume: true, reconnect, onGap: (gap) => gaps.push(gap), onEvent: (event) => seen.push(event.json()) };
  window.stream = call(relay, options);
  stream?.finished.then(() => (ended = "clean"), (error) => (ended = error.code || error.kind));
  return Boolean(stream);
})
"""


def read(page: Page, call: str) -> bool:
    """Begin to read in the page, as `(relay, options) => stream` says; whether there was something to read."""
    return bool(page.run(f"{READER}({call})"))


def say(model: Server, id: str, order: str) -> None:
    assert httpx.put(f"{model.url}/say/{id}", content=order).status_code == 200


def begun(model: Server, id: str) -> list[str]:
    """The state of each generator that was begun for this answer."""
    calls = httpx.get(f"{model.url}/state").json()["calls"]
    return [call["state"] for call in calls if call["path"] == f"/answers/{id}"]


def offline(page: Page, down: bool) -> None:
    page.command(
        "Network.emulateNetworkConditions",
        offline=down,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )


def reload(page: Page) -> None:
    page.run("window.old = true")
    page.command("Page.reload")
    page.wait_for("!window.old && document.readyState === 'complete'")


def test_in_chromium_a_network_that_is_away_is_bridged(model: Server, page: Page) -> None:
    assert read(page, "(r, o) => r.streamEvents('/chat/net', { ...o, body: {} })")
    page.wait_for("seen.length === 1")
    offline(page, True)
    say(model, "net", '{"say": [1, 2]}')
    offline(page, False)
    page.wait_for("seen.length === 3")
    say(model, "net", '{"say": [3], "end": true}')
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", 1, 2, 3]
    assert begun(model, "net") == ["finished"]


def test_in_chromium_a_reload_in_the_middle_begins_nothing(model: Server, page: Page) -> None:
    assert read(page, "(r, o) => r.streamEvents('/own/reload', { ...o, body: {} })")
    page.wait_for("seen.length === 1")
    say(model, "reload", '{"say": [1]}')
    page.wait_for("seen.length === 2")
    for _ in range(3):
        reload(page)
        assert read(page, "(r, o) => r.rejoin('/own/reload', o)")
        page.wait_for("seen.length === 2")
    say(model, "reload", '{"say": [2], "end": true}')
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", 1, 2]
    assert begun(model, "reload") == ["finished"]
    reload(page)
    assert not read(page, "(r, o) => r.rejoin('/own/reload', o)")


def test_in_chromium_a_get_survives_a_reload_by_itself(model: Server, page: Page) -> None:
    for _ in range(2):
        assert read(page, "(r, o) => r.streamEvents('/logs/again', o)")
        page.wait_for("seen.length === 1")
        reload(page)
    assert read(page, "(r, o) => r.streamEvents('/logs/again', o)")
    page.wait_for("seen.length === 1")
    say(model, "again", '{"say": [1], "end": true}')
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", 1]
    assert begun(model, "again") == ["finished"]


def test_in_chromium_another_browser_stops_it(model: Server, relay: Server, page: Page) -> None:
    assert read(page, "(r, o) => r.streamEvents('/chat/two', { ...o, body: {} })")
    page.wait_for("seen.length === 1")
    with start_browser() as other:
        other.open(f"{relay.url}/")
        assert read(other, "(r, o) => r.streamEvents('/streams/chat/two', o)")
        other.wait_for("seen.length === 1")
        other.run("stream.stop()")
        other.wait_for("ended === 'cancelled'")
    page.wait_for("ended === 'stopped'")
    wait_until("the model is stopped", lambda: begun(model, "two") == ["stopped"])
