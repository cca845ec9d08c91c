"""TLS upstreams: certificates that are good, for another name, from a stranger, or too old."""

from __future__ import annotations

import datetime
import hashlib
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from websockets.sync.client import connect

from tests.interop import origin as bytes_of
from tests.interop.processes import Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import came_one_by_one, events_of

CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.good]
url = "{good}"
tls_ca = "{ca}"
[upstreams.stranger]
url = "{good}"
tls_ca = "{stranger}"
[upstreams.system]
url = "{good}"
[upstreams.wrong]
url = "{wrong}"
tls_ca = "{ca}"
[upstreams.renamed]
url = "{wrong}"
tls_server_name = "backend.test"
tls_ca = "{ca}"
[upstreams.expired]
url = "{expired}"
tls_ca = "{ca}"
[upstreams.plain]
url = "{plain}"
tls_ca = "{ca}"
"""
ROUTE = """
[[routes]]
path = "/{name}/{{rest...}}"
upstream = "{name}"
upstream_path = "/{{rest}}"
"""
UPSTREAMS = ("good", "stranger", "system", "wrong", "renamed", "expired", "plain")
NOW = datetime.datetime.now(datetime.UTC)


def served_with(folder: Path, name: str, certificate: trustme.LeafCert) -> list[str]:
    """Hypercorn's options for a certificate."""
    key, chain = folder / f"{name}.key", folder / f"{name}.pem"
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    return ["--keyfile", str(key), "--certfile", str(chain)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="relay-tls-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def ca(folder: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return authority


@pytest.fixture(scope="module")
def good(folder: Path, ca: trustme.CA) -> Iterator[Server]:
    options = served_with(folder, "good", ca.issue_cert("127.0.0.1"))
    with start_hypercorn("tests.interop.origin:app", *options) as server:
        yield server


@pytest.fixture(scope="module")
def relay(folder: Path, ca: trustme.CA, good: Server) -> Iterator[Server]:
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    wrong = served_with(folder, "wrong", ca.issue_cert("backend.test"))
    past = NOW - datetime.timedelta(days=30), NOW - datetime.timedelta(days=1)
    old = ca.issue_cert("127.0.0.1", not_before=past[0], not_after=past[1])
    app = "tests.interop.origin:app"
    with (
        start_hypercorn(app, *wrong) as wrong_server,
        start_hypercorn(app, *served_with(folder, "old", old)) as old_server,
        start_hypercorn(app) as plain,
    ):
        config = CONFIG.format(
            good=f"https://{good.address}",
            wrong=f"https://{wrong_server.address}",
            expired=f"https://{old_server.address}",
            plain=f"https://{plain.address}",
            ca=folder / "ca.pem",
            stranger=folder / "stranger.pem",
        )
        config += "".join(ROUTE.format(name=name) for name in UPSTREAMS)
        with start_relay(config) as server:
            yield server


@pytest.fixture(scope="module")
def direct(good: Server, folder: Path, relay: Server) -> Iterator[Any]:
    """What the good backend tells of its calls, asked without relay."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    with httpx.Client(base_url=f"https://{good.address}", verify=context) as client:
        yield lambda: client.get("/state").json()["calls"]


@pytest.mark.parametrize("name", ["good", "renamed"])
def test_a_good_certificate(relay: Server, name: str) -> None:
    assert httpx.get(f"{relay.url}/{name}/hello").text == "hello\n"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong", "certificate refused: IP address mismatch"),
        ("stranger", "certificate refused: unable to get local issuer certificate"),
        ("system", "certificate refused: unable to get local issuer certificate"),
        ("expired", "certificate refused: certificate has expired"),
        ("plain", "TLS handshake"),
    ],
)
def test_a_bad_certificate_is_a_502_and_the_log_says_why(
    relay: Server, name: str, why: str
) -> None:
    response = httpx.post(f"{relay.url}/{name}/echo", content=b"secret")
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["code"] == "upstream_unreachable"
    assert "127.0.0.1" not in error["message"]
    record = relay.wait_for_record(lambda line: line["path"] == f"/{name}/echo")
    assert (record["ending"], record["side"]) == ("upstream_unreachable", "upstream")
    assert record["phase"] == "dial"
    assert why in record["detail"]


def test_only_http_1_1_is_offered(relay: Server, folder: Path, ca: trustme.CA) -> None:
    """A server that would rather speak HTTP/2 hears of HTTP/1.1 alone."""
    offered: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    ca.issue_cert("127.0.0.1").configure_cert(context)

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.do_handshake()
        offered.append(stream.selected_alpn_protocol())
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> int:
        [tcp] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = tcp.socket.getsockname()[1]
        listener = trio.SSLListener(tcp, context)
        config = f"""
[server]
listen = ["${{LISTEN}}"]
[upstreams.origin]
url = "https://127.0.0.1:{port}"
tls_ca = "{folder / "ca.pem"}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
"""
        with start_relay(config) as asked:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, answer, [listener])
                async with httpx.AsyncClient() as client:
                    status = (await client.get(asked.url)).status_code
                nursery.cancel_scope.cancel()
        return status

    assert trio.run(main) == 200
    assert offered == ["http/1.1"]


def test_events_arrive_one_by_one(relay: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/good/events?count=20") as response:
        events = list(events_of(response))
    assert [event.json()["number"] for event in events] == list(range(20))
    assert came_one_by_one(events)


def test_leaving_stops_the_generator(relay: Server, direct: Any) -> None:
    with httpx.stream("GET", f"{relay.url}/good/events") as response:
        events = events_of(response)
        next(events)
        assert direct()[-1]["state"] == "running"
    wait_until("the generator is stopped", lambda: direct()[-1]["state"] == "stopped")


@pytest.mark.parametrize("framing", ["", "&chunked"])
def test_a_big_download_is_the_same_bytes(relay: Server, framing: str) -> None:
    size = 20_000_000
    response = httpx.get(f"{relay.url}/good/big?{size}{framing}")
    assert hashlib.sha256(response.content).hexdigest() == bytes_of.digest(size)


def test_an_upload_and_an_echo(relay: Server) -> None:
    told = httpx.post(f"{relay.url}/good/digest", content=bytes_of.big(3_000_000)).json()
    assert told["sha256"] == bytes_of.digest(3_000_000)
    echo = httpx.post(f"{relay.url}/good/echo", content=bytes_of.BLOCK * 16)
    assert echo.content == bytes_of.BLOCK * 16


def test_a_websocket(relay: Server) -> None:
    with connect(f"ws://{relay.address}/good/ws") as socket:
        socket.send("over TLS")
        assert socket.recv(10) == "over TLS"


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
