"""Compressed event streams of real servers (node's zlib, a Python middleware, nginx's gzip), through
relay as a process and relay in Hypercorn, to real clients: every event when it was flushed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.asgi_front import Front, start_front
from tests.interop.late import anthropic, openai
from tests.interop.models import TEXT, TOKENS
from tests.interop.processes import (
    ROOT,
    Server,
    require,
    start,
    start_hypercorn,
    start_nginx,
    start_relay,
)
from tests.interop.reading import events_of
from tests.interop.test_sdks import keep

CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.origin]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
heartbeat = "5s"
"""
MODEL = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.model]
url = "{url}"
[[routes]]
path = "/bare/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
[[routes]]
path = "/watched/v1/chat/completions"
upstream = "model"
upstream_path = "/stubborn/v1/chat/completions"
dialect = "openai"
complete_when = "[DONE]"
event_idle = "500ms"
[[routes]]
path = "/watched/v1/messages"
upstream = "model"
upstream_path = "/stubborn/v1/messages"
dialect = "anthropic"
complete_when = ["event:message_stop", "event:error"]
[[routes]]
path = "/asked/v1/{{rest...}}"
upstream = "model"
upstream_path = "/v1/{{rest}}"
dialect = "openai"
"""
ASKED: Any = {"role": "user", "content": "?"}


# -- node ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[Server]:
    command: list[str | Path] = [require("node"), ROOT / "tests" / "interop" / "coded_origin.mjs"]
    with start(command, says="port ") as server:
        server.address = f"127.0.0.1:{server.stderr.wait_for('port ').split()[-1]}"
        yield server


@pytest.fixture(scope="module")
def relay(node: Server) -> Iterator[Server]:
    with start_relay(CONFIG.format(url=node.url)) as server:
        yield server


@pytest.fixture(scope="module")
def front(node: Server) -> Iterator[Front]:
    config = CONFIG.format(url=node.url).replace('listen = ["${LISTEN}"]', "")
    with start_front(config) as front:
        yield front


def check_one_by_one(node: Server, client: httpx.Client, url: str) -> None:
    """Each event is here before the server makes the next one."""
    with client.stream("GET", url, headers={"Accept-Encoding": "gzip, deflate, br"}) as response:
        assert "content-encoding" not in response.headers
        assert response.headers["vary"] == "Accept-Encoding"
        events = events_of(response)
        for number in range(1, 20):
            httpx.get(f"{node.url}/next")
            assert next(events).json() == {"number": number, "text": "é and more"}
        httpx.get(f"{node.url}/end")
        assert list(events) == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_node(node: Server, relay: Server, coding: str) -> None:
    with httpx.Client() as client:
        check_one_by_one(node, client, f"{relay.url}/{coding}")
    record = relay.wait_for_record(lambda r: r["at"] == "end" and r["path"] == f"/{coding}")
    assert (record["ending"], record["events"]) == ("complete", 19)


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_node_behind_relay_in_hypercorn(
    node: Server, front: Front, coding: str, version: str
) -> None:
    with front.client(version) as client:
        check_one_by_one(node, client, f"/{coding}")


def test_brotli_passes_as_it_is(node: Server, relay: Server) -> None:
    """1. relay does not read it. 2. The client gets the very bytes, and decodes them."""
    with httpx.stream("GET", f"{relay.url}/br") as response:
        assert response.headers["content-encoding"] == "br"
        bodies = response.iter_raw()
        body = b""
        while len(body) < 30:
            httpx.get(f"{node.url}/next")
            body += next(bodies)
        httpx.get(f"{node.url}/end")
        body += b"".join(bodies)
    decode = "process.stdout.write(zlib.brotliDecompressSync(fs.readFileSync(0)))"
    text = subprocess.run(
        [require("node"), "-e", decode], input=body, capture_output=True, check=True
    )
    assert text.stdout.startswith(b'data: {"number":1,"text":')
    assert text.stdout.endswith(b"}\n\n")
    record = relay.wait_for_record(lambda r: r["at"] == "end" and r["path"] == "/br")
    assert (record["ending"], record["coding"]) == ("complete", "br")


# -- models and their SDKs -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    with start_hypercorn("tests.interop.coded_models:app") as server:
        yield server


@pytest.fixture(scope="module")
def models(model: Server) -> Iterator[Server]:
    with start_relay(MODEL.format(url=model.url)) as server:
        yield server


def chat(relay: Server, route: str, script: str) -> Iterator[str]:
    with openai.OpenAI(base_url=f"{relay.url}/{route}/v1", api_key="k", max_retries=0) as client:
        stream = client.chat.completions.create(model=script, messages=[ASKED], stream=True)
        with stream:
            for piece in stream:
                yield piece.choices[0].delta.content or ""


@pytest.mark.parametrize("route", ["bare", "watched", "asked"])
def test_openai_reads_all_of_it(models: Server, route: str) -> None:
    """The SDK offers gzip and deflate, and says nothing of event streams: the server compresses."""
    assert "".join(chat(models, route, "complete")) == TEXT
    path = f"/{route}/v1/chat/completions"
    record = models.wait_for_record(lambda r: r["at"] == "end" and r["path"] == path)
    # The SDK closes its connection at `[DONE]`, which may be before the end has come.
    assert record["ending"] in ("complete", "client_left")


def test_openai_reads_token_by_token(models: Server) -> None:
    """A stream without an end: its tokens come while it runs, and it is stopped by the client."""
    tokens = chat(models, "bare", "endless")
    assert [next(tokens) for _ in range(21)] == ["", *["on and "] * 20]
    tokens.close()  # type: ignore[attr-defined]
    assert models.wait_for_record(
        lambda r: r["at"] == "end" and r["ending"] == "client_left" and r["events"] >= 20
    )


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("cut", "upstream_broke"),
        ("unfinished", "upstream_truncated"),
        ("silent", "upstream_silent"),
    ],
)
def test_openai_hears_of_a_broken_stream(models: Server, script: str, code: str) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIError) as raised:
        keep(chat(models, "watched", script), got)
    assert raised.value.code == code
    assert "".join(got) == (TEXT if script == "unfinished" else "".join(TOKENS[:2]))


def test_anthropic_reads_all_of_it(models: Server) -> None:
    url = f"{models.url}/watched"
    with (
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="complete", messages=[ASKED], max_tokens=9) as stream,
    ):
        assert "".join(stream.text_stream) == TEXT


# -- nginx -----------------------------------------------------------------------------------------


def test_nginx_that_compresses_what_it_proxies(model: Server) -> None:
    """A server behind an nginx with gzip on, unbuffered, and relay in front of both."""
    nginx = f"""
gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0; gzip_http_version 1.0;
location / {{ proxy_pass {model.url}; proxy_buffering off; proxy_http_version 1.1;
  proxy_set_header Accept-Encoding ""; }}
"""
    with start_nginx(nginx) as server, start_relay(MODEL.format(url=server.url)) as relay:
        plain = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "complete"},
            headers={"Accept-Encoding": "gzip"},
        )
        assert plain.headers["content-encoding"] == "gzip"
        assert "".join(chat(relay, "bare", "complete")) == TEXT
        tokens = chat(relay, "bare", "endless")
        assert [next(tokens) for _ in range(6)] == ["", *["on and "] * 5]
        tokens.close()  # type: ignore[attr-defined]
