"""The promise: a trusted peer's PROXY header says who the client is, in the log, in the forwarding
fields and for the limits; nobody else can say so, and what is malformed is closed in silence."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from tests.harness import RawPeer, Relay, Upstream, route_to, running, scene

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TRUSTING = '[server]\nproxy_protocol = "on"\ntrusted_proxies = ["127.0.0.0/8"]\n'
SHORT = '[timeouts]\nrequest_head = "100ms"\n'
GET = b"GET /x HTTP/1.1\r\nHost: app.example\r\n\r\n"


def v2(body: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, kind]) + struct.pack(">H", len(body)) + body


V4 = v2(bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack(">HH", 56324, 443))
V4_TLS = v2(
    bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack(">HH", 1, 443) + b"\x20\x00\x05\x01\0\0\0\0"
)
V6 = v2(bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(16) + bytes(4), kind=0x21)
UNIX = v2(bytes(216), kind=0x31)

# header → (client in the log, X-Forwarded-For, Forwarded)
TOLD = {
    "v1 TCP4": (
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n",
        ("192.0.2.7", b"192.0.2.7", b"for=192.0.2.7;host=app.example;proto=http"),
    ),
    "v1 TCP6": (
        b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
        ("2001:db8::1", b"2001:db8::1", b'for="[2001:db8::1]";host=app.example;proto=http'),
    ),
    "v1 UNKNOWN": (
        b"PROXY UNKNOWN\r\n",
        ("127.0.0.1", b"127.0.0.1", b"for=127.0.0.1;host=app.example;proto=http"),
    ),
    "v2 TCP4": (V4, ("192.0.2.7", b"192.0.2.7", b"for=192.0.2.7;host=app.example;proto=http")),
    "v2 TCP4 by TLS": (
        V4_TLS,
        ("192.0.2.7", b"192.0.2.7", b"for=192.0.2.7;host=app.example;proto=https"),
    ),
    "v2 TCP6": (
        V6,
        ("2001:db8::1", b"2001:db8::1", b'for="[2001:db8::1]";host=app.example;proto=http'),
    ),
    "v2 unix": (UNIX, ("unix", b"", b"for=unknown;host=app.example;proto=http")),
    "v2 LOCAL": (
        v2(b"", command=0x20, kind=0),
        ("127.0.0.1", b"127.0.0.1", b"for=127.0.0.1;host=app.example;proto=http"),
    ),
}


async def ask(relay: Relay, up: Upstream, data: bytes) -> tuple[RawPeer, dict[bytes, bytes]]:
    """A client that sends `data`, and the fields the upstream then got."""
    client = await relay.client()
    await client.send(data)
    peer, head = await up.request()
    await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await client.head()
    fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:-2]]
    return client, {name.lower(): value for name, _, value in fields}


@pytest.mark.parametrize(("header", "told"), TOLD.values(), ids=TOLD.keys())
async def test_the_header_says_who_the_client_is(
    header: bytes, told: tuple[str, bytes, bytes]
) -> None:
    client_in_log, forwarded_for, forwarded = told
    async with scene(more=TRUSTING) as (relay, up):
        client, fields = await ask(relay, up, header + GET)
        assert fields.get(b"x-forwarded-for", b"") == forwarded_for
        assert fields[b"forwarded"] == forwarded
        assert (await relay.line())["client"] == client_in_log
        # It counts for the whole connection.
        await client.send(GET)
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.head()
        assert (await relay.line())["client"] == client_in_log


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", V4, V4_TLS])
async def test_it_may_come_byte_by_byte(header: bytes) -> None:
    async with scene(more=TRUSTING) as (relay, up):
        client = await relay.client()
        for n in range(len(header)):
            await client.send(header[n : n + 1])
            await trio.testing.wait_all_tasks_blocked()
        await client.send(GET)
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.head()
        assert (await relay.line())["client"] == "192.0.2.7"


WRONG = {
    "none, but a request": GET,
    "v1 lower case": b"proxy TCP4 192.0.2.7 10.0.0.1 56324 443\r\n",
    "v1 bad address": b"PROXY TCP4 192.0.2.700 10.0.0.1 56324 443\r\n",
    "v1 bad port": b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 443\r\n",
    "v1 endless": b"PROXY TCP4 " + b"1" * 200,
    "v1 bare LF": b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n" + GET,
    "v2 version 3": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
    "v2 too short for its addresses": v2(bytes(8)),
    "v2 too long": SIGNATURE + b"\x21\x11\xff\xff",
    "v2 wrong checksum": v2(bytes(12) + b"\x03\x00\x04" + bytes(4)),
    "v2 a TLV longer than the header": v2(bytes(12) + b"\x01\x00\x09h2"),
    "v2 a TLV of TLS of one byte": v2(bytes(12) + b"\x20\x00\x01\x01"),
    "v2 bad signature": b"\r\n\r\n\x00\r\nQUIS\n",
    "TLS": b"\x16\x03\x01\x02\x00",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
async def test_what_is_malformed_is_closed_in_silence(data: bytes) -> None:
    async with scene(more=TRUSTING) as (relay, _):
        before = relay.inventory()
        client = await relay.client()
        await client.send(data)
        await client.ended()
        line = await relay.line()
        assert (line["ending"], line["side"], line["status"]) == ("bad_request", "client", 499)
        assert "PROXY header" in str(line["detail"])
        await relay.nothing_left(before)


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 192.0.2.7", SIGNATURE, V4[:20]])
async def test_it_must_come_within_the_deadline_of_a_head(data: bytes) -> None:
    async with scene(more=TRUSTING + SHORT) as (relay, _):
        before = relay.inventory()
        client = await relay.client()
        if data:
            await client.send(data)
        await client.ended()
        await relay.nothing_left(before)


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 192.0.2.7", V4[:20]])
async def test_a_client_may_leave_before_it_is_whole(data: bytes) -> None:
    async with scene(more=TRUSTING) as (relay, _):
        before = relay.inventory()
        client = await relay.client()
        if data:
            await client.send(data)
        client.close()
        await relay.nothing_left(before)


async def test_an_untrusted_peer_speaks_plainly_and_cannot_lie() -> None:
    """The same listener: 127.0.0.2 is the terminator, 127.0.0.1 is anybody."""
    more = TRUSTING.replace("127.0.0.0/8", "127.0.0.2")
    async with scene(more=more) as (relay, up):
        _, fields = await ask(relay, up, GET)
        assert fields[b"x-forwarded-for"] == b"127.0.0.1"
        assert (await relay.line())["client"] == "127.0.0.1"
        liar = await relay.client()
        await liar.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n" + GET)
        assert b" 400 " in await liar.head()
        assert (await relay.line())["client"] == "127.0.0.1"


async def test_it_is_off_by_default() -> None:
    more = '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n'
    async with scene(more=more) as (relay, _):
        client = await relay.client()
        await client.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n" + GET)
        assert b" 400 " in await client.head()


async def test_the_clients_own_forwarding_fields_are_not_believed() -> None:
    """The terminator speaks no HTTP: what is in the request was said by the client."""
    async with scene(more=TRUSTING) as (relay, up):
        lie = GET.replace(
            b"\r\n\r\n", b"\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n"
        )
        _, fields = await ask(relay, up, V4 + lie)
        assert fields[b"x-forwarded-for"] == b"192.0.2.7"
        assert b"x-real-ip" not in fields
        assert (await relay.line())["client"] == "192.0.2.7"


async def test_behind_the_terminator_another_trusted_proxy_may_speak() -> None:
    """A CDN whose connections come through a TCP balancer: both are trusted."""
    more = TRUSTING.replace('"127.0.0.0/8"', '"127.0.0.0/8", "192.0.2.0/24"')
    async with scene(more=more) as (relay, up):
        said = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        _, fields = await ask(relay, up, V4 + said)
        assert fields[b"x-forwarded-for"] == b"203.0.113.9, 192.0.2.7"
        assert (await relay.line())["client"] == "203.0.113.9"


async def test_its_client_is_what_the_limits_count() -> None:
    """One connection per address: two clients through one balancer are two addresses."""
    more = TRUSTING + "[limits]\nconnections_per_address = 1\n"
    up = await Upstream.open()
    async with running(route_to(up, more=more)) as relay:
        first, _ = await ask(relay, up, V4 + GET)
        other, _ = await ask(relay, up, V6 + GET)
        second = await relay.client()
        await second.send(V4 + GET)
        assert b" 429 " in await second.head()
        assert (await relay.line(status=429))["client"] == "192.0.2.7"
        first.close()
        other.close()
    up.close()
