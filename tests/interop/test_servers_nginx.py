"""curl, relay, and a real nginx behind it: files, ranges, revalidation, compression, uploads."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.curl import FROM_STDIN, curl, curl_several
from tests.interop.origin import big, digest
from tests.interop.processes import Server, start_forward, start_nginx

BIG = 50_000_000
TEXT = "".join(f"line {number} of a text that can be compressed\n" for number in range(5000))
ASK = ("-H", "Expect: 100-continue", "--expect100-timeout", "30")
# gzip_proxied: without it nginx compresses nothing that is asked for through a proxy (a Via field).
NGINX = """
root {folder};
location /packed/ {{ alias {folder}/; gzip on; gzip_types text/plain; gzip_min_length 1;
  gzip_proxied any; }}
location /files/ {{ alias {folder}/; etag on; }}
location /dav/ {{ alias {folder}/dav/; dav_methods PUT DELETE; client_max_body_size 10m; }}
location /small/ {{ alias {folder}/dav/; dav_methods PUT; client_max_body_size 1k; }}
location /nothing {{ return 204; }}
location /short {{ alias {folder}/; keepalive_requests 2; }}
location /once {{ alias {folder}/; keepalive_timeout 0; }}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="relay-files-") as name:
        path = Path(name)
        path.chmod(0o755)  # nginx's worker is not root
        (path / "dav").mkdir()
        (path / "dav").chmod(0o777)
        (path / "text.txt").write_text(TEXT)
        (path / "big").write_bytes(b"".join(big(BIG)))
        yield path


@pytest.fixture(scope="module")
def nginx(folder: Path) -> Iterator[Server]:
    with start_nginx(NGINX.format(folder=folder)) as server:
        yield server


@pytest.fixture(scope="module")
def relay(nginx: Server) -> Iterator[Server]:
    with start_forward(nginx.url) as server:
        yield server


