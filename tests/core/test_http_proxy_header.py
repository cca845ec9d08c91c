"""The PROXY protocol: both versions, what says nothing, and everything that is not it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.http.proxy_header import MAX_V2, ProxyHeader, crc32c, parse
from tests.core.http_feeding import MORE, outcome

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack(">HH", 56324, 443)
V6 = bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(15) + b"\x01" + struct.pack(">HH", 1, 2)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
SSL = b"\x20\x00\x05\x01\0\0\0\0"
TLV = b"\x01\x00\x02h2" + b"\x20\x00\x05\x01\0\0\0\0"

TCP4 = ProxyHeader("192.0.2.7", 56324, "10.0.0.1", 443)
TCP6 = ProxyHeader("2001:db8::1", 1, "::1", 2)


def v2(body: bytes, command: int = 0x21, kind: int = 0x11, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes([command, kind]) + struct.pack(">H", size) + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


SUM = tlv(0x03, bytes(4))


def summed(body: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    """A header whose first checksum is right."""
    header = v2(body, command, kind)
    at = header.index(SUM) + 3
    return header[:at] + struct.pack(">I", crc32c(header)) + header[at + 4 :]


GOOD = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", TCP4),
    "v1 TCP6": (b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", TCP6),
    "v1 port 0": (
        b"PROXY TCP4 1.1.1.1 2.2.2.2 0 65535\r\n",
        ProxyHeader("1.1.1.1", 0, "2.2.2.2", 65535),
    ),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "v1 UNKNOWN, longest": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    "v2 TCP4": (v2(V4), TCP4),
    "v2 UDP4": (v2(V4, kind=0x12), TCP4),
    "v2 TCP4 with TLVs": (v2(V4 + TLV), TCP4._replace(tls=True)),
    "v2 TCP6 by TLS": (v2(V6 + SSL, kind=0x21), TCP6._replace(tls=True)),
    "v2 unix by TLS": (v2(UNIX + SSL, kind=0x31), ProxyHeader(None, tls=True)),
    "v2 TLS on the balancer's side only": (v2(V4 + b"\x20\x00\x05\x00\0\0\0\0"), TCP4),
    "v2 TLVs within the one of TLS": (
        v2(V4 + b"\x20\x00\x0f\x01\0\0\0\0\x21\x00\x07TLSv1.3"),
        TCP4._replace(tls=True),
    ),
    "v2 an empty TLV": (v2(V4 + b"\x04\x00\x00"), TCP4),
    "v2 checksum": (summed(V4 + SUM), TCP4),
    "v2 checksum in front of others": (summed(V6 + SUM + SSL, kind=0x21), TCP6._replace(tls=True)),
    "v2 checksum of LOCAL": (summed(SUM, command=0x20, kind=0), None),
    "v2 TCP6": (v2(V6, kind=0x21), TCP6),
    "v2 unix": (v2(UNIX, kind=0x31), ProxyHeader(None)),
    "v2 LOCAL": (v2(b"", command=0x20, kind=0), None),
    "v2 LOCAL with an address": (v2(V4, command=0x20), None),
    "v2 LOCAL with TLVs": (v2(TLV, command=0x20, kind=0), None),
    "v2 UNSPEC": (v2(b"", kind=0), None),
    "v2 UNSPEC with bytes": (v2(b"abc", kind=0), None),
    "v2 longest": (v2(V4 + tlv(0x04, bytes(MAX_V2 - 16 - len(V4) - 3))), TCP4),
}


@pytest.mark.parametrize(("data", "header"), GOOD.values(), ids=GOOD.keys())
def test_good(data: bytes, header: ProxyHeader | None) -> None:
    assert outcome(parse, data) == ("value", header, len(data))


@pytest.mark.parametrize(
    "data", [b"", b"P", b"PROXY", b"PROXY TCP4 1.1.1.1\r", SIGNATURE, v2(V4)[:-1], SIGNATURE[:1]]
)
def test_waits_for_more(data: bytes) -> None:
    assert outcome(parse, data) == MORE


BAD = {
    "plain HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01",
    "lower case": b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "no space": b"PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "two spaces": b"PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "UDP": b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "UNKNOWNX": b"PROXY UNKNOWNX\r\n",
    "wrong family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "wrong family 6": b"PROXY TCP6 1.1.1.1 1.1.1.1 1 2\r\n",
    "address": b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
    "address, leading zero": b"PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
    "port": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
    "port, leading zero": b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
    "port, sign": b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
    "too few": b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
    "too many": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
    "bare LF": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
    "bare CR": b"PROXY TCP4 1.1.1.1\r2.2.2.2 1 2\r\n",
    "too long": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v2 signature": b"\r\n\r\n\x00\r\nQUIT\r\n",
    "v2 version": v2(V4, command=0x11),
    "v2 command": v2(V4, command=0x22),
    "v2 family": v2(V4, kind=0x41),
    "v2 transport": v2(V4, kind=0x10),
    "v2 too short": v2(V4[:-1]),
    "v2 too short for v6": v2(V4, kind=0x21),
    "v2 too long": v2(b"", length=MAX_V2 - 15),
    "v2 a TLV longer than the header": v2(V4 + SSL[:-1]),
    "v2 a TLV far longer than the header": v2(V4 + b"\x01\xff\xffh2"),
    "v2 half the head of a TLV": v2(V4 + SSL + b"\x04\x00"),
    "v2 one byte behind the addresses": v2(V6 + b"\x04", kind=0x21),
    "v2 a TLV of TLS with nothing in it": v2(V4 + tlv(0x20, b"")),
    "v2 a TLV of TLS of one byte": v2(V4 + tlv(0x20, b"\x01")),
    "v2 a TLV of TLS of four bytes": v2(UNIX + tlv(0x20, b"\x01\0\0\0"), kind=0x31),
    "v2 a TLV that does not fit into the one of TLS": v2(
        V4 + tlv(0x20, b"\x01\0\0\0\0\x21\x00\x08TLSv1.3") + b"\x04\x00\x00"
    ),
    "v2 checksum of zeros": v2(V4 + SUM),
    "v2 wrong checksum": summed(V4 + SUM)[:-1] + b"\x00",
    "v2 checksum of other addresses": summed(V4 + SUM).replace(V4[:4], bytes(4)),
    "v2 checksum of five bytes": v2(V4 + tlv(0x03, bytes(5))),
    "v2 empty checksum": v2(V4 + tlv(0x03, b"")),
    "v2 two checksums": summed(V4 + SUM + SUM),
    "v2 wrong checksum of LOCAL": v2(V4 + SUM, command=0x20),
    "v2 wrong checksum of UNSPEC": v2(SUM, kind=0),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad(data: bytes) -> None:
    assert outcome(parse, data) == ("fault", "client", 400, "bad_proxy_header")


def test_the_checksum_is_crc_32c() -> None:
    """The check value of the catalogue of CRCs, and the first example of RFC 3720, appendix B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@given(st.binary(max_size=64), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
@example(b"\x21\x11\x00\x0c", SIGNATURE)
def test_any_bytes(data: bytes, start: bytes) -> None:
    found = outcome(parse, start + data)
    if found[0] == "value":
        used = found[2]
        assert isinstance(used, int)
        assert 0 < used <= len(start + data)
