"""The promise: what says where a request came from is written by relay. A peer that is not trusted
can say nothing of it; a trusted one is believed as far as the chain is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from relay.config import loads
from relay.exchange.worker import Worker
from relay.serving.activation import Passed
from relay.serving.listeners import open_listeners
from relay.serving.server import Server
from tests.harness import RawPeer, Relay, Upstream, route_to, scene

TRUSTING = '[server]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n'

# Everything a client may claim, and what no client may get through.
LIES = {
    "X-Forwarded-For": "10.9.9.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "admin.internal",
    "X-Forwarded-Port": "443",
    "X-Forwarded-Prefix": "/admin",
    "X-Forwarded-User": "root",
    "X-Forwarded-Client-Cert": "Subject=root",
    "Forwarded": "for=10.9.9.9;proto=https;host=admin.internal",
    "X-Real-IP": "10.9.9.9",
    "X-Client-IP": "10.9.9.9",
    "X-Cluster-Client-IP": "10.9.9.9",
    "True-Client-IP": "10.9.9.9",
    "CF-Connecting-IP": "10.9.9.9",
    "X-Original-URL": "/admin",
    "X-Rewrite-URL": "/admin",
}


async def fields_upstream(relay: Relay, up: Upstream, said: dict[str, str]) -> dict[str, str]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    client = await relay.get("/x", lines)
    peer, head = await up.request()
    await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await client.head()
    pairs = (line.partition(": ") for line in head.decode().split("\r\n")[1:-2])
    fields: dict[str, str] = {}
    for name, _, value in pairs:
        assert name.lower() not in fields, f"{name} came twice"
        fields[name.lower()] = value
    return fields


@pytest.mark.parametrize("lie", LIES)
async def test_a_stranger_says_nothing(lie: str) -> None:
    async with scene() as (relay, up):
        fields = await fields_upstream(relay, up, {lie: LIES[lie]})
        assert fields["x-forwarded-for"] == "127.0.0.1"
        assert fields["x-forwarded-proto"] == "http"
        assert fields["x-forwarded-host"] == "relay.test"
        assert fields["forwarded"] == "for=127.0.0.1;host=relay.test;proto=http"
        written = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}
        assert lie.lower() in written or lie.lower() not in fields
        assert LIES[lie] not in fields.values()
        assert (await relay.line())["client"] == "127.0.0.1"


async def test_all_lies_at_once_and_hidden_behind_connection() -> None:
    """Naming relay's own fields in Connection must not strip them off (RFC 9110 §7.6.1)."""
    async with scene() as (relay, up):
        said = LIES | {"Connection": "close, X-Forwarded-For, Forwarded, X-Forwarded-Proto"}
        fields = await fields_upstream(relay, up, said)
        assert fields["x-forwarded-for"] == "127.0.0.1"
        assert fields["forwarded"] == "for=127.0.0.1;host=relay.test;proto=http"
        assert not {"10.9.9.9", "admin.internal", "root", "/admin"} & set(fields.values())


async def test_a_trusted_peer_is_believed() -> None:
    async with scene(more=TRUSTING) as (relay, up):
        said = {
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "app.example",
        }
        fields = await fields_upstream(relay, up, said)
        assert fields["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
        assert fields["x-forwarded-proto"] == "https"
        assert fields["x-forwarded-host"] == "app.example"
        assert fields["forwarded"] == (
            "for=203.0.113.9;host=app.example;proto=https, for=127.0.0.1"
        )
        assert (await relay.line())["client"] == "203.0.113.9"


async def test_what_the_client_put_in_front_of_a_trusted_chain_is_dropped() -> None:
    """1. A client sends an address of its choice. 2. The proxy adds the client's own. 3. Only that
    one counts, and only that one goes on."""
    async with scene(more=TRUSTING) as (relay, up):
        chain = "10.9.9.9, 203.0.113.9, 10.1.1.1"
        fields = await fields_upstream(relay, up, {"X-Forwarded-For": chain})
        assert fields["x-forwarded-for"] == "203.0.113.9, 10.1.1.1, 127.0.0.1"
        assert (await relay.line())["client"] == "203.0.113.9"


async def test_a_trusted_peer_may_write_the_standard_field() -> None:
    async with scene(more=TRUSTING) as (relay, up):
        said = {"Forwarded": 'for="[2001:db8::1]:4711";proto=https;host=app.example'}
        fields = await fields_upstream(relay, up, said)
        assert fields["x-forwarded-for"] == "2001:db8::1, 127.0.0.1"
        assert fields["x-forwarded-proto"] == "https"
        assert (await relay.line())["client"] == "2001:db8::1"


@pytest.mark.parametrize("value", ["unknown", "_hidden", "nonsense", "999.1.1.1", "", ", ,"])
async def test_nonsense_from_a_trusted_peer_leaves_the_peer(value: str) -> None:
    async with scene(more=TRUSTING) as (relay, up):
        fields = await fields_upstream(relay, up, {"X-Forwarded-For": value})
        assert fields["x-forwarded-for"] == "127.0.0.1"
        assert (await relay.line())["client"] == "127.0.0.1"


@pytest.mark.parametrize("trusted", [True, False])
async def test_peers_on_a_unix_socket(tmp_path: Path, trusted: bool) -> None:
    """They have no address; `trusted_proxies = ["unix"]` believes them."""
    up = await Upstream.open()
    where = tmp_path / "relay.sock"
    networks = '["unix"]' if trusted else "[]"
    more = f'[server]\nlisten = "unix:{where}"\ntrusted_proxies = {networks}\n'
    config = loads(route_to(up, more=more), {})
    [listener] = open_listeners(config.server.listen, Passed())
    async with trio.open_nursery() as nursery:
        await nursery.start(Server(Worker(config, None), [listener]).run)
        client = RawPeer(await trio.open_unix_socket(str(where)))
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n"
            b"X-Forwarded-Proto: https\r\n\r\n"
        )
        peer, head = await up.request()
        assert (b"x-forwarded-for: 203.0.113.9" in head.lower()) is trusted
        assert (b"x-forwarded-proto: https" in head.lower()) is trusted
        peer.close()
        client.close()
        nursery.cancel_scope.cancel()
    listener.remove_file()
    listener.close()
    up.close()