def test_a_file(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/files/text.txt", "--compressed")
    assert answer.body.decode() == TEXT
    assert answer.field("content-length") == [str(len(TEXT))]
    assert answer.field("content-encoding") == []
    assert answer.field("accept-ranges") == ["bytes"]


def test_a_compressed_file_stays_compressed_on_the_way(relay: Server, tmp_path: Path) -> None:
    raw = curl(tmp_path, f"{relay.url}/packed/text.txt", "-H", "Accept-Encoding: gzip")
    assert raw.field("content-encoding") == ["gzip"]
    assert raw.body[:2] == b"\x1f\x8b"
    read = curl(tmp_path, f"{relay.url}/packed/text.txt", "--compressed")
    assert read.body.decode() == TEXT
    old = curl(tmp_path, f"{relay.url}/packed/text.txt", "--compressed", "--http1.0")
    assert old.body.decode() == TEXT


@pytest.mark.parametrize(
    ("asked", "got", "told"),
    [
        ("0-99", TEXT[:100], f"bytes 0-99/{len(TEXT)}"),
        ("100-", TEXT[100:], f"bytes 100-{len(TEXT) - 1}/{len(TEXT)}"),
        ("-7", TEXT[-7:], f"bytes {len(TEXT) - 7}-{len(TEXT) - 1}/{len(TEXT)}"),
    ],
)
def test_a_range(relay: Server, tmp_path: Path, asked: str, got: str, told: str) -> None:
    answer = curl(tmp_path, f"{relay.url}/files/text.txt", "-r", asked)
    assert (answer.status, answer.body.decode()) == (206, got)
    assert answer.field("content-range") == [told]


def test_several_ranges_are_one_multipart_body(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/files/text.txt", "-r", "0-3,10-13")
    assert answer.status == 206
    assert answer.field("content-type")[0].startswith("multipart/byteranges; boundary=")
    assert answer.field("content-length") == [str(len(answer.body))]
    assert answer.body.count(b"Content-Range: bytes") == 2


def test_a_range_that_is_not_there(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/files/text.txt", "-r", "999999999-")
    assert answer.status == 416
    assert answer.field("content-range") == [f"bytes */{len(TEXT)}"]


def test_a_download_goes_on_where_it_was_cut(relay: Server, tmp_path: Path) -> None:
    validator = curl(tmp_path, f"{relay.url}/files/big", "--head").field("etag")[0]
    start = curl(tmp_path, f"{relay.url}/files/big", "-r", "0-9999999").body
    rest = curl(
        tmp_path, f"{relay.url}/files/big", "-r", "10000000-", "-H", f"If-Range: {validator}"
    )
    assert rest.status == 206
    assert hashlib.sha256(start + rest.body).hexdigest() == digest(BIG)


def test_a_big_file_is_the_same_bytes(relay: Server, tmp_path: Path) -> None:
    answer = curl(tmp_path, f"{relay.url}/files/big")
    assert answer.field("content-length") == [str(BIG)]
    assert hashlib.sha256(answer.body).hexdigest() == digest(BIG)


def test_not_modified_has_no_body_and_keeps_the_connection(relay: Server, tmp_path: Path) -> None:
    first = curl(tmp_path, f"{relay.url}/files/text.txt")
    same = ("-H", f"If-None-Match: {first.field('etag')[0]}")
    url = f"{relay.url}/files/text.txt"
    answers = curl_several(tmp_path, [url, url], *same)
    assert [answer.status for answer in answers] == [304, 304]
    assert [answer.body for answer in answers] == [b"", b""]
    assert [answer.connections for answer in answers] == [1, 0]
    since = ("-H", f"If-Modified-Since: {first.field('last-modified')[0]}")
    assert curl(tmp_path, url, *since).status == 304
    assert curl(tmp_path, url, "-H", 'If-None-Match: "other"').body.decode() == TEXT


def test_no_content_keeps_the_connection(relay: Server, tmp_path: Path) -> None:
    answers = curl_several(tmp_path, [f"{relay.url}/nothing"] * 2)
    assert [(answer.status, answer.connections) for answer in answers] == [(204, 1), (204, 0)]
    assert answers[0].field("content-length") == []
    assert answers[0].field("transfer-encoding") == []


@pytest.mark.parametrize("path", ["/files/text.txt", "/files/big", "/packed/text.txt"])
def test_a_head(relay: Server, tmp_path: Path, path: str) -> None:
    answers = curl_several(tmp_path, [relay.url + path] * 2, "--head", "--compressed")
    assert [(answer.status, answer.exit) for answer in answers] == [(200, 0)] * 2
    assert [answer.connections for answer in answers] == [1, 0]


@pytest.mark.parametrize("path", ["/short/text.txt", "/once/text.txt"])
def test_a_backend_that_closes_early_and_often(relay: Server, tmp_path: Path, path: str) -> None:
    """nginx ends its connections after two requests, or each: the client keeps its own."""
    answers = curl_several(tmp_path, [relay.url + path] * 7)
    assert [answer.status for answer in answers] == [200] * 7
    assert [answer.connections for answer in answers] == [1, 0, 0, 0, 0, 0, 0]
    assert all(answer.body.decode() == TEXT for answer in answers)


@pytest.mark.parametrize("options", [(), ASK], ids=["at once", "expect"])
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_an_upload(
    relay: Server, folder: Path, tmp_path: Path, options: tuple[str, ...], source: str
) -> None:
    body = b"".join(big(3_000_000))
    path = tmp_path / "up"
    path.write_bytes(body)
    what = str(path) if source == "file" else FROM_STDIN
    url = f"{relay.url}/dav/{source}-{len(options)}"
    answer = curl(tmp_path, url, "-T", what, *options, stdin=body)
    assert answer.status == 201
    if options:
        assert answer.heads[0].split()[1] == "100"
    assert (folder / "dav" / url.rpartition("/")[2]).read_bytes() == body


def test_a_refused_expectation_saves_the_upload(relay: Server, tmp_path: Path) -> None:
    """413 instead of 100: no byte of the body is sent, and no 100 is made up."""
    path = tmp_path / "up"
    path.write_bytes(b"".join(big(3_000_000)))
    answer = curl(tmp_path, f"{relay.url}/small/it", "-T", str(path), *ASK)
    assert [head.split()[1] for head in answer.heads] == ["413"]
    assert answer.uploaded == 0


def test_a_refused_upload_is_told_to_who_did_not_ask(relay: Server, tmp_path: Path) -> None:
    path = tmp_path / "up"
    path.write_bytes(b"".join(big(3_000_000)))
    answer = curl(tmp_path, f"{relay.url}/small/it", "-T", str(path), "-H", "Expect:")
    assert answer.status == 413


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
