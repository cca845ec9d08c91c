"""nginx in front of relay, with nothing set but `proxy_pass`: it buffers, speaks HTTP/1.0 to relay,
and gives up after a quiet minute (a second here). The answers are X-Accel-Buffering and heartbeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.interop import origin as bytes_of
from tests.interop.processes import (
    Server,
    start_hypercorn,
    start_nginx,
    start_relay,
    wait_until,
)
from tests.interop.reading import came_one_by_one, events_of, last_call

BIG = 50_000_000
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.origin]
url = "{origin}"
[upstreams.model]
url = "{model}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
heartbeat = "200ms"
[[routes]]
path = "/thinks"
upstream = "origin"
upstream_path = "/never"
heartbeat = "200ms"
commit = "after 200ms"
[[routes]]
path = "/v1/{{rest...}}"
upstream = "model"
[[routes]]
path = "/bytes/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
stream = "bytes"
"""
NGINX = """
location / {{ proxy_pass {relay}; }}
location /1.1/ {{ proxy_pass {relay}/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
location /hasty/ {{ proxy_pass {relay}/; proxy_read_timeout 1s; }}
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(origin: Server) -> Iterator[Server]:
    with (
        start_hypercorn("tests.interop.models:app") as model,
        start_relay(CONFIG.format(origin=origin.url, model=model.url)) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def nginx(relay: Server) -> Iterator[Server]:
    with start_nginx(NGINX.format(relay=relay.url)) as server:
        yield server


@pytest.fixture(params=["", "/1.1"], ids=["1.0", "1.1"])
def front(request: pytest.FixtureRequest, nginx: Server) -> str:
    return f"{nginx.url}{request.param}"


def test_events_arrive_one_by_one(front: str) -> None:
    with httpx.stream("GET", f"{front}/events?count=20") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert "x-accel-buffering" not in response.headers  # nginx keeps it to itself
        events = list(events_of(response))
    assert [event.json()["number"] for event in events] == list(range(20))
    assert came_one_by_one(events)


def test_leaving_reaches_the_backend(front: str, origin: Server) -> None:
    with httpx.stream("GET", f"{front}/events") as response:
        events = events_of(response)
        next(events)
        assert last_call(origin)["state"] == "running"
    wait_until("the generator is stopped", lambda: last_call(origin)["state"] == "stopped")


def test_leaving_before_the_first_event_reaches_it_too(front: str, origin: Server) -> None:
    with httpx.stream("GET", f"{front}/quiet") as response:
        pieces = response.iter_raw()
        assert set(next(pieces)) == set(b":\n")  # a heartbeat
        assert last_call(origin)["state"] == "running"
    wait_until("the backend is stopped", lambda: last_call(origin)["state"] == "stopped")


def test_leaving_before_the_head_reaches_it_too(front: str, origin: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{front}/never", timeout=httpx.Timeout(10, read=0.3))
    wait_until("the backend is stopped", lambda: last_call(origin)["state"] == "stopped")


def test_a_quiet_stream_outlives_the_read_timeout_of_nginx(nginx: Server) -> None:
    with httpx.stream("GET", f"{nginx.url}/hasty/quiet") as response:
        heartbeats = b""
        for piece in response.iter_raw():
            heartbeats += piece
            if heartbeats.count(b":\n\n") >= 8:  # 200 ms each: well over its second
                break
    assert heartbeats.replace(b":\n\n", b"") == b""


def test_an_upstream_that_thinks_outlives_it_too(nginx: Server, origin: Server) -> None:
    """There is no head from the upstream, ever: relay's own, and heartbeats, keep the proxy waiting."""
    with httpx.stream("GET", f"{nginx.url}/hasty/thinks") as response:
        assert response.status_code == 200
        heartbeats = b""
        for piece in response.iter_raw():
            heartbeats += piece
            if heartbeats.count(b":\n\n") >= 8:  # 200 ms each: well over its second
                break
    wait_until("the backend is stopped", lambda: last_call(origin)["state"] == "stopped")


def test_a_cut_stream_says_so(front: str) -> None:
    script = {"model": "cut"}
    with httpx.stream("POST", f"{front}/v1/chat/completions", json=script) as response:
        events = []
        try:
            for event in events_of(response):
                events.append(event.json())
        except httpx.RemoteProtocolError:
            assert "/1.1" in front  # over HTTP/1.0 nginx cannot know, and ends its answer properly
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "upstream_broke")


def test_cut_bytes_never_look_whole(front: str) -> None:
    script = {"model": "cut"}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{front}/bytes/v1/messages", json=script) as response,
    ):
        response.read()


@pytest.mark.parametrize("framing", ["", "&chunked"])
def test_a_big_download_is_the_same_bytes(front: str, framing: str) -> None:
    found = hashlib.sha256()
    with httpx.stream("GET", f"{front}/big?{BIG}{framing}") as response:
        for piece in response.iter_raw():
            found.update(piece)
    assert found.hexdigest() == bytes_of.digest(BIG)


def test_an_upload_is_the_same_bytes(front: str) -> None:
    body = b"".join(bytes_of.big(900_000))  # nginx takes 1 MiB by default
    told = httpx.put(f"{front}/digest", content=body).json()
    assert told["sha256"] == hashlib.sha256(body).hexdigest()


def test_statuses_pass(front: str) -> None:
    assert [httpx.get(f"{front}/status/{n}").status_code for n in (404, 500, 503)] == [
        404,
        500,
        503,
    ]


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
