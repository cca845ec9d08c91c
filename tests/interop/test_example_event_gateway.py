"""Event gateway: the bearer token is relay's, and no one else ever sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.interop.processes import (
    ROOT,
    Server,
    free_port,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import came_one_by_one, events_of, last_call

EXAMPLE = ROOT / "examples" / "event-gateway"
TOKEN = "t0ken-that-only-relay-knows"
APP = "https://app.example"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE, env={"BACKEND_TOKEN": TOKEN}) as server:
        yield server


def environment(backend_url: str) -> dict[str, str]:
    return {"BACKEND_URL": backend_url, "BACKEND_TOKEN": TOKEN, "APP_ORIGIN": APP}


@pytest.fixture(scope="module")
def relay(backend: Server) -> Iterator[Server]:
    with start_relay(EXAMPLE / "relay.toml", environment(backend.url)) as server:
        yield server
    # All that relay said in the whole module, to its end.
    assert TOKEN not in server.stdout.text
    assert TOKEN not in server.stderr.text


def seen(response: httpx.Response) -> str:
    """Everything that a client can see of a response whose body was read."""
    return f"{response.status_code} {response.reason_phrase} {response.headers} {response.text}"


@pytest.mark.parametrize("topic", ["file.123", "project.456", "user.789"])
def test_each_topic_streams_with_the_token_of_relay(relay: Server, topic: str) -> None:
    with httpx.stream("GET", f"{relay.url}/api/events/{topic}") as response:
        assert response.status_code == 200
        assert TOKEN not in str(response.headers)
        stream = events_of(response)
        events = [next(stream) for _ in range(3)]
    assert {event.event for event in events} == {topic.partition(".")[0]}
    assert [event.id for event in events] == [f"{topic}-{n}" for n in (1, 2, 3)]
    assert came_one_by_one(events)


def test_the_clients_own_token_and_cookie_do_not_pass(relay: Server) -> None:
    fields = {"Authorization": "Bearer mine", "Cookie": "session=1"}
    with httpx.stream("GET", f"{relay.url}/api/events/file.1", headers=fields) as response:
        assert response.status_code == 200


def test_without_relay_the_backend_asks_who_you_are(backend: Server) -> None:
    assert httpx.get(f"{backend.url}/api/v1/events/file.123").status_code == 401


def test_a_topic_with_slashes_and_escapes_keeps_them(relay: Server, backend: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/api/events/file.a%2Fb/c") as response:
        assert response.status_code == 200
    assert last_call(backend)["path"] == "/api/v1/events/file.a%2Fb/c"


def test_only_get_is_answered(relay: Server) -> None:
    response = httpx.post(f"{relay.url}/api/events/file.1")
    assert response.status_code == 405
    assert "GET" in response.headers["allow"]


def test_no_answer_shows_the_token(relay: Server) -> None:
    for method, path in [
        ("GET", "/api/events/planet.1"),  # the backend's 404
        ("GET", "/api/elsewhere"),  # relay's 404
        ("POST", "/api/events/file.1"),  # relay's 405
        ("OPTIONS", "/api/events/file.1"),
        ("HEAD", "/api/events/planet.1"),
        ("GET", "/api/events/" + "x" * 20_000),  # too long a head
    ]:
        response = httpx.request(method, relay.url + path)
        assert response.status_code >= 200
        assert TOKEN not in seen(response)


def test_a_backend_that_is_down_shows_no_token_and_no_address() -> None:
    with start_relay(EXAMPLE / "relay.toml", environment("http://127.0.0.1:1")) as relay:
        response = httpx.get(f"{relay.url}/api/events/file.123")
        assert response.status_code == 200, "an error status would end an EventSource for good"
        hint, name, data = response.text.strip().split("\n")
        assert hint.startswith("retry: ")
        assert (name, '"code":"upstream_unreachable"' in data) == ("event: error", True)
        assert TOKEN not in seen(response)
        assert "127.0.0.1:1" not in response.text
        relay.wait_for_record(lambda record: record.get("ending") == "upstream_unreachable")
    assert TOKEN not in relay.stdout.text + relay.stderr.text


def test_the_page_of_the_app_may_read(relay: Server) -> None:
    url = f"{relay.url}/api/events/user.1"
    with httpx.stream("GET", url, headers={"Origin": APP}) as response:
        assert response.headers["access-control-allow-origin"] == APP
        assert response.headers["access-control-allow-credentials"] == "true"
        assert "origin" in response.headers["vary"].lower()


def test_an_error_is_readable_for_the_page_too(relay: Server) -> None:
    response = httpx.get(f"{relay.url}/api/events/planet.1", headers={"Origin": APP})
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == APP


def test_another_page_may_not(relay: Server) -> None:
    url = f"{relay.url}/api/events/user.1"
    with httpx.stream("GET", url, headers={"Origin": "https://evil.example"}) as response:
        assert "access-control-allow-origin" not in response.headers


def test_the_preflight_is_answered_by_relay(relay: Server, backend: Server) -> None:
    before = last_call(backend)["number"]
    fields = {
        "Origin": APP,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "last-event-id",
    }
    response = httpx.options(f"{relay.url}/api/events/user.1", headers=fields)
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "GET" in response.headers["access-control-allow-methods"]
    assert "last-event-id" in response.headers["access-control-allow-headers"].lower()
    assert last_call(backend)["number"] == before


def test_the_preflight_of_another_page_allows_nothing(relay: Server) -> None:
    fields = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    response = httpx.options(f"{relay.url}/api/events/user.1", headers=fields)
    assert "access-control-allow-origin" not in response.headers
    assert TOKEN not in seen(response)


def test_leaving_stops_the_generator(relay: Server, backend: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/api/events/user.leaving") as response:
        events = events_of(response)
        next(events)
    wait_until("it stops", lambda: last_call(backend, "leaving")["state"] == "stopped")


def test_no_admin_page_shows_the_token(backend: Server) -> None:
    admin = f"127.0.0.1:{free_port()}"
    config = (EXAMPLE / "relay.toml").read_text()
    config = config.replace("[server]", f'[server]\nadmin = "{admin}"', 1)
    with (
        start_relay(config, environment(backend.url)) as relay,
        httpx.stream("GET", f"{relay.url}/api/events/file.1") as response,
    ):
        events = events_of(response)
        next(events)
        (stream,) = httpx.get(f"http://{admin}/streams").json()["streams"]
        assert stream["route"] == "events"
        for path in ("/", "/streams", "/metrics", "/readyz", "/healthz", "/nothing"):
            assert TOKEN not in seen(httpx.get(f"http://{admin}{path}"))


def test_check_prints_no_secret_and_names_a_missing_one() -> None:
    def check(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "relay", "check", str(EXAMPLE / "relay.toml")]
        env = {"LISTEN": "127.0.0.1:0", "PATH": os.environ["PATH"], **env}
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
        )

    whole = environment("http://127.0.0.1:1")
    right = check(whole)
    assert right.returncode == 0, right.stderr
    assert TOKEN not in right.stdout + right.stderr
    missing = check({name: value for name, value in whole.items() if name != "BACKEND_TOKEN"})
    assert missing.returncode == 2
    assert "BACKEND_TOKEN" in missing.stderr
    assert "Authorization" in missing.stderr
