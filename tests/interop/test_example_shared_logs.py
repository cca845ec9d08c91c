"""Shared logs: many readers of one job, one request to the backend, and breaks that nobody sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import ROOT, Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import Arrival, calls, events_of

EXAMPLE = ROOT / "examples" / "shared-logs"
READERS = 50


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(backend: Server) -> Iterator[Server]:
    with start_relay(EXAMPLE / "relay.toml", {"BACKEND_URL": backend.url}) as server:
        yield server


def url_of(relay: Server, job: str) -> str:
    return f"{relay.url}/api/jobs/{job}/logs?lines=20&every=20"


def faults(backend: Server, **faults: bool) -> None:
    assert httpx.post(f"{backend.url}/faults", json=faults).status_code == 200


def lines(events: list[Arrival]) -> list[int]:
    return [event.json()["line"] for event in events if event.event != "done"]


def test_many_readers_share_one_request_over_a_break(relay: Server, backend: Server) -> None:
    url = url_of(relay, "shared")

    def read(_: int) -> list[Arrival]:
        with httpx.stream("GET", url, timeout=60) as response:
            assert response.status_code == 200
            return list(events_of(response))

    faults(backend, stall=True)  # so that all are there before it goes on
    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read, number) for number in range(READERS)]
        wait_until("the backend is asked", lambda: calls(backend, "/shared/"))
        faults(backend, stall=False)
        with httpx.stream("GET", url, timeout=60) as response:
            events = events_of(response)
            assert next(events).json()["line"] == 1
        faults(backend, half=True)  # in the middle of a line
        read_by_all = [reader.result(60) for reader in readers]
    for each in read_by_all:
        assert lines(each) == list(range(1, 21))
        assert each[-1].event == "done"
        run = (each[0].id or "").rpartition("-")[0]
        assert [event.id for event in each] == [f"{run}-{number}" for number in range(1, 22)]
    assert [call["state"] for call in calls(backend, "/shared/")] == ["broken", "finished"]


def test_an_eventsource_reads_it_and_then_stays_away(relay: Server, backend: Server) -> None:
    with start_browser() as page:
        page.open(f"{relay.url}/api/jobs")
        first = reads(page, "browser")
        assert first == list(range(1, 21))
        page.wait_for("source.readyState === 2")  # it came back behind the end, and met a 204
        assert reads(page, "browser") == first  # a new one: all of it, from the log
        assert len(calls(backend, "/browser/")) == 1


def reads(page: Page, job: str) -> list[int]:
    """What an EventSource's `onmessage` gets until it is told that the job is done."""
    path = json.dumps(f"/api/jobs/{job}/logs?lines=20&every=20")
    page.run(f"""{{
      window.seen = [];
      window.done = false;
      window.source = new EventSource({path});
      source.onmessage = (event) => seen.push(JSON.parse(event.data).line);
      source.addEventListener("done", () => (done = true));
    }}""")
    page.wait_for("done")
    found: list[int] = page.run("seen")
    return found


def test_a_reader_that_comes_back_goes_on_behind_his_last_line(
    relay: Server, backend: Server
) -> None:
    url = url_of(relay, "again")
    with httpx.stream("GET", url, timeout=60) as stays, httpx.stream("GET", url) as response:
        goes = events_of(response)
        last = [next(goes) for _ in range(3)][-1]
        response.close()
        cursor = {"Last-Event-ID": last.id or ""}
        with httpx.stream("GET", url, headers=cursor, timeout=60) as back:
            assert lines(list(events_of(back))) == list(range(4, 21))
        assert lines(list(events_of(stays))) == list(range(1, 21))
    assert len(calls(backend, "/again/")) == 1


def test_with_the_last_reader_the_backend_stops(relay: Server, backend: Server) -> None:
    url = f"{relay.url}/api/jobs/left/logs?lines=100000"
    with httpx.stream("GET", url) as one, httpx.stream("GET", url) as two:
        lines_of_one, lines_of_two = events_of(one), events_of(two)
        next(lines_of_one)
        next(lines_of_two)
        one.close()
        assert calls(backend, "/left/")[-1]["state"] == "running"
    wait_until("it is stopped", lambda: calls(backend, "/left/")[-1]["state"] == "stopped")


def test_every_other_path_goes_to_the_backend(relay: Server) -> None:
    assert httpx.get(f"{relay.url}/api/jobs").json() == {"jobs": ["build", "deploy"]}
