"""A broken stream is seen to be broken, in a browser: the terminal event is read before the cut behind it.

A browser drops what its page has not read yet when a body breaks, and curl never does, so only this shows it. Each stream
breaks inside an event, right behind a whole one; both the whole one and the terminal event must be seen, every time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.asgi_front import Broken, start_front, start_plain_front
from tests.interop.browser import Page, start_browser
from tests.interop.processes import start_relay
from tests.interop.test_terminators import NAME, ROUTES, TERMINATORS, Setup

pytestmark = pytest.mark.interop

CUTS = 50
AT_ONCE = 5  # over HTTP/1.1 a browser opens six connections to an origin
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
PAGE = b"<!doctype html><title>page</title><link rel=icon href='data:,'>"
ANSWERS = {
    b"/cut": HEAD + b"f\r\ndata: 1\n\ndata: \r\n",
    b"/page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b"
    % (len(PAGE), PAGE),
}
CONFIG = """
[server]
listen = "${{LISTEN:-127.0.0.1:0}}"
[upstreams.broken]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "broken"
"""
TOOLS = """
globalThis.found = { lost: 0, ends: {} };
globalThis.judge = (events, end) => {
  found.ends[end] = (found.ends[end] ?? 0) + 1;
  found.lost += !events.includes('1') || !events.some((event) => event.includes('upstream_broke'));
};
globalThis.byFetch = async (number) => {
  let text = '', end = 'ended';
  try {
    const response = await fetch('/cut?' + number);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
    }
  } catch (error) {
    end = error.name;
  }
  judge(text.split('\\n\\n').map((block) => block.replace('data: ', '')), end);
};
globalThis.byEventSource = async (number) => {
  const source = new EventSource('/cut?' + number);
  const events = [];
  source.onmessage = (event) => events.push(event.data);
  await new Promise((broken) => (source.onerror = broken));
  source.close();
  judge(events, 'error');
};
globalThis.all = async (read, count, at_once) => {
  globalThis.found = { lost: 0, ends: {} };
  let number = 0;
  const reader = async () => {
    while (number < count) await read(number++);
  };
  await Promise.all(Array.from({ length: at_once }, reader));
  return found;
};
"""


@contextmanager
def direct(url: str) -> Iterator[tuple[str, str]]:
    with start_relay(CONFIG.format(url=url)) as server:
        yield server.url, "http/1.1"


@contextmanager
def packaged(name: str, url: str) -> Iterator[tuple[str, str]]:
    """Behind a terminator of `relay terminator`, over HTTP/2."""
    [terminator] = [each for each in TERMINATORS if each.name == name]
    with tempfile.TemporaryDirectory(prefix="relay-tls-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        with Setup(terminator, folder, ROUTES.format(url=url)).running() as setup:
            yield f"https://{NAME}:{setup.port}", "h2"


@contextmanager
def hypercorn(url: str) -> Iterator[tuple[str, str]]:
    with start_front(CONFIG.format(url=url)) as front:
        yield front.url, "h2"


@contextmanager
def hypercorn_1(url: str) -> Iterator[tuple[str, str]]:
    with start_plain_front(CONFIG.format(url=url)) as server:
        yield server.url, "http/1.1"


PLACES: dict[str, Callable[[str], object]] = {
    "direct": direct,
    "nginx": lambda url: packaged("nginx", url),
    "haproxy": lambda url: packaged("haproxy", url),
    "caddy": lambda url: packaged("caddy", url),
    "hypercorn": hypercorn,
    "hypercorn over HTTP/1.1": hypercorn_1,
}
LOOKS_ENDED = ("haproxy", "caddy")  # over HTTP/2 they make an end of a cut


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    origin = Broken(ANSWERS)
    yield origin
    origin.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    with start_browser("--ignore-certificate-errors", rules) as page:
        yield page


@pytest.mark.parametrize("place", PLACES)
def test_no_last_word_is_lost(broken: Broken, browser: Page, place: str) -> None:
    with PLACES[place](broken.url) as (url, protocol):  # type: ignore[attr-defined]
        browser.open("about:blank#")
        browser.command("Page.navigate", url=f"{url}/page")
        browser.wait_for("document.title === 'page'")
        entry = "performance.getEntriesByType('navigation')[0]"
        assert browser.run(f"{TOOLS}; {entry}.nextHopProtocol") == protocol
        end = "ended" if place in LOOKS_ENDED else "TypeError"
        by_fetch = browser.run(f"all(byFetch, {CUTS}, {AT_ONCE})")
        assert by_fetch == {"lost": 0, "ends": {end: CUTS}}
        by_event_source = browser.run(f"all(byEventSource, {CUTS}, {AT_ONCE})")
        assert by_event_source == {"lost": 0, "ends": {"error": CUTS}}
