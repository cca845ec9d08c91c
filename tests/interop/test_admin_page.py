"""The live page of the admin listener in a real browser, with many streams under way.

With RELAY_SCREENSHOTS=folder a picture of it is written there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop import phones
from tests.interop.browser import Page, start_browser
from tests.interop.processes import Server, start_relay, wait_until

STREAMS = 120
ROWS = 50  # of one page of the list
TICK = 0.1  # seconds from one event of a stream to the next
TOKEN = "0pen-sesame"
CONFIG = """
[server]
listen = "${LISTEN}"
admin = "127.0.0.1:0"
%s
[upstreams.backend]
url = "http://127.0.0.1:${PORT}"
[[routes]]
name = "events"
path = "/{rest...}"
upstream = "backend"
"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"a\r\ndata: 42\n\n\r\n"


class Origin:
    """Endless event streams, an event each TICK, from one thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(TICK)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept), threading.Thread(target=self._say)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                peer, _ = self._listener.accept()
                peer.recv(65536)
                peer.sendall(HEAD)
                self._open.append(peer)

    def _say(self) -> None:
        while not self._stop.wait(TICK):
            for peer in list(self._open):
                try:
                    peer.sendall(EVENT)
                except OSError:
                    self._open.remove(peer)
                    peer.close()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for peer in (*self._open, self._listener):
            peer.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    running = Origin()
    yield running
    running.close()


@contextlib.contextmanager
def relay(origin: Origin, keys: str = "") -> Iterator[tuple[Server, str]]:
    """A relay, and where its page is."""
    with start_relay(CONFIG % keys, {"PORT": str(origin.port)}) as server:
        line = server.wait_for_line("relay: admin on ") or server.stderr.wait_for("relay: admin on")
        yield server, f"http://{line.partition(' on ')[2]}/"


@contextlib.contextmanager
def crowd(server: Server, count: int, path: str = "/stream/%d") -> Iterator[list[socket.socket]]:
    """So many clients with a stream each. They read nothing: the kernel keeps their few bytes."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            target = path % number if "%" in path else path
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            clients.append(client)
        yield clients


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        page.size(1440, 900)
        yield page


@pytest.fixture(scope="module")
def busy(origin: Origin) -> Iterator[tuple[Server, str]]:
    with relay(origin) as (server, url), crowd(server, STREAMS):
        yield server, url


@pytest.fixture
def page(busy: tuple[Server, str], browser: Page) -> Iterator[Page]:
    """The page, freshly loaded, with all streams in its list."""
    browser.open(busy[1])
    browser.wait_for(f"parseInt(document.querySelector('#count').textContent) >= {STREAMS - 20}")
    yield browser
    assert browser.errors() == []


def text(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).textContent"))


def ids(page: Page) -> list[str]:
    """Of the streams on the page, in their order."""
    found: list[str] = page.run(
        "[...document.querySelectorAll('#streams tbody tr')].map(r => r.dataset.id)"
    )
    return found


def test_it_shows_every_stream_page_by_page(page: Page) -> None:
    count = int(text(page, "#count"))
    page.wait_for(f"document.querySelector('#active').textContent === '{count}'")
    seen: set[str] = set()
    while True:
        rows = ids(page)
        assert 0 < len(rows) <= ROWS
        seen.update(rows)
        if page.run("document.querySelector('#next').disabled"):
            break
        page.run("document.querySelector('#next').click()")
    assert len(seen) == count
    page.wait_for("parseFloat(document.querySelector('#events').dataset.shown) > 0")
    assert text(page, "#state") == "ready"
    assert text(page, "#routes tbody th") == "events"
    assert text(page, "#upstreams tbody th") == "backend"


def test_it_asks_nobody_but_relay(page: Page, busy: tuple[Server, str]) -> None:
    asked = page.run("performance.getEntriesByType('resource').map(e => e.name)")
    assert len(asked) >= 5
    assert [url for url in asked if not url.startswith(busy[1])] == []


