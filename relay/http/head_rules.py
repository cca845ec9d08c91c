"""What a head must keep beyond what h11 checks, on the raw bytes and on the fields (RFC 9112).

Rules of this module: whatever two servers could read in two ways is refused, on both sides alike; a
fault's message is ours and quotes nothing of the input, which may hold credentials.
`docs/technical-notes/http.md` has the whole list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from relay.http.bodies import Fields
from relay.http.fault import Fault, bad_request
from relay.http.framing import CHUNKED
from relay.http.names import FRAMING, ODD_LINE, folded, is_odd

MAX_BLANK_LINES: Final = 8  # CRLFs before a request line (RFC 9112 §2.2: at least one; arbitrary)
MAX_LENGTH: Final = 2**63 - 1  # of Content-Length: what every server's signed integer holds

MakeFault = Callable[[str], Fault]

_NOT_CONTROL: Final = bytes({9, *range(0x20, 0x7F), *range(0x80, 0x100)})
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LENGTH_LINE = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_CODING_LINE = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_CODINGS = re.compile(_TOKEN + rb"(?:[ \t]*,[ \t]*" + _TOKEN + rb")*")
_PROTOCOLS = re.compile(
    _TOKEN + rb"(?:/" + _TOKEN + rb")?(?:[ \t]*,[ \t]*" + _TOKEN + rb"(?:/" + _TOKEN + rb")?)*"
)


def after_blank_lines(data: bytes) -> int:
    """Where the request line starts, or will start."""
    start = 0
    while data[start : start + 2] == b"\r\n":
        start += 2
        if start > 2 * MAX_BLANK_LINES:
            raise bad_request("too many empty lines before the request line")
    return start


def check_bytes(raw: bytes, fault: MakeFault) -> int:
    """Refuse control bytes and line ends other than CRLF, in a head or in the beginning of one.

    Of what is left without the allowed bytes, every pair must be a CRLF of the head itself: two
    C-level passes. Returns the number of lines.
    """
    if raw[-1:] == b"\r":  # the LF may be on its way
        raw = raw[:-1]
    lines = raw.count(b"\r\n")
    if len(raw.translate(None, _NOT_CONTROL)) != 2 * lines:
        raise fault("a line end other than CRLF, or a control byte, in the head")
    return lines


def check_request_bytes(raw: bytes) -> int:
    first = raw[:1]
    if first == b"\x16":
        raise bad_request("this port speaks plain HTTP, the client spoke TLS")
    if first == b"P" and raw.startswith(b"PRI * HTTP/2.0"):
        raise version_not_supported("HTTP/2 without a TLS terminator is not supported")
    return check_bytes(raw, bad_request)


def check_unfinished_request(window: bytes, limit: int) -> None:
    """Report what is wrong already, so that nobody waits for the end of something that is not
    HTTP.
    """
    check_request_bytes(window)
    if len(window) >= limit:
        if b"\r\n" not in window:
            raise bad_request(
                "the request line is too long", status=414, code="request_line_too_long"
            )
        raise bad_request(
            "the request head is too large", status=431, code="request_head_too_large"
        )


def lower_fields(raw_items: list[tuple[bytes, bytes]], count: int, fault: MakeFault) -> Fields:
    """The fields of a head of `count` field lines, names in lower case."""
    fields = [(name.lower(), value) for name, value in raw_items]
    if len(fields) != count:  # h11 has joined lines: folded ones, or equal Content-Lengths
        raise fault("a folded field line, or more than one Content-Length")
    return fields


def has_odd_names(raw: bytes, fields: Fields, fault: MakeFault) -> bool:
    """Whether a head has names that only their folded form tells apart from others. One that frames
    is refused: a server that folds would find the body's end elsewhere (RFC 3875 §4.1.18).
    """
    if ODD_LINE.search(raw) is None:
        return False
    odd = [name for name, _ in fields if is_odd(name)]
    if any(folded(name) in FRAMING for name in odd):
        raise fault("a field name imitates one that frames the body")
    return bool(odd)


@lru_cache(maxsize=256)
def connection_tokens(value: bytes) -> frozenset[bytes]:
    """The members of a Connection field, lower-case."""
    return frozenset([token.strip(b" \t") for token in value.lower().split(b",")]) - {b""}


def upgrade_protocols(value: bytes) -> bytes | None:
    """An Upgrade value that may be passed on; None: the request is an ordinary one (RFC 9110 §7.8
    allows that).

    Never h2c: inside its tunnel the client would speak HTTP/2 to the upstream, past every rule of
    the route.
    """
    if _PROTOCOLS.fullmatch(value) is None or b"h2c" in value.lower():
        return None
    return value


def framing_of(raw: bytes, version: bytes, fault: MakeFault) -> int:
    """The body's length by the framing fields as they were sent; h11 has folded equal
    Content-Lengths into one.
    """
    lengths = _LENGTH_LINE.findall(raw)
    codings = _CODING_LINE.findall(raw)
    if codings:
        if lengths:
            raise fault("Content-Length and Transfer-Encoding in one message")
        if version != b"1.1":
            raise fault("Transfer-Encoding in an HTTP/1.0 message")
        return CHUNKED
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise fault("the Content-Length is not one plain decimal number")
    length = int(lengths[0])
    if length > MAX_LENGTH:
        raise fault("the Content-Length is too large")
    return length


def too_many_fields() -> Fault:
    return bad_request("the head has too many fields", status=431, code="too_many_fields")


def version_not_supported(message: str) -> Fault:
    return bad_request(message, status=505, code="version_not_supported")


def request_fault(raw: bytes, said: str, hint: int) -> Fault:
    """h11's error with a status by RFC 9112 and a message that quotes nothing."""
    if hint == 501:
        codings = _CODING_LINE.findall(raw)
        value = codings[0].lower() if len(codings) == 1 else b""
        # §6.1: an unknown coding is 501. §6.3: chunked anywhere but at the end, or twice, is 400.
        if _CODINGS.fullmatch(value) and b"chunked" not in re.split(rb"[ \t,]+", value)[:-1]:
            return bad_request(
                "the only transfer coding is chunked",
                status=501,
                code="transfer_coding_not_supported",
            )
        return bad_request("the Transfer-Encoding is malformed")
    for beginning, message in _REQUEST_MESSAGES:
        if said.startswith(beginning):
            return bad_request(message)
    return bad_request("the request head is malformed")


def response_message(said: str) -> str:
    for beginning, message in _RESPONSE_MESSAGES:
        if said.startswith(beginning):
            return message
    return "the response head is malformed"


_REQUEST_MESSAGES: Final = (
    ("illegal request line", "the request line is malformed"),
    ("illegal header line", "a field line is malformed"),
    ("continuation line", "space before the first field line"),
    ("Missing mandatory Host", "the Host field is missing"),
    ("Found multiple Host", "more than one Host field"),
    ("conflicting Content-Length", "the Content-Length is not one plain decimal number"),
    ("bad Content-Length", "the Content-Length is not one plain decimal number"),
)
_RESPONSE_MESSAGES: Final = (
    ("illegal status line", "the status line is malformed"),
    ("illegal header line", "a field line is malformed"),
    ("continuation line", "space before the first field line"),
    ("conflicting Content-Length", "the Content-Length is not one plain decimal number"),
    ("bad Content-Length", "the Content-Length is not one plain decimal number"),
    ("multiple Transfer-Encoding", "the Transfer-Encoding is malformed"),
    ("Only Transfer-Encoding", "the only transfer coding is chunked"),
)
