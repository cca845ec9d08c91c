"""`useChat({ resume: true })` of the AI SDK, unchanged, under StrictMode in Chromium, on a resumable route.

A reload in the middle, ten requests at once, nothing running, finished, stopped in the other tab, drained, broken: the
model is asked once, the answer is whole, and half an answer never looks whole.
"""

from __future__ import annotations

import concurrent.futures
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import wait_until
from tests.interop.resuming import WHO, Bench, bench, reload

ROUTE = """
[[routes]]
path = "/api/chat"
methods = ["POST"]
upstream = "model"
dialect = "ai-sdk"
complete_when = "[DONE]"
heartbeat = "50ms"
[routes.resume]
principal = "{cookie.session}"
key = "{body.id}"
at = "/api/chat/{key}/stream"
live_only = true
"""


@pytest.fixture(scope="module")
def pages(built: Callable[[str], Path]) -> Path:
    return built("resuming")


@pytest.fixture(scope="module")
def ground(pages: Path) -> Iterator[Bench]:
    with bench(ROUTE, pages) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with start_browser() as page:
        yield page


def opened(page: Page, ground: Bench, chat: str) -> None:
    name, _, value = WHO["Cookie"].partition("=")
    page.command("Network.setCookie", url=ground.url, name=name, value=value, httpOnly=True)
    page.open(f"{ground.url}/?chat={chat}")
    page.wait_for("document.querySelector('#send') !== null")


def has_asked(page: Page, ground: Bench, chat: str) -> None:
    """The page has asked, and shows the first words."""
    opened(page, ground, chat)
    page.wait_for("document.querySelector('#status').textContent === 'ready'")
    page.run("document.querySelector('#send').click()")
    ground.say(chat, say=["first "])
    shows(page, "first ")


def shows(page: Page, text: str) -> None:
    page.wait_for(f"document.querySelector('#answer')?.textContent === {json.dumps(text)}")


def ends(page: Page, status: str, error: str = "") -> None:
    page.wait_for(f"document.querySelector('#status').textContent === '{status}'")
    assert page.run("document.querySelector('#error').textContent") == error


def nothing_to_resume(ground: Bench) -> int:
    """How often a page was told so. The path in the log has no key."""
    return sum(record.get("status") == 204 for record in ground.records("/stream"))


def told_that_there_is_nothing(page: Page, ground: Bench, before: int) -> None:
    wait_until("the page is told", lambda: nothing_to_resume(ground) > before)
    ends(page, "ready")
    shows(page, "")


def test_a_reload_in_the_middle(page: Page, ground: Bench) -> None:
    has_asked(page, ground, "reload")
    for _ in range(3):
        reload(page)
        shows(page, "first ")
        ends(page, "streaming")
    ground.say("reload", say=["and last"], done=True)
    shows(page, "first and last")
    ends(page, "ready")
    assert page.run("document.querySelector('#answers').textContent") == "1"
    assert ground.asked("reload") == 1


def test_words_that_were_said_while_the_tab_was_closed(page: Page, ground: Bench) -> None:
    tab = page.another()
    has_asked(tab, ground, "away")
    tab.close()
    ground.watched_by(0)
    ground.say("away", say=["nobody ", "heard "])
    opened(page, ground, "away")
    shows(page, "first nobody heard ")
    ground.say("away", done=True)
    ends(page, "ready")
    assert ground.asked("away") == 1


def test_many_ask_the_hook_and_the_address_at_once(page: Page, ground: Bench) -> None:
    """Ten times the hook's own request, and ten readers at the address beside it: all get all of it."""
    has_asked(page, ground, "ten")
    page.run("{ for (let i = 0; i < 10; i++) void resumeStream(); }")

    here = threading.Semaphore(0)

    def read() -> tuple[int, str]:
        with httpx.stream("GET", f"{ground.url}/api/chat/ten/stream", headers=WHO) as response:
            here.release()
            text = response.read().decode()
        return response.status_code, text

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        readers = [pool.submit(read) for _ in range(10)]
        assert all(here.acquire(timeout=30) for _ in range(10))
        ground.say("ten", say=["and last"], done=True)
        for each in readers:
            status, text = each.result(30)
            assert status == 200
            assert [word in text for word in ("first ", "and last", "[DONE]")] == [True] * 3
    shows(page, "first and last")
    ends(page, "ready")
    assert ground.asked("ten") == 1


