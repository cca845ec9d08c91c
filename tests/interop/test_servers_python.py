"""curl, relay, and Python's http.server: HTTP/1.0, and bodies that end with the connection."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.interop.curl import FROM_STDIN, curl, curl_several
from tests.interop.origin import big, digest
from tests.interop.processes import Server, start, start_forward
from tests.interop.reading import came_one_by_one, events_of

BIG = 50_000_000
SERVER = [sys.executable, "-m", "tests.interop.old_server"]


@pytest.fixture(scope="module")
def relay() -> Iterator[Server]:
    with start(SERVER, says="listening on ") as old:
        port = old.stderr.wait_for("listening on ").split()[-1]
        with start_forward(f"http://127.0.0.1:{port}") as server:
            yield server


@pytest.fixture(scope="module")
def refusing() -> Iterator[Server]:
    with start([*SERVER, "--refuse"], says="listening on ") as old:
        port = old.stderr.wait_for("listening on ").split()[-1]
        with start_forward(f"http://127.0.0.1:{port}") as server:
            yield server


def test_a_body_that_ends_with_the_connection_gets_an_end(relay: Server, tmp_path: Path) -> None:
    answers = curl_several(tmp_path, [f"{relay.url}/"] * 2)
    assert [answer.body for answer in answers] == [b"until the end"] * 2
    assert answers[0].heads[-1].startswith("HTTP/1.1 200")
    assert answers[0].field("transfer-encoding") == ["chunked"]
    assert [answer.connections for answer in answers] == [1, 0]


def test_for_a_1_0_client_it_ends_with_the_connection(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/", "--http1.0")
    assert (answer.body, answer.exit) == (b"until the end", 0)
    assert answer.field("transfer-encoding") == []
    assert answer.field("connection") == ["close"]


@pytest.mark.parametrize("options", [(), ("--http1.0",)], ids=["1.1", "1.0"])
def test_a_big_one_is_the_same_bytes(
    relay: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    answer = curl(tmp_path, f"{relay.url}/big?{BIG}", *options)
    assert hashlib.sha256(answer.body).hexdigest() == digest(BIG)


def test_a_head(relay: Server, tmp_path: Path) -> None:
    answers = curl_several(tmp_path, [f"{relay.url}/"] * 2, "--head")
    assert [(answer.exit, answer.field("content-length")) for answer in answers] == [
        (0, ["13"])
    ] * 2


@pytest.mark.parametrize("options", [(), ("--http1.0",)], ids=["1.1", "1.0"])
def test_a_cut_body_never_looks_whole(
    relay: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    answer = curl(tmp_path, f"{relay.url}/cut", *options)
    assert (answer.status, answer.body) == (200, b"half")
    assert answer.exit == 18


def test_events_of_an_old_server_arrive_one_by_one(relay: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/events?10") as response:
        events = list(events_of(response))
    assert [event.json()["number"] for event in events] == list(range(10))
    assert came_one_by_one(events)


def test_an_upload(relay: Server, tmp_path: Path) -> None:
    body = b"".join(big(3_000_000))
    path = tmp_path / "up"
    path.write_bytes(body)
    answer = curl(tmp_path, f"{relay.url}/", "-T", str(path))
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_refused_expectation(refusing: Server, tmp_path: Path, source: str) -> None:
    """417 instead of 100: no byte of the body is sent, and no 100 is made up."""
    path = tmp_path / "up"
    path.write_bytes(b"".join(big(3_000_000)))
    what = str(path) if source == "file" else FROM_STDIN
    ask = ("-H", "Expect: 100-continue", "--expect100-timeout", "30")
    answer = curl(tmp_path, f"{refusing.url}/", "-T", what, *ask, stdin=path.read_bytes())
    assert [head.split()[1] for head in answer.heads] == ["417"]
    assert answer.uploaded == 0


def test_nothing_went_wrong_inside(relay: Server, refusing: Server) -> None:
    assert "Traceback" not in relay.stderr.text + refusing.stderr.text
