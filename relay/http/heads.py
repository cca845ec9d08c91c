"""Heads: bytes in, one RequestHead or ResponseHead out (RFC 9112).

Rules of this module:

* h11 parses every head, and it is imported here and nowhere else. What h11 is lenient about is
  checked by us on the raw bytes before (line ends, control bytes, folding) or on what it returned
  (framing, Host, target, lookalikes); `docs/technical-notes/http.md` lists each with its reason.
* A split of the input never changes an outcome. What is wrong is either visible in the bytes up to
  the first wrong one (then it is reported at once, without waiting for the rest), or judged on the
  whole head alone.
* Nothing is parsed twice: a head with exactly the same bytes as a recent one is the same value.
  Therefore heads and their `fields` are never mutated, though they are not frozen (a frozen
  dataclass costs 3 µs more to build).
* Messages of faults never quote the input: it may hold credentials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import h11

from relay.http.bodies import Fields
from relay.http.coding import content_coding
from relay.http.fault import bad_request, bad_response
from relay.http.framing import UNTIL_CLOSE
from relay.http.head_rules import (
    after_blank_lines,
    check_bytes,
    check_request_bytes,
    check_unfinished_request,
    connection_tokens,
    framing_of,
    has_odd_names,
    lower_fields,
    request_fault,
    response_message,
    too_many_fields,
    upgrade_protocols,
    version_not_supported,
)
from relay.http.targets import HOST, split_target

MEMO_HEADS: Final = 256  # heads kept per process and direction
MEMO_BYTES: Final = 2048  # a larger head is not kept: at most 512 KiB of raw heads per direction

_NONE: Final[frozenset[bytes]] = frozenset()
_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade"))
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_NOTED_REQUEST = (
    frozenset((b"host", b"connection", b"expect", b"upgrade", b"accept", b"traceparent", b"via"))
    | _FRAMING
)
_LOCATING: Final = frozenset((b"location", b"content-location", b"refresh"))
_NOTED_RESPONSE = (
    frozenset((b"connection", b"upgrade", b"content-type", b"content-encoding", b"date"))
    | _FRAMING
    | _LOCATING
)


# h11 takes an interim response only as an answer, and a 101 only to an offer.
_OFFER: Final = h11.Request(
    method=b"GET",
    target=b"/",
    headers=[(b"host", b"x"), (b"connection", b"upgrade"), (b"upgrade", b"x")],
)


@dataclass(slots=True)
class RequestHead:
    """A request head that keeps the rules. Never mutated: it may be shared (see the module's
    rules).
    """

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
    traceparent: bytes = b""  # as it came; several lines are joined, which makes them invalid
    odd: bool = False  # a name has more than letters, digits and hyphens: see names
    via: bytes = b""  # who has passed it on; several lines are joined


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
    odd: bool = False  # as in RequestHead
    dated: bool = False  # it has a Date
    locates: bool = False  # it has a Location, Content-Location or Refresh
    coding: bytes = b""  # what Content-Encoding names, see `coding.content_coding`

    @property
    def media_type(self) -> bytes:
        """Lower-case, without parameters; b"" if there is none."""
        return self.content_type.partition(b";")[0].strip(b" \t").lower()

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream: any other status ends an EventSource (WHATWG HTML §9.2.2)."""
        return self.status == 200 and self.media_type == b"text/event-stream"


requests_seen: dict[bytes, RequestHead] = {}
responses_seen: dict[bytes, ResponseHead] = {}


def parse_request(data: bytes, limit: int, max_fields: int = 100) -> tuple[RequestHead, int] | None:
    """Read a request head from the start of `data`, the connection's unread bytes.

    Args:
        limit: bytes of the head with its blank line, without empty lines before it.

    Returns:
        The head and the bytes used up (empty lines before it are among them); None: more is needed.

    Raises:
        Fault: of the client: 400, 405 (CONNECT, TRACE), 414 (request line over the limit), 431
            (head over a limit), 501 (transfer coding), 505 (version). The connection cannot be used
            any more.
    """
    start = after_blank_lines(data) if data[:1] in (b"\r", b"\n") else 0
    end = data.find(b"\r\n\r\n", start, start + limit)
    if end < 0:
        check_unfinished_request(data[start : start + limit], limit)
        return None
    end += 4
    raw = bytes(data[start:end])
    head = requests_seen.get(raw)
    if head is None:
        count = check_request_bytes(raw) - 2
        if count > max_fields:
            raise too_many_fields()
        head = _read_request(raw, count)
        if len(raw) <= MEMO_BYTES:
            if len(requests_seen) >= MEMO_HEADS:
                del requests_seen[next(iter(requests_seen))]
            requests_seen[raw] = head
    elif len(head.fields) > max_fields:
        raise too_many_fields()
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
        check_bytes(window, bad_response)
        if len(window) >= limit:
            raise bad_response("the response head is too large", code="response_head_too_large")
        return None
    end += 4
    raw = bytes(data[:end])
    to_head = method == b"HEAD"
    head = None if to_head else responses_seen.get(raw)
    if head is None:
        count = check_bytes(raw, bad_response) - 2
        head = _read_response(raw, to_head, count)
        if not to_head and len(raw) <= MEMO_BYTES:
            if len(responses_seen) >= MEMO_HEADS:
                del responses_seen[next(iter(responses_seen))]
            responses_seen[raw] = head
    return head, end