def test_it_filters_and_sorts_by_the_keyboard(page: Page) -> None:
    count = text(page, "#count")
    page.press("/")
    assert page.run("document.activeElement.id") == "filter"
    page.command("Input.insertText", text="GET /stream/7")
    page.wait_for(f"document.querySelector('#count').textContent.endsWith(' of {count}')")
    shown = page.run("[...document.querySelectorAll('#streams td.code')].map(c => c.textContent)")
    assert shown
    assert all(path.startswith("GET /stream/7") for path in shown)
    page.press("Escape")
    page.wait_for(f"document.querySelector('#count').textContent === '{count}'")
    header = "[...document.querySelectorAll('#streams th button')].find(b => b.textContent === 'Request')"
    page.run(f"{header}.focus()")
    page.press("Enter")
    assert page.run(f"{header}.parentElement.getAttribute('aria-sort')") == "ascending"
    paths = page.run("[...document.querySelectorAll('#streams td.code')].map(c => c.textContent)")
    assert paths == sorted(paths)
    page.press("Enter")
    assert page.run(f"{header}.parentElement.getAttribute('aria-sort')") == "descending"


def test_it_ends_a_stream_after_a_question(page: Page, busy: tuple[Server, str]) -> None:
    """All of it by the keyboard; Escape, and the button that has the focus, end nothing."""
    victim = ids(page)[0]
    focus = f"document.querySelector('[data-id=\"{victim}\"] button').focus()"
    opened = "document.querySelector('#confirm').open"
    for keep in ("Escape", "Enter"):
        page.run(focus)
        page.press("Enter")
        assert page.run(opened)
        assert victim in text(page, "#confirm dl")
        assert page.run("document.activeElement.value") == "keep"
        page.press(keep)
        page.wait_for(f"!{opened}")
        assert page.run(f"document.activeElement.closest('tr')?.dataset.id === '{victim}'")
    page.press("Enter")
    page.press("Tab")
    assert page.run("document.activeElement.value") == "end"
    page.press("Enter")
    page.wait_for(f"document.querySelector('#told').textContent.includes('{victim}')")
    line = busy[0].wait_for_record(lambda record: record["at"] == "end")
    assert (line["id"], line["ending"]) == (victim, "stopped")
    page.wait_for(f"!document.querySelector('[data-id=\"{victim}\"]')")
    page.wait_for("document.querySelector('#endings tbody').textContent.includes('stopped')")


def test_a_row_keeps_its_element_and_the_focus_with_it(page: Page) -> None:
    """The list comes anew every two seconds; whoever is on a button stays there."""
    first = ids(page)[3]
    row = f"document.querySelector('[data-id=\"{first}\"]')"
    titles = "[...document.querySelectorAll('#streams thead th')]"
    page.run(
        f"globalThis.kept = {row}; kept.querySelector('button').focus();"
        f"globalThis.events = kept.cells[{titles}.findIndex((th) => th.textContent === 'Events')]"
    )
    before = page.run("events.textContent")
    page.wait_for(f"events.textContent !== {before!r}")
    assert page.run(f"{row} === kept && kept.contains(document.activeElement)")


def test_what_clients_chose_is_text(origin: Origin, browser: Page) -> None:
    path = "/<img/src=x/onerror=globalThis.hit=1>"
    with relay(origin) as (server, url), crowd(server, 1, path):
        browser.open(url)
        browser.wait_for("document.querySelectorAll('#streams tbody tr').length === 1")
        assert text(browser, "#streams td.code") == f"GET {path}"
        browser.run("document.querySelector('#streams td button').click()")
        assert path in text(browser, "#confirm dl")
        assert browser.run("globalThis.hit") is None
        assert browser.run("document.querySelectorAll('img').length") == 0


def test_it_asks_for_the_token_and_keeps_it_in_the_tab(origin: Origin, browser: Page) -> None:
    with relay(origin, f'admin_token = "{TOKEN}"') as (server, url), crowd(server, 3):
        browser.open(url)
        for word in ("wrong", TOKEN):
            browser.wait_for("document.querySelector('#ask').open")
            assert browser.run("document.activeElement.id") == "token"
            browser.command("Input.insertText", text=word)
            browser.press("Enter")
            if word == "wrong":
                browser.wait_for("document.querySelector('#ask-why').textContent.includes('not')")
        browser.wait_for("document.querySelector('#count').textContent === '3'")
        assert browser.run("Object.values(sessionStorage)") == [TOKEN]
        assert browser.run("localStorage.length") == 0
        assert TOKEN not in browser.run("location.href + document.cookie")
        browser.run("document.querySelector('#streams td button').click()")
        browser.run("document.querySelector('#confirm [value=end]').click()")
        browser.wait_for("document.querySelector('#count').textContent === '2'")
        browser.run("sessionStorage.clear()")


