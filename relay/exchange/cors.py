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
    """The answer to a preflight for `method`; None where the route leaves it to the upstream."""
    policy = route.cors
    if policy is None:
        return None
    fields: Fields = []
    ending = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE, "preflight")
    reply = Reply(204, fields, ending=ending)
    add_fields(policy, head, fields)
    if not any(name == b"access-control-allow-origin" for name, _ in fields):
        return reply
    methods = policy.methods or tuple(sorted(route.methods or (method,)))
    fields.append((b"access-control-allow-methods", b", ".join(methods)))
    wanted = _field(head.fields, b"access-control-request-headers")
    headers = b", ".join(policy.headers) if policy.headers else wanted
    if headers:
        fields.append((b"access-control-allow-headers", headers))
    fields.append((b"access-control-max-age", b"%d" % int(policy.max_age)))
    return reply


def add_fields(policy: Cors, head: RequestHead, fields: Fields) -> None:
    """Put the route's CORS fields in place of the upstream's, however it spells them."""
    fields[:] = [f for f in fields if not folded(f[0]).startswith(b"access_control_")]
    origin = _field(head.fields, b"origin")
    fields.append((b"vary", b"Origin"))
    if origin is None:
        return
    anyone = policy.origins == (b"*",)
    if not anyone and origin not in policy.origins:
        return
    fields.append(
        (b"access-control-allow-origin", b"*" if anyone and not policy.credentials else origin)
    )
    if policy.credentials:
        fields.append((b"access-control-allow-credentials", b"true"))
    if policy.expose:
        fields.append((b"access-control-expose-headers", b", ".join(policy.expose)))


def _field(fields: Fields, wanted: bytes) -> bytes | None:
    for name, value in fields:
        if name == wanted:
            return value
    return None