def _read_request(raw: bytes, count: int) -> RequestHead:
    connection = h11.Connection(h11.SERVER, len(raw))
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # h11's frame in it refers to the error: a circle for the collector
        error.with_traceback(None)
        raise request_fault(raw, str(error), error.error_status_hint) from None
    if not isinstance(event, h11.Request):
        raise bad_request("the request head is malformed")
    method, version = event.method, event.http_version
    if version not in (b"1.1", b"1.0"):
        raise version_not_supported("only HTTP/1.1 and HTTP/1.0 are supported")
    fields = lower_fields(event.headers.raw_items(), count, bad_request)
    host = traceparent = via = b""
    named = _NONE
    upgrade: bytes | None = None
    continues = events = framed = hosted = False
    for name, value in fields:
        if name in _NOTED_REQUEST:
            if name == b"host":
                host, hosted = value, True
            elif name == b"connection":
                named |= connection_tokens(value)
            elif name == b"accept":
                events = events or b"text/event-stream" in value.lower()
            elif name == b"upgrade":
                upgrade = value if upgrade is None else upgrade + b", " + value
            elif name == b"traceparent":
                traceparent = traceparent + b", " + value if traceparent else value
            elif name == b"via":
                via = via + b", " + value if via else value
            elif name == b"expect":
                continues = continues or value.lower() == b"100-continue"
            else:
                framed = True
    odd = has_odd_names(raw, fields, bad_request)
    if hosted and HOST.fullmatch(host) is None:
        raise bad_request("the Host field is not a host")
    target, path, query, authority = split_target(method, event.target)
    framing = framing_of(raw, version, bad_request) if framed else None
    current = version == b"1.1"
    if upgrade is not None:
        upgrade = upgrade_protocols(upgrade) if current and b"upgrade" in named else None
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
        traceparent,
        odd,
        via,
    )


def _read_response(raw: bytes, to_head: bool, count: int) -> ResponseHead:
    connection = h11.Connection(h11.CLIENT, len(raw))
    if raw[9:10] == b"1":
        connection.send(_OFFER)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        error.with_traceback(None)
        raise bad_response(response_message(str(error))) from None
    if not isinstance(event, (h11.Response, h11.InformationalResponse)):
        raise bad_response("the response head is malformed")
    status, version = event.status_code, event.http_version
    if version not in (b"1.1", b"1.0"):
        raise bad_response("the upstream's HTTP version is not supported")
    fields = lower_fields(event.headers.raw_items(), count, bad_response)
    named = _NONE
    upgrade: bytes | None = None
    content_type = b""
    codings: list[bytes] = []
    framed = dated = locates = False
    for name, value in fields:
        if name in _NOTED_RESPONSE:
            if name == b"content-type":
                content_type = value
            elif name == b"connection":
                named |= connection_tokens(value)
            elif name == b"content-encoding":
                codings.append(value)
            elif name == b"date":
                dated = True
            elif name in _LOCATING:
                locates = True
            elif name == b"upgrade":
                upgrade = value if upgrade is None else upgrade + b", " + value
            else:
                framed = True
    odd = has_odd_names(raw, fields, bad_response)
    framing = framing_of(raw, version, bad_response) if framed else None
    keep_alive = b"close" not in named and (version == b"1.1" or b"keep-alive" in named)
    bodiless = to_head or status < 200 or status in (204, 304)
    if bodiless:
        # RFC 9112 §6.1, RFC 9110 §8.6: 1xx and 204 carry no framing. An upstream that sends some
        # may send a body too, and that would be read as the next response.
        keep_alive = keep_alive and (not framing or to_head or status == 304)
        # RFC 9110 §15.2.2: behind a 101 the connection speaks another protocol.
        keep_alive = keep_alive and status != 101
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
        odd,
        dated and b"date" not in named,
        locates,
        content_coding(codings) if codings else b"",
    )