def test_nothing_is_running(page: Page, ground: Bench) -> None:
    before = nothing_to_resume(ground)
    opened(page, ground, "nothing")
    told_that_there_is_nothing(page, ground, before)
    assert ground.asked("nothing") == 0


def test_a_finished_answer_is_not_replayed(page: Page, ground: Bench) -> None:
    has_asked(page, ground, "finished")
    ground.say("finished", done=True)
    ends(page, "ready")
    before = nothing_to_resume(ground)
    reload(page)
    told_that_there_is_nothing(page, ground, before)
    assert ground.asked("finished") == 1


def test_stopped_in_the_other_tab(page: Page, ground: Bench) -> None:
    """The stop button of one tab ends the model, and no tab takes it for an error."""
    has_asked(page, ground, "stopped")
    other = page.another()
    try:
        opened(other, ground, "stopped")
        shows(other, "first ")
        other.run("document.querySelector('#stop').click()")
        for tab in (page, other):
            ends(tab, "ready")
            shows(tab, "first ")
        wait_until("the model is stopped", lambda: ground.states("/api/chat")[-1] == "stopped")
        reload(page)
        ends(page, "ready")
        assert ground.asked("stopped") == 1
    finally:
        other.close()


def test_a_question_behind_one_that_was_resumed(page: Page, ground: Bench) -> None:
    has_asked(page, ground, "second")
    reload(page)
    shows(page, "first ")
    ground.say("second", done=True)
    ends(page, "ready")
    page.run("document.querySelector('#send').click()")
    wait_until("it is asked again", lambda: ground.asked("second") == 2)
    ground.say("second", say=["another"])
    shows(page, "another")
    reload(page)
    shows(page, "another")
    ground.say("second", done=True)
    ends(page, "ready")
    assert ground.asked("second") == 2


def test_a_model_that_breaks_is_an_error(page: Page, ground: Bench) -> None:
    has_asked(page, ground, "broken")
    ground.say("broken", **{"break": True})
    ends(page, "error", "the upstream closed before the body was whole")
    before = nothing_to_resume(ground)
    reload(page)
    told_that_there_is_nothing(page, ground, before)
    assert ground.asked("broken") == 1


def test_a_viewer_that_is_cut_off_is_no_whole_answer(page: Page, ground: Bench) -> None:
    """The page says so, and a reload brings the rest."""
    has_asked(page, ground, "cut")
    ground.cut()
    page.wait_for("document.querySelector('#status').textContent === 'error'")
    reload(page)
    shows(page, "first ")
    ground.say("cut", say=["and last"], done=True)
    shows(page, "first and last")
    ends(page, "ready")


def test_drained(page: Page, pages: Path) -> None:
    """What a run has not brought to its end within `drain` is an error in the page, never a whole answer."""
    with bench(ROUTE, pages) as ground:
        has_asked(page, ground, "drained")
        ground.relay.signal(signal.SIGTERM)
        page.wait_for("document.querySelector('#status').textContent === 'error'")
        shows(page, "first ")
        assert page.run("document.querySelector('#error').textContent") != ""


def test_a_run_that_ends_within_the_drain_is_whole(page: Page, pages: Path) -> None:
    with bench(ROUTE, pages) as ground:
        has_asked(page, ground, "finishes")
        ground.relay.signal(signal.SIGTERM)
        ground.relay.stderr.wait_for("draining")
        ground.say("finishes", say=["and last"], done=True)
        shows(page, "first and last")
        ends(page, "ready")
