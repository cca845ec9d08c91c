"""Workload logs: a streaming path over a catch-all, with backend and relay as processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.interop.processes import (
    ROOT,
    Server,
    require,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import came_one_by_one, events_of, last_call

EXAMPLE = ROOT / "examples" / "workload-logs"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(backend: Server) -> Iterator[Server]:
    with start_relay(EXAMPLE / "relay.toml", {"BACKEND_URL": backend.url}) as server:
        yield server


def test_lines_arrive_one_by_one_from_the_other_path(relay: Server) -> None:
    url = f"{relay.url}/api/v1/workloads/trainer/logs?lines=5"
    with httpx.stream("GET", url) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        events = list(events_of(response))
    lines = [event.json() for event in events]
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5]
    assert {line["workload"] for line in lines} == {"trainer"}
    assert came_one_by_one(events)


def test_the_id_is_passed_as_it_was_written(relay: Server) -> None:
    url = f"{relay.url}/api/v1/workloads/team%2Ftrainer/logs?lines=1"
    with httpx.stream("GET", url) as response:
        (event,) = events_of(response)
    assert event.json()["workload"] == "team/trainer"


@pytest.mark.parametrize(
    ("workload", "status", "kind", "body"),
    [
        ("missing", 404, "application/json", b'{"error": "no such workload", "id": "missing"}'),
        ("broken", 500, "text/plain; charset=utf-8", b"the log volume is not mounted\n"),
    ],
)
def test_an_error_reaches_the_client_as_it_is(
    relay: Server, workload: str, status: int, kind: str, body: bytes
) -> None:
    response = httpx.get(f"{relay.url}/api/v1/workloads/{workload}/logs")
    assert response.status_code == status
    assert response.headers["content-type"] == kind
    assert response.content == body


@pytest.mark.parametrize("workload", ["trainer", "missing", "broken"])
def test_nothing_of_a_log_is_cached(relay: Server, workload: str) -> None:
    url = f"{relay.url}/api/v1/workloads/{workload}/logs?lines=1"
    with httpx.stream("GET", url) as response:
        control = response.headers["cache-control"]
    assert "no-store" in control
    assert "no-cache" in control


def test_every_other_path_goes_through_the_catch_all(relay: Server) -> None:
    assert httpx.get(f"{relay.url}/api/v1/workloads").json() == {
        "workloads": ["trainer", "indexer", "gateway"]
    }
    one = httpx.get(f"{relay.url}/api/v1/workloads/trainer")
    assert one.json() == {"id": "trainer", "phase": "running"}
    unknown = httpx.get(f"{relay.url}/api/v1/elsewhere")
    assert unknown.status_code == 404
    assert unknown.json() == {"error": "nothing at /v1/elsewhere"}


def test_a_path_outside_of_api_is_nobodys(relay: Server) -> None:
    response = httpx.get(f"{relay.url}/v1/workloads")
    assert response.status_code == 404
    assert response.json()["error"]["code"]


def test_reconnecting_goes_on_behind_the_last_line(relay: Server) -> None:
    url = f"{relay.url}/api/v1/workloads/trainer/logs?lines=2"
    with httpx.stream("GET", url, headers={"Last-Event-ID": "41"}) as response:
        assert [event.id for event in events_of(response)] == ["42", "43"]


def test_leaving_stops_the_generator(backend: Server, relay: Server) -> None:
    url = f"{relay.url}/api/v1/workloads/leaving/logs"
    with httpx.stream("GET", url) as response:
        events = events_of(response)
        next(events)
        assert last_call(backend, "/leaving/")["state"] == "running"
    wait_until("it stops", lambda: last_call(backend, "/leaving/")["state"] == "stopped")


def test_curl_sees_it_line_by_line(relay: Server) -> None:
    url = f"{relay.url}/api/v1/workloads/trainer/logs?lines=3"
    curl = subprocess.run(
        [require("curl"), "-sN", url], capture_output=True, timeout=20, check=True
    )
    assert curl.stdout.count(b"data: {") == 3
