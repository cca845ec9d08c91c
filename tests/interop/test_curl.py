"""curl, relay, and a real Hypercorn: what a person types at a shell."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop import origin as bytes_of
from tests.interop.curl import FROM_STDIN, curl, curl_several
from tests.interop.processes import Server, require, start_forward, start_hypercorn, wait_until
from tests.interop.reading import calls, last_call

MIB = 1024 * 1024
BIG = 50_000_000
PIECE = bytes(range(251)) * 4200  # about 1 MiB, and no power of two


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(origin: Server) -> Iterator[Server]:
    with start_forward(origin.url) as server:
        yield server


@pytest.fixture
def piece(tmp_path: Path) -> str:
    path = tmp_path / "piece"
    path.write_bytes(PIECE)
    return str(path)


def told(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_plain_get(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/hello")
    assert (answer.status, answer.version, answer.body) == (200, "1.1", b"hello\n")
    assert answer.field("x-odd") == ["one", "two"]
    assert answer.field("content-length") == ["6"]
    assert answer.field("transfer-encoding") == []
    assert len(answer.field("x-request-id")) == 1
    assert any("relay" in value for value in answer.field("via"))


def test_a_head_has_the_fields_and_no_body(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/big?{BIG}", "--head")
    assert (answer.status, answer.exit) == (200, 0)
    assert answer.field("content-length") == [str(BIG)]


@pytest.mark.parametrize("status", [404, 418, 500, 503])
def test_an_error_of_the_backend_passes_as_it_is(
    relay: Server, tmp_path: Path, status: int
) -> None:
    answer = curl(tmp_path, f"{relay.url}/status/{status}")
    assert answer.status == status
    assert told(answer.body) == {"status": str(status)}


def test_two_requests_share_a_connection(relay: Server, tmp_path: Path) -> None:
    answers = curl_several(tmp_path, [f"{relay.url}/hello"] * 3)
    assert [answer.connections for answer in answers] == [1, 0, 0]
    assert [answer.body for answer in answers] == [b"hello\n"] * 3


def test_a_connection_goes_on_behind_an_upload(relay: Server, tmp_path: Path, piece: str) -> None:
    answers = curl_several(tmp_path, [f"{relay.url}/digest"] * 2, "-T", piece)
    assert [answer.connections for answer in answers] == [1, 0]
    assert [told(answer.body)["size"] for answer in answers] == [len(PIECE)] * 2


def test_an_upload_of_known_size(relay: Server, tmp_path: Path, piece: str) -> None:
    answer = curl(tmp_path, f"{relay.url}/digest", "-T", piece)
    seen = told(answer.body)
    assert seen["sha256"] == hashlib.sha256(PIECE).hexdigest()
    assert (seen["method"], seen["length"], seen["coding"]) == ("PUT", str(len(PIECE)), None)


def test_an_upload_from_a_pipe(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/digest", "-T", FROM_STDIN, stdin=PIECE)
    seen = told(answer.body)
    assert seen["sha256"] == hashlib.sha256(PIECE).hexdigest()
    assert (seen["length"], seen["coding"]) == (None, "chunked")


def test_an_upload_waits_for_100_of_the_backend(relay: Server, tmp_path: Path, piece: str) -> None:
    asked = ("-H", "Expect: 100-continue", "--expect100-timeout", "30")
    answer = curl(tmp_path, f"{relay.url}/digest", "-T", piece, *asked)
    assert [head.split()[1] for head in answer.heads] == ["100", "200"]
    assert told(answer.body)["size"] == len(PIECE)


def test_no_100_for_who_does_not_ask(relay: Server, tmp_path: Path, piece: str) -> None:
    answer = curl(tmp_path, f"{relay.url}/digest", "-T", piece, "-H", "Expect:")
    assert [head.split()[1] for head in answer.heads] == ["200"]


def test_an_early_refusal_is_heard_in_mid_upload(relay: Server, tmp_path: Path) -> None:
    options = ("-H", "Expect:", "-T", FROM_STDIN)
    answer = curl(tmp_path, f"{relay.url}/early", *options, stdin=bytes(20 * MIB))
    assert (answer.status, answer.body) == (413, b"too much\n")
    assert answer.uploaded < 20 * MIB


def test_an_echo_of_a_mebibyte(relay: Server, tmp_path: Path) -> None:
    body = bytes_of.BLOCK * 16
    path = tmp_path / "mebibyte"
    path.write_bytes(body)
    for options in (("-T", str(path)), ("-T", FROM_STDIN), ("--data-binary", f"@{path}")):
        answer = curl(tmp_path, f"{relay.url}/echo", *options, stdin=body)
        assert (answer.status, answer.exit) == (200, 0), options
        assert answer.body == body, options


@pytest.mark.parametrize("framing", ["", "&chunked"], ids=["sized", "chunked"])
@pytest.mark.parametrize("options", [(), ("--http1.0",)], ids=["1.1", "1.0"])
def test_a_big_download_is_the_same_bytes(
    relay: Server, tmp_path: Path, framing: str, options: tuple[str, ...]
) -> None:
    answer = curl(tmp_path, f"{relay.url}/big?{BIG}{framing}", *options)
    assert (answer.status, answer.exit) == (200, 0)
    assert hashlib.sha256(answer.body).hexdigest() == bytes_of.digest(BIG)
    assert answer.field("content-length") == ([] if framing else [str(BIG)])
    chunked = bool(framing) and not options
    assert answer.field("transfer-encoding") == (["chunked"] if chunked else [])


def test_http_1_0(relay: Server, tmp_path: Path, piece: str) -> None:
    answer = curl(tmp_path, f"{relay.url}/hello", "--http1.0")
    assert (answer.status, answer.body) == (200, b"hello\n")
    assert answer.heads[-1].startswith("HTTP/1.1 200")  # RFC 9110 §2.5: our own version
    up = curl(tmp_path, f"{relay.url}/digest", "--http1.0", "-T", piece)
    assert told(up.body)["size"] == len(PIECE)
    stream = curl(tmp_path, f"{relay.url}/events?count=3&every=1", "--http1.0")
    assert stream.body.count(b"data: ") == 3
    assert stream.field("transfer-encoding") == []


def test_http_1_0_may_keep_its_connection(relay: Server, tmp_path: Path) -> None:
    options = ("--http1.0", "-H", "Connection: keep-alive")
    answers = curl_several(tmp_path, [f"{relay.url}/hello"] * 2, *options)
    assert [answer.body for answer in answers] == [b"hello\n"] * 2
    assert answers[0].field("connection") == ["keep-alive"]
    assert [answer.connections for answer in answers] == [1, 0]


def test_events_come_with_the_fields_of_a_stream(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/events?count=3&every=1", "--compressed")
    assert answer.body.count(b"data: ") == 3
    assert answer.field("content-type") == ["text/event-stream"]
    assert answer.field("cache-control") == ["no-cache, no-transform"]
    assert answer.field("x-accel-buffering") == ["no"]


def test_each_event_is_there_as_it_is_sent(relay: Server, origin: Server) -> None:
    """`curl -N`, and Ctrl-C: the generator stops."""
    command = [require("curl"), "-sN", f"{relay.url}/events?every=20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(9)]
            assert last_call(origin, "/events")["state"] == "running"
        finally:
            process.send_signal(2)
        process.wait(10)
    numbers = [json.loads(line[6:])["number"] for line in lines if line.startswith(b"data: ")]
    assert numbers == [0, 1, 2]
    wait_until(
        "the generator is stopped", lambda: last_call(origin, "/events")["state"] == "stopped"
    )
    record = relay.wait_for_record(lambda line: line.get("ending") == "client_left")
    assert (record["side"], record["phase"]) == ("client", "body")


@pytest.mark.parametrize("path", ["/quiet", "/never"])
def test_ctrl_c_before_the_first_byte_stops_it_too(
    relay: Server, origin: Server, path: str
) -> None:
    command = [require("curl"), "-sN", relay.url + path]
    with subprocess.Popen(command) as process:

        def state(wanted: str) -> bool:
            seen = [call["state"] for call in calls(origin, path)]
            return bool(seen) and seen[-1] == wanted

        try:
            wait_until("the backend was asked", lambda: state("running"))
        finally:
            process.send_signal(2)
        process.wait(10)
        wait_until("the backend is stopped", lambda: state("stopped"))


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
