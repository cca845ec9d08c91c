"""Cross-origin requests (Fetch §3.2): the preflight is answered here, responses get their fields.

Both only for origins the route names; any other origin gets no CORS field at all, so its browser refuses.
"""

from __future__ import annotations

from typing import Final

from relay.config.values import Cors, Route
from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.http.names import folded
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.reply import Reply


def asked_method(head: RequestHead) -> bytes | None:
    """The method that a preflight asks for; None where an OPTIONS request is not one."""
    return _field(head.fields, b"access-control-request-method")


# A reader that comes back names its cursor, and learns from these where it reads and may read again.
_CURSOR: Final = b"last-event-id"
_HANDLES: Final = (b"relay-run", b"content-location", b"location")


def preflight(route: Route, methods: frozenset[bytes], head: RequestHead) -> Reply | None:
    """The answer to a preflight, without the fields of every answer (`fields_for`); None where the route leaves it to the
    upstream.

    Args:
        methods: those that may be asked for where the policy names none.
    """
    policy = route.cors
    if policy is None:
        return None
    ending = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE, "preflight")
    reply = Reply(204, [], ending=ending)
    if _allowed(policy, head.fields) is None:
        return reply
    allowed = policy.methods or tuple(sorted(methods))
    reply.fields.append((b"access-control-allow-methods", b", ".join(allowed)))
    wanted = _field(head.fields, b"access-control-request-headers")
    named = policy.headers
    if named and route.resume is not None and _CURSOR not in named:
        named = (*named, _CURSOR)
    headers = b", ".join(named) if named else wanted
    if headers:
        reply.fields.append((b"access-control-allow-headers", headers))
    reply.fields.append((b"access-control-max-age", b"%d" % int(policy.max_age)))
    return reply


def fields_for(policy: Cors, request: Fields, *, resumes: bool = False) -> Fields:
    """What every answer to a request with these fields says. `resumes`: it may be one of a resumable stream."""
    fields: Fields = [(b"vary", b"Origin")]
    allowed = _allowed(policy, request)
    if allowed is None:
        return fields
    fields.append((b"access-control-allow-origin", allowed))
    if policy.credentials:
        fields.append((b"access-control-allow-credentials", b"true"))
    expose = policy.expose
    if resumes:
        expose = (*expose, *(name for name in _HANDLES if name not in expose))
    if expose:
        fields.append((b"access-control-expose-headers", b", ".join(expose)))
    return fields


def without_upstreams(fields: Fields) -> Fields:
    """The fields of an upstream's response without those that the route's own replace, however it spells them."""
    return [field for field in fields if not folded(field[0]).startswith(b"access_control_")]


def _allowed(policy: Cors, request: Fields) -> bytes | None:
    """The origin that may read the answer; None: none that the request names."""
    origin = _field(request, b"origin")
    if origin is None:
        return None
    if policy.origins == (b"*",):
        return origin if policy.credentials else b"*"
    return origin if origin in policy.origins else None


def _field(fields: Fields, wanted: bytes) -> bytes | None:
    for name, value in fields:
        if name == wanted:
            return value
    return None
