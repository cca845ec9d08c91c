"""What becomes of the fields on their way through relay (RFC 9110 §7.6, §10.1.4; RFC 7239).

Rules of this module:

* One pass per head; per request nothing is computed that the route's edits decide alone.
* Hop-by-hop fields and everything that Connection names stay here, in both directions.
* What relay writes itself (Host, framing, Via, forwarding fields, the request id, the operator's
  edits) is written after the stripping, so no Connection token can take it away.
* A name that does not pass does not pass under another spelling either, nor as a trailer: see
  `names`. `_Plan` holds both forms of the rule, so that heads and trailers cannot differ.
* Nothing is invented: no User-Agent, no Content-Length or Transfer-Encoding the client did not
  send. A response without a Date gets one (RFC 9110 §6.6.1).
* The Cache-Control of an event stream is what its source says and what relay needs, and never less
  than either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from relay.http.bodies import Fields
from relay.http.cache_control import of_stream
from relay.http.forwarded import ClientView, client_view
from relay.http.framing import CHUNKED
from relay.http.heads import RequestHead, ResponseHead
from relay.http.names import Barred, barred, folded, plainly

__all__ = [
    "ClientView",
    "client_view",
    "interim_fields",
    "request_fields",
    "request_late",
    "response_fields",
    "response_late",
]

HOP_BY_HOP: Final = frozenset(
    b"connection proxy-connection keep-alive te transfer-encoding upgrade http2-settings"
    b" proxy-authenticate proxy-authorization proxy-authentication-info".split()
)
# What relay writes anew or must see; `proxy` would become HTTP_PROXY in a CGI program (httpoxy,
# CVE-2016-5385).
_REWRITTEN = frozenset(
    b"host content-length trailer expect proxy"
    b" forwarded x-forwarded-for x-forwarded-proto x-forwarded-host".split()
)
# What else claims to know where a request came from or where it went; only a trusted peer may.
# Beyond these every `x-forwarded-*` (port, prefix, user, client-cert …).
_CLAIMS = frozenset(
    b"x-real-ip x-client-ip x-cluster-client-ip true-client-ip cf-connecting-ip fastly-client-ip"
    b" x-original-forwarded-for x-original-host x-original-url x-rewrite-url"
    b" x-envoy-external-address".split()
)
_NOTHING: Final[frozenset[bytes]] = frozenset()
_CHUNKED_FIELD: Final = (b"transfer-encoding", b"chunked")
_IDENTITY: Final = (b"accept-encoding", b"identity")
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")  # nginx obeys and consumes it, nobody else
_OURS_IN_REQUEST = frozenset(
    b"host via forwarded x-forwarded-for x-forwarded-proto x-forwarded-host accept-encoding".split()
)
# What relay removes or rewrites on some routes; an odd spelling means nothing on the others either.
_SOMETIMES_IN_REQUEST = frozenset(b"last-event-id max-forwards".split())
_SOMETIMES_IN_RESPONSE = frozenset(
    b"content-encoding content-location relay-run retry-after set-cookie".split()
)
_OURS_IN_RESPONSE = frozenset((b"via", b"cache-control", b"x-accel-buffering", b"date"))
_CLAIMS_FAMILY: Final = b"x-forwarded"


class _Plan(NamedTuple):
    """What an operator's edits and a direction decide for every message of a route."""

    drop: frozenset[bytes]  # plainly written names
    odd: Barred  # the same under other spellings, and what relay writes
    late: Barred  # the same among trailers
    ours: frozenset[bytes]  # fields of relay's own that the operator replaces or removes


@lru_cache(maxsize=1024)
def _plan(
    set_fields: tuple[tuple[bytes, bytes], ...],
    remove: frozenset[bytes],
    request_id_header: bytes,
    direction: _Direction,
) -> _Plan:
    edited = plainly(remove | {name for name, _ in set_fields})
    own = plainly((request_id_header,))
    drop = HOP_BY_HOP | direction.drop | edited | own
    odd = barred(drop | direction.ours | direction.odd, direction.families)
    replaced = frozenset(map(folded, edited))
    ours = frozenset(name for name in direction.ours | own if folded(name) in replaced)
    return _Plan(drop, odd, odd.late(), ours)


def _passing(head: RequestHead | ResponseHead, odd: Barred) -> Fields:
    """The fields of a head, without the odd spellings of what does not pass."""
    if not head.odd:
        return head.fields
    return (odd.and_named(head.connection) if head.connection else odd).without_odd(head.fields)


