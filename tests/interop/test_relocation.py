"""A redirect to the upstream's own address: relay does what nginx does by default, and a client that
follows redirects stays on relay.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.interop.processes import Server, start_nginx, start_relay

UPSTREAM = """
absolute_redirect off;
location / { return 302 $arg_to; }
location /one/there { return 200 there; }
location /there { return 200 there; }
"""
FRONT = """
absolute_redirect off;
location /two/ {{ proxy_pass {url}/one/; }}
location / {{ proxy_pass {url}; }}
"""
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.u]
url = "{url}"
[[routes]]
path = "/two/{{rest...}}"
upstream = "u"
upstream_path = "/one/{{rest}}"
[[routes]]
path = "/{{rest...}}"
upstream = "u"
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    with start_nginx(UPSTREAM) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(upstream: Server) -> Iterator[Server]:
    with start_nginx(FRONT.format(url=upstream.url)) as server:
        yield server


@pytest.fixture(scope="module")
def relay(upstream: Server) -> Iterator[Server]:
    with start_relay(CONFIG.format(url=upstream.url)) as server:
        yield server


def location(server: Server, path: str, to: str) -> str:
    answer = httpx.get(f"{server.url}{path}?to={to}")
    assert answer.status_code == 302
    return answer.headers["location"]


@pytest.mark.parametrize("path", ["/two/x", "/x", "/two/"])
@pytest.mark.parametrize(
    "to",
    [
        "{url}/one/x",
        "{url}/one/",
        "{url}/onex",
        "{url}/x",
        "{url}/",
        "http://elsewhere/one/x",
        "/one/x",
        "/x",
        "{https}/one/x",
    ],
)
def test_as_nginx_does(path: str, to: str, upstream: Server, nginx: Server, relay: Server) -> None:
    value = to.format(url=upstream.url, https=upstream.url.replace("http:", "https:"))
    assert location(relay, path, value) == location(nginx, path, value)


@pytest.mark.parametrize("path", ["/two/there", "/there"])
def test_a_client_stays_on_relay(path: str, upstream: Server, relay: Server) -> None:
    to = upstream.url + path.replace("/two/", "/one/")
    answer = httpx.get(f"{relay.url}{path.replace('there', 'x')}?to={to}", follow_redirects=True)
    assert answer.text == "there"
    assert str(answer.url) == f"{relay.url}{path}"
    assert len(answer.history) == 1


def test_never_a_host(upstream: Server, relay: Server) -> None:
    """Where nginx would give `//evil.example/`, which a browser takes for a host."""
    assert location(relay, "/x", f"{upstream.url}//evil.example/") == "/.//evil.example/"
    stays = httpx.URL(f"{relay.url}/x").join("/.//evil.example/")
    assert stays.host == "127.0.0.1"
