"""The promise: fields that belong to one connection stay on it, in both directions; what relay
writes
itself cannot be taken away, and what an untrusted peer claims about others is dropped (RFC 9110
§7.6).
"""

from __future__ import annotations

import pytest

from tests.harness import Relay, Upstream, scene

Fields = dict[bytes, list[bytes]]
KEPT = b"x-end-to-end"


def parsed(head: bytes) -> Fields:
    """The fields of a head, by lower-case name."""
    fields: Fields = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip())
    return fields


async def request(relay: Relay, up: Upstream, *lines: str) -> Fields:
    """What the upstream gets for a GET with these field lines."""
    await relay.get("/", "".join(f"{line}\r\n" for line in lines))
    _, head = await up.request()
    return parsed(head)


async def response(relay: Relay, up: Upstream, *lines: str, asks: str = "") -> Fields:
    """What the client gets for a response with these field lines."""
    client = await relay.get("/", asks)
    peer, _ = await up.request()
    fields = "".join(f"{line}\r\n" for line in lines)
    await peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n".encode())
    return parsed(await client.head())


HOP_BY_HOP = [
    "Connection: close",
    "Connection: keep-alive",
    "Proxy-Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "TE: deflate",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    "Proxy-Authorization: Basic eDp5",
    "Proxy-Authenticate: Basic",
]


@pytest.mark.parametrize("line", HOP_BY_HOP)
async def test_in_a_request(line: str) -> None:
    async with scene() as (relay, up):
        fields = await request(relay, up, line, "X-End-To-End: 1")
        assert line.partition(":")[0].lower().encode() not in fields
        assert fields[KEPT] == [b"1"]


@pytest.mark.parametrize("line", HOP_BY_HOP)
async def test_in_a_response(line: str) -> None:
    async with scene() as (relay, up):
        fields = await response(relay, up, line, "X-End-To-End: 1")
        values = fields.get(line.partition(":")[0].lower().encode())
        assert values is None or (line.startswith("Connection") and values == [b"close"])
        assert fields[KEPT] == [b"1"]


CONNECTION_LINES = [
    ("Connection: X-Private",),
    ("Connection: close, X-Private",),
    ("Connection: close", "Connection: x-private"),
    ("Connection: ,, X-PRIVATE ,",),
    ("Connection:", "Connection: X-Private"),
]


@pytest.mark.parametrize("lines", CONNECTION_LINES)
async def test_what_connection_names_in_a_request(lines: tuple[str, ...]) -> None:
    async with scene() as (relay, up):
        fields = await request(relay, up, *lines, "X-Private: 1", "X-End-To-End: 1")
        assert b"x-private" not in fields
        assert b"connection" not in fields
        assert fields[KEPT] == [b"1"]


@pytest.mark.parametrize("lines", CONNECTION_LINES)
async def test_what_connection_names_in_a_response(lines: tuple[str, ...]) -> None:
    async with scene() as (relay, up):
        fields = await response(relay, up, *lines, "X-Private: 1", "X-End-To-End: 1")
        assert b"x-private" not in fields
        assert fields[KEPT] == [b"1"]


async def test_connection_cannot_name_what_relay_writes() -> None:
    """A client must not strip the credential, the address or the id that relay adds."""
    keys = '[upstreams.backend.request_headers]\nAuthorization = "Bearer s3cret"'
    async with scene(upstream_keys=keys) as (relay, up):
        names = "authorization, x-forwarded-for, host, via, forwarded, x-request-id"
        fields = await request(relay, up, f"Connection: {names}", "Authorization: Bearer mine")
        assert fields[b"authorization"] == [b"Bearer s3cret"]
        assert fields[b"x-forwarded-for"] == [b"127.0.0.1"]
        assert len(fields[b"host"]) == len(fields[b"via"]) == len(fields[b"x-request-id"]) == 1


@pytest.mark.parametrize(
    "claim",
    [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: admin.internal",
        "X-Forwarded-Port: 443",
        "X-Forwarded-User: root",
        "Forwarded: for=203.0.113.9",
        "X-Real-IP: 203.0.113.9",
        "True-Client-IP: 203.0.113.9",
    ],
)
async def test_claims_of_an_untrusted_peer(claim: str) -> None:
    async with scene() as (relay, up):
        fields = await request(relay, up, claim)
        name, _, value = claim.partition(": ")
        assert value.encode() not in b" ".join(fields.get(name.lower().encode(), []))


async def test_claims_of_a_trusted_peer() -> None:
    async with scene(
        more='[server]\nlisten = ["127.0.0.1:0"]\ntrusted_proxies = ["127.0.0.0/8"]'
    ) as (
        relay,
        up,
    ):
        fields = await request(
            relay, up, "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"
        )
        assert fields[b"x-forwarded-for"] == [b"203.0.113.9, 127.0.0.1"]
        assert fields[b"x-forwarded-proto"] == [b"https"]


async def test_nothing_is_invented() -> None:
    """No User-Agent, no Accept, no length or coding of a body that is not there."""
    async with scene() as (relay, up):
        fields = await request(relay, up)
        assert set(fields) == {
            b"host",
            b"via",
            b"x-forwarded-for",
            b"x-forwarded-proto",
            b"x-forwarded-host",
            b"forwarded",
            b"x-request-id",
        }


async def test_te_trailers_alone_goes_on() -> None:
    async with scene() as (relay, up):
        fields = await request(relay, up, "Connection: TE", "TE: trailers")
        assert fields[b"te"] == [b"trailers"]
        assert fields[b"connection"] == [b"te"]


async def test_what_relay_says_of_itself() -> None:
    async with scene() as (relay, up):
        fields = await response(relay, up)
        assert fields[b"via"] == [b"1.1 relay"]
        assert len(fields[b"x-request-id"]) == 1
        line = await relay.line()
        assert fields[b"x-request-id"] == [str(line["id"]).encode()]


@pytest.mark.parametrize("host", ["a=b", "a~b", "caf%C3%A9:8080"])
async def test_any_registered_name_is_a_host(host: str) -> None:
    async with scene(upstream_keys='host_header = "client"') as (relay, up):
        client = await relay.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        _, head = await up.request()
        fields = parsed(head)
        assert fields[b"host"] == fields[b"x-forwarded-host"] == [host.encode()]
        refused = await relay.client()
        await refused.send(f"GET / HTTP/1.1\r\nHost: {host},b\r\n\r\n".encode())
        assert b" 400 " in await refused.head()
