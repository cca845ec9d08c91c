"""Cross-origin requests (Fetch §3.2): the preflight is answered here, responses get their fields.

Both only for origins the route names; any other origin gets no CORS field at all, so its browser refuses.
"""

from __future__ import annotations

from relay.config.values import Cors, Route
from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.http.names import folded
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.reply import Reply


def asked_method(head: RequestHead) -> bytes | None:
    """The method that a preflight asks for; None where an OPTIONS request is not one."""
    return _field(head.fields, b"access-control-request-method")


def preflight(route: Route, head: RequestHead, method: bytes) -> Reply | None:
    """The answer to a preflight for `method`, without the fields of every answer (`fields_for`); None where the route
    leaves it to the upstream."""
    policy = route.cors
    if policy is None:
        return None
    ending = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE, "preflight")
    reply = Reply(204, [], ending=ending)
    if _allowed(policy, head.fields) is None:
        return reply
    methods = policy.methods or tuple(sorted(route.methods or (method,)))
    reply.fields.append((b"access-control-allow-methods", b", ".join(methods)))
    wanted = _field(head.fields, b"access-control-request-headers")
    headers = b", ".join(policy.headers) if policy.headers else wanted
    if headers:
        reply.fields.append((b"access-control-allow-headers", headers))
    reply.fields.append((b"access-control-max-age", b"%d" % int(policy.max_age)))
    return reply


def fields_for(policy: Cors, request: Fields) -> Fields:
    """What every answer to a request with these fields says."""
    fields: Fields = [(b"vary", b"Origin")]
    allowed = _allowed(policy, request)
    if allowed is None:
        return fields
    fields.append((b"access-control-allow-origin", allowed))
    if policy.credentials:
        fields.append((b"access-control-allow-credentials", b"true"))
    if policy.expose:
        fields.append((b"access-control-expose-headers", b", ".join(policy.expose)))
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
