"""Chromium over HTTP/2 against what `relay terminator` prints: twenty EventSources at once, and each that leaves.

The backend sends an event when the test says so and nothing in between, heartbeats are off: whoever notices a reader's
leaving at the next write notices nothing here. relay's log says how far each stream had come when its upstream was closed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.interop.asgi_front import Broken
from tests.interop.browser import Page, start_browser
from tests.interop.processes import Server, start_hypercorn, wait_until
from tests.interop.reading import calls
from tests.interop.test_asgi_chromium import AT_ONCE, BROKEN, TOOLS
from tests.interop.test_terminators import NAME, TERMINATORS, Setup

pytestmark = pytest.mark.interop
LEAVE = 7
ROUTES = """
[upstreams.origin]
url = "{origin}"
[upstreams.broken]
url = "{broken}"
[[routes]]
path = "/page"
source = "local"
[routes.local]
content_type = "text/html"
body = "<!doctype html><title>page</title><link rel=icon href='data:,'>"
[[routes]]
path = "/steps"
upstream = "origin"
heartbeat = "off"
[[routes]]
path = "/broken/{{rest...}}"
upstream = "broken"
upstream_path = "/{{rest}}"
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module", params=["nginx", "haproxy", "caddy"])
def setup(request: pytest.FixtureRequest, origin: Server) -> Iterator[Setup]:
    [terminator] = [each for each in TERMINATORS if each.name == request.param]
    broken = Broken(BROKEN)
    routes = ROUTES.format(origin=origin.url, broken=broken.url)
    with tempfile.TemporaryDirectory(prefix="relay-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # some leave root behind, and have to get there
        with Setup(terminator, folder, routes).running() as running:
            yield running
    broken.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    # Otherwise Chromium keeps a page that was left, and its streams, for a way back.
    flags = ["--ignore-certificate-errors", "--disable-features=BackForwardCache"]
    with start_browser(*flags, f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as page:
        yield page


@pytest.fixture
def page(browser: Page, setup: Setup) -> Page:
    browser.open("about:blank#")
    browser.command("Page.navigate", url=f"https://{NAME}:{setup.port}/page")
    browser.wait_for("document.title === 'page'")
    assert browser.run(TOOLS + "; version()") == ["h2"]
    return browser


def step(origin: Server) -> None:
    assert httpx.post(f"{origin.url}/step").status_code == 200


def told(setup: Setup, at: str) -> list[dict[str, object]]:
    """The lines of the access log about the streams of /steps."""
    return [line for line in setup.relay.records if line["at"] == at and line["path"] == "/steps"]


def test_twenty_event_sources_and_each_that_leaves(
    page: Page, setup: Setup, origin: Server
) -> None:
    """1. Twenty streams are open over one connection. 2. Each event reaches all of them before there is another. 3. Seven
    are closed by the page, and nothing more is sent: relay closes their upstreams at the event they had come to. 4. The
    others go on. 5. The page is left: the same for those."""
    page.run(f"listen({AT_ONCE}, '/steps?n='); 0")
    wait_until("all have begun", lambda: len(told(setup, "start")) == AT_ONCE)
    for heard in range(1, 4):
        step(origin)
        page.wait_for(f"least() === {heard}")
    page.run(f"sources.slice(0, {LEAVE}).forEach((heard) => heard.source.close()); 0")
    wait_until("those are closed", lambda: len(told(setup, "end")) == LEAVE)
    step(origin)
    page.wait_for(f"sources.slice({LEAVE}).every((heard) => heard.data.length === 4)")
    assert page.run("sources.map((heard) => heard.errors)") == [0] * AT_ONCE
    page.command("Page.navigate", url="about:blank")
    wait_until("all are closed", lambda: len(told(setup, "end")) == AT_ONCE)
    lines = [(line["ending"], line["side"], line["events"]) for line in told(setup, "end")]
    left = [("client_left", "client", 3)] * LEAVE
    assert lines == left + [("client_left", "client", 4)] * (AT_ONCE - LEAVE)
    wait_until(
        "the backend works for nobody",
        lambda: {call["state"] for call in calls(origin, "/steps")} == {"stopped"},
    )


def test_a_cut_is_seen(page: Page) -> None:
    """The terminal event is there, and the EventSource sees an error, not silence."""
    page.run("listen(1, '/broken/events?'); 0")
    page.wait_for("sources[0].errors > 0")
    page.run("sources[0].source.close()")
    data = page.run("sources[0].data")
    assert data[0] == 1
    assert data[1]["code"] == "upstream_broke"