def test_it_says_when_relay_is_gone_and_comes_back(origin: Origin, browser: Page) -> None:
    with relay(origin) as (server, url):
        browser.open(url)
        browser.wait_for("document.querySelector('#state').textContent === 'ready'")
        server.stop()
        browser.wait_for("document.querySelector('#state').textContent === 'no answer from relay'")
        assert browser.run("document.title") == "relay: no answer from relay"


PAIRS = [("text", "panel"), ("quiet", "panel"), ("quiet", "ground"), ("good", "panel")]
PAIRS += [("warn", "panel"), ("bad", "panel"), ("accent", "panel"), ("on-accent", "accent")]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_readable_in_both_schemes(page: Page, scheme: str) -> None:
    """WCAG 2.2 AA: a contrast of 4.5 for text."""
    page.prefers(scheme)
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    for over, under in PAIRS:
        one, other = (page.run(style.format(name)) for name in (over, under))
        assert contrast(one, other) >= 4.5, (over, under)


def contrast(one: str, other: str) -> float:
    """Of two colours `#rrggbb` (WCAG: relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    nodes: list[dict[str, Any]] = page.command("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "table", "searchbox", "navigation", "region", "image", "columnheader"}
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in wanted and not node.get("ignored"):
            seen.add(role)
            assert node.get("name", {}).get("value"), node
    assert seen >= {"button", "table", "searchbox", "navigation"}


def test_it_fits_a_narrow_window(page: Page) -> None:
    page.size(480, 900)
    try:
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.size(1440, 900)


@pytest.mark.parametrize("size", phones.PHONES)
def test_it_is_usable_on_a_phone(
    busy: tuple[Server, str], page: Page, size: tuple[int, int], tmp_path: Path
) -> None:
    """By touch: see how relay is, find one stream by the filter, end it."""
    page.phone(*size)
    try:
        assert phones.fits(page)
        assert phones.too_small(page) == []
        assert phones.keys_shown(page) == []
        assert phones.clipped(page, "#state, #workers, #workers li, #count, .figure") == []
        assert phones.clipped(page, ".tile, .bar, .streams") == []
        assert page.run("document.querySelector('#filter').clientWidth") >= 200
        for selector in ("#pause", "#filter", "#previous", "#next"):
            assert phones.reached(page, selector), selector
        victim = ids(page)[-1]
        page.tap("#filter")
        assert page.run("document.activeElement.id") == "filter"
        page.command("Input.insertText", text=victim)
        page.wait_for("document.querySelectorAll('#streams tbody tr').length === 1")
        assert phones.reached(page, "#streams tbody button")
        page.screenshot(
            Path(os.environ.get("RELAY_SCREENSHOTS", tmp_path)) / f"admin-{size[0]}.png"
        )
        page.tap("#streams tbody button")
        page.wait_for("document.querySelector('#confirm').open")
        assert phones.too_small(page) == []
        assert phones.clipped(page, "#confirm, #confirm dd") == []
        page.tap("#confirm [value=end]")
        line = busy[0].wait_for_record(lambda r: r["at"] == "end" and r["id"] == victim)
        assert line["ending"] == "stopped"
        page.tap("#pause")
        page.wait_for("document.querySelector('#state').textContent === 'paused'")
    finally:
        page.desk()


def test_a_desk_has_its_keys(page: Page) -> None:
    assert phones.keys_shown(page) == ["/"]


def test_the_picture_for_the_documentation(page: Page) -> None:
    folder = os.environ.get("RELAY_SCREENSHOTS")
    if folder is None:
        pytest.skip("RELAY_SCREENSHOTS is not set")
    page.prefers("dark")
    wait_until(
        "a minute of rates",
        lambda: (
            int(
                page.run(
                    "document.querySelector('#spark .line').getAttribute('d').split('L').length"
                )
            )
            > 60
        ),
        90,
    )
    page.screenshot(Path(folder) / "admin.png")
