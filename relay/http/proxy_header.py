"""The PROXY protocol, versions 1 and 2: who the client is, said by a TCP balancer in front.

Source: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt (sections 2.1 and 2.2).

Rules of this module:

* Sans-IO: bytes in, a value out; the caller decides whom it believes.
* A listener that expects the header takes nothing else: without one the connection ends, because
  guessing would let any client say who it is (section 5 of the protocol).
* What it says is an address or nothing. Of the TLVs two are read: whether the client came by TLS,
  which no field can tell where the terminator speaks no HTTP, and the checksum, which must be right
  where there is one (section 2.2.3).
* A TLV that does not end within the header, or is too short for what it is, makes the header
  malformed: two readings of one header would be two readings of who the client is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from relay.http.fault import Fault, bad_request

MAX_V1: Final = 107  # bytes of a version 1 line with its CRLF (section 2.1)
# Bytes; the format allows 16 + 65535, real TLVs (TLS details) take some hundred
MAX_V2: Final = 16 + 2048

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_START_V1: Final = b"PROXY "
_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) " + _PORT + rb" " + _PORT
)
_TLV_CRC32C: Final = 0x03  # PP2_TYPE_CRC32C
_TLV_SSL: Final = 0x20  # PP2_TYPE_SSL
_SSL_HEAD: Final = 5  # bytes in front of its own TLVs: what the client did, and a verdict
_CLIENT_SSL: Final = 0x01  # PP2_CLIENT_SSL
_POLYNOMIAL: Final = 0x82F63B78  # of CRC-32C, reflected (RFC 3720, section 12.1)
# Bytes of the addresses by family and transport (section 2.2); 0x00 UNSPEC says nothing about the
# client.
_V2_LENGTHS: Final = {0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}


class ProxyHeader(NamedTuple):
    """The connection as the balancer saw it."""

    source: str | None  # the client's IP address; None: a unix socket
    source_port: int = 0
    destination: str | None = None
    destination_port: int = 0
    tls: bool = False  # the client came by TLS (PP2_TYPE_SSL, PP2_CLIENT_SSL); v2 only


def parse(data: bytes) -> tuple[ProxyHeader | None, int] | None:
    """Read a PROXY header from the start of a connection.

    Returns:
        The header and its length in bytes, the header None where it says nothing (LOCAL, UNKNOWN,
        UNSPEC: the balancer's own connection, a health check); or None: more is needed.

    Raises:
        Fault: of the client, 400: anything else, or longer than its bound. Close without an answer:
            whoever is there may not speak HTTP.
    """
    if data[:12] == _SIGNATURE:
        return _parse_v2(data)
    if data[:6] == _START_V1:
        return _parse_v1(data)
    if _SIGNATURE.startswith(data) or _START_V1.startswith(data):
        return None
    raise _fault("the PROXY header is missing")


def _parse_v1(data: bytes) -> tuple[ProxyHeader | None, int] | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise _fault("the PROXY header is too long")
        line = data[:-1] if data[-1:] == b"\r" else data
        if b"\r" in line or b"\n" in line:
            raise _fault("the PROXY header is malformed")
        return None
    line = data[:end]
    if b"\r" in line or b"\n" in line:
        raise _fault("the PROXY header is malformed")
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return None, end + 2
    match = _V1.fullmatch(line)
    if match is None:
        raise _fault("the PROXY header is malformed")
    kind = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        source, destination = str(kind(match[2].decode())), str(kind(match[3].decode()))
    except ValueError:
        raise _fault("the PROXY header has a malformed address") from None
    source_port, destination_port = int(match[4]), int(match[5])
    if source_port > 65535 or destination_port > 65535:
        raise _fault("the PROXY header has a malformed port")
    return ProxyHeader(source, source_port, destination, destination_port), end + 2


def _parse_v2(data: bytes) -> tuple[ProxyHeader | None, int] | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise _fault("the PROXY header has an unknown version or command")
    if len(data) > 13 and data[13] not in _V2_LENGTHS and (data[12] == 0x21 and data[13] != 0):
        raise _fault("the PROXY header has an unknown address family")
    if len(data) < 16:
        return None
    local, kind = data[12] == 0x20, data[13]
    length = int.from_bytes(data[14:16], "big")
    end = 16 + length
    if end > MAX_V2:
        raise _fault("the PROXY header is too long")
    if not local and length < _V2_LENGTHS.get(kind, 0):
        raise _fault("the PROXY header is shorter than its addresses")
    if len(data) < end:
        return None
    if local or kind == 0:
        _check_own(data[:end], 16 + _V2_LENGTHS.get(kind, 0))
        return None, end
    body = data[16:end]
    tls = _read_tlvs(data[:end], 16 + _V2_LENGTHS[kind])
    if kind >= 0x31:
        return ProxyHeader(None, tls=tls), end
    size = 4 if kind < 0x20 else 16
    address = IPv4Address if size == 4 else IPv6Address
    ports = body[2 * size : 2 * size + 4]
    return (
        ProxyHeader(
            str(address(body[:size])),
            int.from_bytes(ports[:2], "big"),
            str(address(body[size : 2 * size])),
            int.from_bytes(ports[2:], "big"),
            tls,
        ),
        end,
    )


def _check_own(header: bytes, start: int) -> None:
    """Check the sum in a header about the balancer's own connection, where it has one.

    Nothing else in it counts, so nothing else is asked of it (section 2.2, LOCAL and UNSPEC). Raises: Fault.
    """
    try:
        tlvs = list(_tlvs(header, start))
    except Fault:
        return
    _check_sum(header, tlvs)


def _read_tlvs(header: bytes, start: int) -> bool:
    """Check all TLVs of a header. Returns: whether the client came by TLS. Raises: Fault."""
    tlvs = list(_tlvs(header, start))
    _check_sum(header, tlvs)
    tls = False
    for kind, at, end in tlvs:
        if kind == _TLV_SSL:
            if end - at < _SSL_HEAD:
                raise _fault("the PROXY header has a TLV that is too short")
            for _ in _tlvs(header[:end], at + _SSL_HEAD):
                pass
            tls = bool(header[at] & _CLIENT_SSL)
    return tls


def _tlvs(header: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """The type of each TLV (section 2.2), and where its value begins and ends. Raises: Fault."""
    at = start
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value], "big")
        if value > len(header) or end > len(header):
            raise _fault("the PROXY header has a TLV that is longer than the header")
        yield header[at], value, end
        at = end


def _check_sum(header: bytes, tlvs: list[tuple[int, int, int]]) -> None:
    """Check the sum over the whole header, whose own bytes count as zeros (section 2.2.3). Raises: Fault."""
    sums = [(at, end) for kind, at, end in tlvs if kind == _TLV_CRC32C]
    if not sums:
        return
    at, end = sums[0]
    if len(sums) > 1 or end - at != 4:
        raise _fault("the PROXY header has a malformed checksum")
    if crc32c(header[:at] + bytes(4) + header[end:]) != int.from_bytes(header[at:end], "big"):
        raise _fault("the checksum of the PROXY header is wrong")


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes; MAX_V2 of them take a quarter of a millisecond."""
    table = _crc_table()
    rest = 0xFFFFFFFF
    for byte in data:
        rest = table[(rest ^ byte) & 0xFF] ^ (rest >> 8)
    return rest ^ 0xFFFFFFFF


@cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        table.append(rest)
    return table


def _fault(message: str) -> Fault:
    return bad_request(message, code="bad_proxy_header")
