"""Heads: bytes in, one RequestHead or ResponseHead out (RFC 9112).

Rules of this module:

* h11 parses every head, and it is imported here and nowhere else. What h11 is lenient about is checked by us on the
  raw bytes before (line ends, control bytes, folding) or on what it returned (framing, Host, target, lookalikes);
  `docs/technical-notes/http.md` lists each with its reason.
* A split of the input never changes an outcome. What is wrong is either visible in the bytes up to the first wrong one
  (then it is reported at once, without waiting for the rest), or judged on the whole head alone.
* Nothing is parsed twice: a head with exactly the same bytes as a recent one is the same value. Therefore heads and
  their `fields` are never mutated, though they are not frozen (a frozen dataclass costs 3 µs more to build).
* Messages of faults never quote the input: it may hold credentials.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11

from relay.http.bodies import Fields
from relay.http.fault import Fault, bad_request, bad_response
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.targets import HOST, split_target

MAX_BLANK_LINES: Final = (
    8  # CRLFs skipped before a request line (RFC 9112 §2.2 says one; arbitrary)
)
MAX_LENGTH: Final = (
    2**63 - 1
)  # the largest Content-Length: what every server's signed integer holds
MEMO_HEADS: Final = 256  # heads kept per process and direction
MEMO_BYTES: Final = 2048  # a larger head is not kept: at most 512 KiB of raw heads per direction

_NONE: Final[frozenset[bytes]] = frozenset()
_NOT_CONTROL: Final = bytes({9, *range(0x20, 0x7F), *range(0x80, 0x100)})
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LENGTH_LINE = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_CODING_LINE = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_CODINGS = re.compile(_TOKEN + rb"(?:[ \t]*,[ \t]*" + _TOKEN + rb")*")
_PROTOCOLS = re.compile(
    _TOKEN + rb"(?:/" + _TOKEN + rb")?(?:[ \t]*,[ \t]*" + _TOKEN + rb"(?:/" + _TOKEN + rb")?)*"
)

# Names that frame, route or identify. Written with `_` they are the same variable to every CGI-style server
# (RFC 3875 §4.1.18), so such a name can only be meant to slip past somebody.
_IMITABLE = frozenset(
    b"content-length transfer-encoding host connection te trailer upgrade expect forwarded via"
    b" x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port".split()
)
_NOTED_REQUEST = frozenset(
    b"host connection content-length transfer-encoding expect upgrade accept".split()
)
_NOTED_RESPONSE = frozenset(
    b"connection content-length transfer-encoding upgrade content-type".split()
)


@dataclass(slots=True)
class RequestHead:
    """A request head that keeps the rules. Never mutated: it may be shared (see the module's rules)."""

    method: bytes
    target: bytes  # as it is forwarded: origin-form or `*`, raw bytes
    path: bytes  # the target up to `?`
    query: bytes  # after `?`; b"" if there is none
    version: bytes  # b"1.1" | b"1.0"
    fields: Fields  # all of them, as received
    host: bytes  # b"" only for HTTP/1.0
    framing: int = 0
    keep_alive: bool = True
    expects_continue: bool = False  # a body waits for `100 (Continue)`
    upgrade: bytes | None = None  # the Upgrade value, when Connection names it
    connection: frozenset[bytes] = _NONE  # Connection tokens beyond close, keep-alive, upgrade
    wants_events: bool = False  # Accept names text/event-stream


@dataclass(slots=True)
class ResponseHead:
    """A response head that keeps the rules, interim (1xx) ones too. Never mutated."""

    status: int
    reason: bytes
    version: bytes
    fields: Fields
    framing: int
    keep_alive: bool = True
    upgrade: bytes | None = None
    connection: frozenset[bytes] = _NONE
    bodiless: bool = False  # HEAD, 1xx, 204, 304: framing fields describe no body of this response
    content_type: bytes = b""

    @property
    def media_type(self) -> bytes:
        """Lower-case, without parameters; b"" if there is none."""
        return self.content_type.partition(b";")[0].strip(b" \t").lower()


_requests: dict[bytes, RequestHead] = {}
_responses: dict[bytes, ResponseHead] = {}


def parse_request(data: bytes, limit: int, max_fields: int = 100) -> tuple[RequestHead, int] | None:
    """Read a request head from the start of `data`, the connection's unread bytes.

    Args:
        limit: bytes of the head with its blank line, without empty lines before it.

    Returns:
        The head and the bytes used up (empty lines before it are among them); None: more is needed.

    Raises:
        Fault: of the client: 400, 405 (CONNECT, TRACE), 414 (request line over the limit), 431 (head over a limit),
            501 (transfer coding), 505 (version). The connection cannot be used any more.
    """
    start = _after_blank_lines(data) if data[:1] in (b"\r", b"\n") else 0
    end = data.find(b"\r\n\r\n", start, start + limit)
    if end < 0:
        _check_unfinished_request(data[start : start + limit], limit)
        return None
    end += 4
    raw = bytes(data[start:end])
    head = _requests.get(raw)
    if head is None:
        _check_request_bytes(raw)
        if raw.count(b"\r\n") - 2 > max_fields:
            raise _too_many_fields()
        head = _read_request(raw)
        if len(raw) <= MEMO_BYTES:
            if len(_requests) >= MEMO_HEADS:
                del _requests[next(iter(_requests))]
            _requests[raw] = head
    elif len(head.fields) > max_fields:
        raise _too_many_fields()
    return head, end


def parse_response(data: bytes, method: bytes, limit: int) -> tuple[ResponseHead, int] | None:
    """Read a response head, final or interim, from the start of `data`.

    Args:
        method: of the request it answers; a response to HEAD has no body.
        limit: bytes of the head with its blank line.

    Returns:
        The head and its length in bytes; None: more is needed.

    Raises:
        Fault: of the upstream, 502.
    """
    end = data.find(b"\r\n\r\n", 0, limit)
    if end < 0:
        window = data[:limit]
        _check_bytes(window, bad_response)
        if len(window) >= limit:
            raise bad_response("the response head is too large", code="response_head_too_large")
        return None
    end += 4
    raw = bytes(data[:end])
    to_head = method == b"HEAD"
    head = None if to_head else _responses.get(raw)
    if head is None:
        _check_bytes(raw, bad_response)
        head = _read_response(raw, to_head)
        if not to_head and len(raw) <= MEMO_BYTES:
            if len(_responses) >= MEMO_HEADS:
                del _responses[next(iter(_responses))]
            _responses[raw] = head
    return head, end


# --- the raw bytes ---------------------------------------------------------------------------------------------------


def _after_blank_lines(data: bytes) -> int:
    """Where the request line starts, or will start."""
    start = 0
    while data[start : start + 2] == b"\r\n":
        start += 2
        if start > 2 * MAX_BLANK_LINES:
            raise bad_request("too many empty lines before the request line")
    return start


def _check_bytes(raw: bytes, fault: Callable[[str], Fault]) -> None:
    """Refuse control bytes and line ends other than CRLF, in a head or in the beginning of one.

    Of what is left without the allowed bytes, every pair must be a CRLF of the head itself: two C-level passes.
    """
    if raw[-1:] == b"\r":  # the LF may be on its way
        raw = raw[:-1]
    if len(raw.translate(None, _NOT_CONTROL)) != 2 * raw.count(b"\r\n"):
        raise fault("a line end other than CRLF, or a control byte, in the head")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise fault("a folded field line, or space before the first one")


def _check_request_bytes(raw: bytes) -> None:
    first = raw[:1]
    if first == b"\x16":
        raise bad_request("this port speaks plain HTTP, the client spoke TLS")
    if first == b"P" and raw.startswith(b"PRI * HTTP/2.0"):
        raise _version_not_supported("HTTP/2 without a TLS terminator is not supported")
    _check_bytes(raw, bad_request)


def _check_unfinished_request(window: bytes, limit: int) -> None:
    """Report what is wrong already, so that nobody waits for the end of something that is not HTTP."""
    _check_request_bytes(window)
    if len(window) >= limit:
        if b"\r\n" not in window:
            raise bad_request(
                "the request line is too long", status=414, code="request_line_too_long"
            )
        raise bad_request(
            "the request head is too large", status=431, code="request_head_too_large"
        )


# --- one whole head --------------------------------------------------------------------------------------------------


def _read_request(raw: bytes) -> RequestHead:
    connection = h11.Connection(h11.SERVER, len(raw))
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise _request_fault(raw, str(error), error.error_status_hint) from None
    if not isinstance(event, h11.Request):
        raise bad_request("the request head is malformed")
    method, version = event.method, event.http_version
    if version not in (b"1.1", b"1.0"):
        raise _version_not_supported("only HTTP/1.1 and HTTP/1.0 are supported")
    fields: Fields = []
    host = b""
    named = _NONE
    upgrade: bytes | None = None
    continues = events = framed = hosted = False
    for raw_name, value in event.headers.raw_items():
        name = raw_name.lower()
        fields.append((name, value))
        if name in _NOTED_REQUEST:
            if name == b"host":
                host, hosted = value, True
            elif name == b"connection":
                named |= _tokens(value)
            elif name == b"accept":
                events = events or b"text/event-stream" in value.lower()
            elif name == b"upgrade":
                upgrade = value if upgrade is None else upgrade + b", " + value
            elif name == b"expect":
                continues = continues or value.lower() == b"100-continue"
            else:
                framed = True
        elif b"_" in name:
            _refuse_imitation(name, bad_request)
    if hosted and HOST.fullmatch(host) is None:
        raise bad_request("the Host field is not a host")
    target, path, query, authority = split_target(method, event.target)
    framing = _framing(raw, version, bad_request) if framed else None
    current = version == b"1.1"
    if upgrade is not None:
        upgrade = _protocols(upgrade) if current and b"upgrade" in named else None
    return RequestHead(
        method,
        target,
        path,
        query,
        version,
        fields,
        host if authority is None else authority,
        framing or 0,
        b"close" not in named and (current or b"keep-alive" in named),
        continues and current and framing not in (None, 0),
        upgrade,
        named - _OPTIONS if named else _NONE,
        events,
    )


def _read_response(raw: bytes, to_head: bool) -> ResponseHead:
    connection = h11.Connection(h11.CLIENT, len(raw))
    if raw[9:10] == b"1":
        connection.send(_PROBE)  # h11 takes a 1xx only as an answer
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise bad_response(_response_message(str(error))) from None
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise bad_response("the response head is malformed")
    status, version = event.status_code, event.http_version
    if version not in (b"1.1", b"1.0"):
        raise bad_response("the upstream's HTTP version is not supported")
    fields: Fields = []
    named = _NONE
    upgrade: bytes | None = None
    content_type = b""
    framed = False
    for raw_name, value in event.headers.raw_items():
        name = raw_name.lower()
        fields.append((name, value))
        if name in _NOTED_RESPONSE:
            if name == b"content-type":
                content_type = value
            elif name == b"connection":
                named |= _tokens(value)
            elif name == b"upgrade":
                upgrade = value if upgrade is None else upgrade + b", " + value
            else:
                framed = True
        elif b"_" in name:
            _refuse_imitation(name, bad_response)
    framing = _framing(raw, version, bad_response) if framed else None
    keep_alive = b"close" not in named and (version == b"1.1" or b"keep-alive" in named)
    bodiless = to_head or status < 200 or status in (204, 304)
    if bodiless:
        # RFC 9112 §6.1, RFC 9110 §8.6: 1xx and 204 carry no framing. An upstream that sends some may send a body too,
        # and that would be read as the next response.
        keep_alive = keep_alive and (not framing or to_head or status == 304)
        framing = 0
    elif framing is None:
        framing = UNTIL_CLOSE
    return ResponseHead(
        status,
        event.reason,
        version,
        fields,
        framing,
        keep_alive and framing != UNTIL_CLOSE,
        upgrade if b"upgrade" in named else None,
        named - _OPTIONS if named else _NONE,
        bodiless,
        content_type,
    )


_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade"))
_PROBE: Final = h11.Request(
    method=b"GET",
    target=b"/",
    headers=[(b"host", b"x"), (b"connection", b"upgrade"), (b"upgrade", b"x")],
)


def _tokens(value: bytes) -> frozenset[bytes]:
    """The members of a Connection field, lower-case."""
    return frozenset([token.strip(b" \t") for token in value.lower().split(b",")]) - {b""}


def _protocols(value: bytes) -> bytes | None:
    """An Upgrade value that may be passed on; None: the request is an ordinary one (RFC 9110 §7.8 allows that).

    Never h2c: inside its tunnel the client would speak HTTP/2 to the upstream, past every rule of the route.
    """
    if _PROTOCOLS.fullmatch(value) is None or b"h2c" in value.lower():
        return None
    return value


def _framing(raw: bytes, version: bytes, fault: Callable[[str], Fault]) -> int:
    """The body's length by the framing fields as they were sent; h11 has folded equal Content-Lengths into one."""
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


def _refuse_imitation(name: bytes, fault: Callable[[str], Fault]) -> None:
    if name.replace(b"_", b"-") in _IMITABLE:
        raise fault("a field name imitates another one with an underscore")


# --- what went wrong, in our words -----------------------------------------------------------------------------------


def _too_many_fields() -> Fault:
    return bad_request("the head has too many fields", status=431, code="too_many_fields")


def _version_not_supported(message: str) -> Fault:
    return bad_request(message, status=505, code="version_not_supported")


def _request_fault(raw: bytes, said: str, hint: int) -> Fault:
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


def _response_message(said: str) -> str:
    for beginning, message in _RESPONSE_MESSAGES:
        if said.startswith(beginning):
            return message
    return "the response head is malformed"


_REQUEST_MESSAGES: Final = (
    ("illegal request line", "the request line is malformed"),
    ("illegal header line", "a field line is malformed"),
    ("Missing mandatory Host", "the Host field is missing"),
    ("Found multiple Host", "more than one Host field"),
    ("conflicting Content-Length", "the Content-Length is not one plain decimal number"),
    ("bad Content-Length", "the Content-Length is not one plain decimal number"),
)
_RESPONSE_MESSAGES: Final = (
    ("illegal status line", "the status line is malformed"),
    ("illegal header line", "a field line is malformed"),
    ("conflicting Content-Length", "the Content-Length is not one plain decimal number"),
    ("bad Content-Length", "the Content-Length is not one plain decimal number"),
    ("multiple Transfer-Encoding", "the Transfer-Encoding is malformed"),
    ("Only Transfer-Encoding", "the only transfer coding is chunked"),
)