@dataclass(frozen=True, slots=True, eq=False)  # a key of the cache: by identity
class _Direction:
    """What is dropped whatever the route says, and what relay writes."""

    drop: frozenset[bytes]
    ours: frozenset[bytes]
    odd: frozenset[bytes] = _NOTHING  # dropped besides under odd spellings, whoever sent it
    families: tuple[bytes, ...] = ()


_FRAMING = frozenset((b"content-length", b"trailer"))
_STREAM_DROPS = frozenset((b"cache-control", b"x-accel-buffering"))
# What is only true of the very bytes that the upstream sent (RFC 9110 §8.4, §14.3; RFC 9530). A weak
# ETag is true of what they mean.
OF_THE_BYTES: Final = frozenset(
    b"content-encoding content-digest repr-digest digest content-md5 accept-ranges".split()
)
_CLAIMED: Final = (folded(_CLAIMS_FAMILY),)
_ODD: Final = _CLAIMS | _SOMETIMES_IN_REQUEST
_TRUSTED: Final = _Direction(_REWRITTEN, _OURS_IN_REQUEST, _ODD, _CLAIMED)
_UNTRUSTED: Final = _Direction(_REWRITTEN | _CLAIMS, _OURS_IN_REQUEST, _ODD, _CLAIMED)
_RESPONSE: Final = _Direction(
    _FRAMING, _OURS_IN_RESPONSE, _SOMETIMES_IN_RESPONSE, (b"access_control_",)
)


def request_fields(
    head: RequestHead,
    *,
    authority: bytes,
    client: ClientView,
    via: bytes,
    request_id: bytes,
    request_id_header: bytes,
    set_fields: tuple[tuple[bytes, bytes], ...] = (),
    remove: frozenset[bytes] = _NOTHING,
    event_stream: bool = False,
    expects_events: bool = False,
) -> Fields:
    """The fields of the request that goes upstream.

    Args:
        authority: the Host value.
        via: relay's pseudonym in Via, without the version.
        set_fields: replace every field of the same name, relay's own too.
        remove: dropped, wherever they come from.
        event_stream: the response may be treated as an event stream: if one is likely, the upstream
            is asked not to compress (Accept-Encoding: identity).
        expects_events: one is, also if the client does not say that it accepts one.
    """
    trusted = client.trusted
    plan = _plan(set_fields, remove, request_id_header, _TRUSTED if trusted else _UNTRUSTED)
    drop = plan.drop | head.connection if head.connection else plan.drop
    identity = event_stream and (head.wants_events or expects_events)
    kept: Fields = [(b"host", authority)]
    late: Fields = []
    trailers = False
    for field in _passing(head, plan.odd):
        name = field[0]
        if name in drop:
            if name == b"te":
                trailers = trailers or b"trailers" in field[1].lower()
            elif name in _BY_FRAMING and _stays(name, head):
                late.append(field)
            continue
        if not trusted and name[:11] == _CLAIMS_FAMILY:
            continue
        if identity and name == b"accept-encoding":
            continue
        kept.append(field)
    if identity:
        kept.append(_IDENTITY)
    kept.append((b"via", head.version + b" " + via))
    if client.x_forwarded_for:
        kept.append((b"x-forwarded-for", client.x_forwarded_for))
    kept.append((b"x-forwarded-proto", client.scheme))
    if client.host:
        kept.append((b"x-forwarded-host", client.host))
    kept.append((b"forwarded", client.forwarded))
    kept.append((request_id_header, request_id))
    if plan.ours:
        kept = [field for field in kept if field[0] not in plan.ours]
    if late:
        kept.extend(late)
    if head.framing == CHUNKED:
        kept.append(_CHUNKED_FIELD)
    if head.upgrade is not None:
        kept.append((b"connection", b"upgrade, te" if trailers else b"upgrade"))
        kept.append((b"upgrade", head.upgrade))
    elif trailers:
        kept.append((b"connection", b"te"))
    if trailers:
        kept.append((b"te", b"trailers"))
    kept.extend(set_fields)
    return kept


_BY_FRAMING = frozenset((b"content-length", b"trailer", b"expect"))


def _stays(name: bytes, head: RequestHead) -> bool:
    """Whether a request field that belongs to the body goes on as it is."""
    if name == b"content-length":
        return head.framing >= 0
    if name == b"trailer":
        return head.framing == CHUNKED
    return head.version == b"1.1"  # RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored


