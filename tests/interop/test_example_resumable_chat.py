"""Resumable chat: the example's own page with `useChat({ resume: true })`, built by Vite, in Chromium."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
from tests.interop.reading import calls
from tests.interop.resuming import reload

EXAMPLE = ROOT / "examples" / "resumable-chat"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(backend: Server, npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example as it is, with its page built."""
    folder = tmp_path_factory.mktemp("chat") / "resumable-chat"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "chat.js"))
    (folder / "page" / "node_modules").symlink_to(npm / "node_modules")
    command: list[str | Path] = [
        require("node"),
        npm / "node_modules" / "vite" / "bin" / "vite.js",
        "build",
    ]
    ran = subprocess.run(
        command, cwd=folder / "page", capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with start_relay(folder / "relay.toml", {"BACKEND_URL": backend.url}) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page


ANSWER = "document.querySelector('.assistant')?.textContent ?? ''"


def opened(page: Page, relay: Server, chat: str) -> Page:
    page.open(f"{relay.url}/?chat={chat}")
    page.wait_for("document.querySelector('#send') !== null")
    return page


def ask(page: Page, question: str) -> None:
    page.run("document.querySelector('input').focus()")
    page.command("Input.insertText", text=question)
    page.run("document.querySelector('#send').click()")
    page.wait_for(f"({ANSWER}).length > 20")


def is_in(page: Page, state: str) -> None:
    page.wait_for(f"document.querySelector('output').textContent === '{state}'")


def stall(backend: Server, stalled: bool) -> None:
    """The backend says nothing, or goes on."""
    assert httpx.post(f"{backend.url}/faults", json={"stall": stalled}).status_code == 200


def asking(backend: Server) -> list[int]:
    """The requests for a session that wait for their answer."""
    return [c["number"] for c in calls(backend, "/api/session") if c["state"] == "running"]


def answers(backend: Server) -> list[str]:
    """What became of every answer that was begun."""
    return [call["state"] for call in calls(backend, "/api/chat")]


def test_a_reload_in_the_middle(browser: Page, relay: Server, backend: Server) -> None:
    page = opened(browser, relay, "reload")
    begun = len(answers(backend))
    ask(page, "what is a relay?")
    stall(backend, True)
    try:
        reload(page)
        asks = wait_until("the page asks who it is", lambda: asking(backend))
        stall(backend, False)
        wait_until("it knows", lambda: asking(backend) != asks)
        stall(backend, True)  # of the answer a word or two was said meanwhile
        page.wait_for(f"({ANSWER}).startsWith('An answer is written once')")
        is_in(page, "streaming")
    finally:
        stall(backend, False)
    is_in(page, "ready")
    text = page.run(ANSWER)
    assert len(text.split()) == 40
    assert answers(backend)[begun:] == ["finished"]
    reload(page)  # finished: there is nothing to resume
    page.wait_for("document.querySelector('#send') !== null")
    is_in(page, "ready")
    assert page.run(ANSWER) == ""
    assert len(answers(backend)) == begun + 1


def test_a_second_tab_reads_it_and_stops_it(browser: Page, relay: Server, backend: Server) -> None:
    page = opened(browser, relay, "tabs")
    begun = len(answers(backend))
    ask(page, "and in two tabs?")
    other = browser.another()
    try:
        opened(other, relay, "tabs")
        other.wait_for(f"({ANSWER}).length > 20")
        other.run("document.querySelector('#stop').click()")
        for tab in (page, other):
            is_in(tab, "ready")
        assert len(page.run(ANSWER).split()) < 40
        wait_until("the model is stopped", lambda: answers(backend)[begun:] == ["stopped"])
    finally:
        other.close()


def test_somebody_else_finds_nothing(browser: Page, relay: Server) -> None:
    """The chat's id is no secret: the cookie is what counts."""
    page = opened(browser, relay, "mine")
    ask(page, "is it private?")
    url = f"{relay.url}/api/chat/mine/stream"
    with httpx.Client() as somebody:
        assert somebody.get(url).status_code == 403
        assert somebody.post(f"{relay.url}/api/session").json() == {"session": "new"}
        assert somebody.get(url).status_code == 204
        assert somebody.delete(url).status_code == 204
    is_in(page, "streaming")
    page.run("document.querySelector('#stop').click()")
    is_in(page, "ready")


def test_who_has_no_session_is_refused_by_the_backend(relay: Server) -> None:
    refused = httpx.post(
        f"{relay.url}/api/chat", json={"id": "c"}, headers={"Cookie": "session=made-up"}
    )
    assert refused.status_code == 401
    assert refused.json() == {"error": "who are you?"}