def request_late(
    head: RequestHead,
    *,
    request_id_header: bytes,
    set_fields: tuple[tuple[bytes, bytes], ...] = (),
    remove: frozenset[bytes] = _NOTHING,
) -> Barred:
    """What does not pass among the trailers of this request, whoever sent it."""
    late = _plan(set_fields, remove, request_id_header, _UNTRUSTED).late
    return _and_named(late, head.connection) if head.connection else late


@lru_cache(maxsize=64)
def _and_named(late: Barred, names: frozenset[bytes]) -> Barred:
    """One for all streams that have the same: it is held as long as each of them lives."""
    return late.and_named(names)


def response_fields(
    head: ResponseHead | Fields,
    *,
    via: bytes,
    request_id: bytes,
    request_id_header: bytes,
    set_fields: tuple[tuple[bytes, bytes], ...] = (),
    remove: frozenset[bytes] = _NOTHING,
    event_stream: bool = False,
    rewritten: bool = False,
    date: bytes = b"",
) -> Fields:
    """The fields of the response that goes to the client, without framing: the caller knows how it
    frames.

    Only the answer to a HEAD and a 304 keep their Content-Length, which describes a body that is
    not sent.

    Args:
        head: the upstream's; or the fields of a response of relay's own, which get no Via.
        event_stream: the body goes out as an event stream.
        rewritten: its content is not what the upstream sent (decoded, translated): what the fields
            say about those bytes goes with them.
        date: of now; the Date of a response that has none.
    """
    plan = _plan(set_fields, remove, request_id_header, _RESPONSE)
    drop = plan.drop
    kept: Fields
    dated = False
    if isinstance(head, ResponseHead):
        fields = _passing(head, plan.odd)
        dated = head.dated
        if head.connection:
            drop |= head.connection
        if event_stream:
            drop |= _STREAM_DROPS
        if rewritten:
            drop |= OF_THE_BYTES
            fields = [field for field in fields if not _is_strong_etag(field)]
        kept = [field for field in fields if field[0] not in drop]
        if head.bodiless and head.status >= 200 and head.status != 204 and not rewritten:
            kept += [field for field in fields if field[0] == b"content-length"]
        if head.framing == CHUNKED and not event_stream:
            kept += [field for field in fields if field[0] == b"trailer"]
        kept.append((b"via", head.version + b" " + via))
    else:
        fields = head
        if event_stream:
            drop |= _STREAM_DROPS
        kept = [field for field in fields if field[0] not in drop]
    kept.append((request_id_header, request_id))
    if date and not dated:
        kept.append((b"date", date))
    if event_stream:
        said = [value for name, value in fields if name == b"cache-control"]
        kept += [(b"cache-control", of_stream(tuple(said))), _UNBUFFERED]
    if plan.ours:
        kept = [field for field in kept if field[0] not in plan.ours]
    if set_fields:
        kept += set_fields
    return kept


_LATE_OF_THE_BYTES: Final = OF_THE_BYTES | {b"etag"}


def _is_strong_etag(field: tuple[bytes, bytes]) -> bool:
    return field[0] == b"etag" and not field[1].startswith(b"W/")


def response_late(
    head: ResponseHead,
    *,
    request_id_header: bytes,
    set_fields: tuple[tuple[bytes, bytes], ...] = (),
    remove: frozenset[bytes] = _NOTHING,
    event_stream: bool = False,
) -> Barred:
    """What does not pass among the trailers of this response.

    Those of an event stream say nothing about its bytes: relay may have spoken in between.
    """
    late = _plan(set_fields, remove, request_id_header, _RESPONSE).late
    if event_stream:
        late = _and_named(late, _LATE_OF_THE_BYTES)
    return _and_named(late, head.connection) if head.connection else late


def interim_fields(
    head: ResponseHead,
    *,
    request_id_header: bytes,
    set_fields: tuple[tuple[bytes, bytes], ...] = (),
    remove: frozenset[bytes] = _NOTHING,
) -> Fields:
    """The fields of a 1xx response that is passed on (RFC 9110 §15.2): a 101 keeps its Upgrade,
    nothing is added. What the route sets or removes in the final response is dropped here.
    """
    plan = _plan(set_fields, remove, request_id_header, _RESPONSE)
    drop = plan.drop | head.connection
    fields = _passing(head, plan.odd)
    kept = [field for field in fields if field[0] not in drop]
    if head.status == 101 and head.upgrade is not None:
        kept += [(b"connection", b"upgrade"), (b"upgrade", head.upgrade)]
    return kept
