"""What relay answers by itself before a source is asked: refusals, preflights, and OPTIONS that ends here.

    head ─► seen before: 508 ─► route of the path ─► preflight: 204 ─► too much asked: 429 ─► no such path: 404
         ─► no such method: 405 ─► a path of two routes: 400 ─► OPTIONS that goes no further: 204 ─► the route's source

Rules
  * The route of the path is found first, whatever the answer: its `cors` and `response_headers` belong to every answer
    on that path. A page that is refused without them sees a network error and no status (Fetch §4.9, the CORS check).
  * A request that relay itself has passed on (its token is in Via, RFC 9110 §7.6.3) has gone round in a circle, as it does
    where an upstream's url is an address of relay's own. It ends the first time it comes back.
  * A preflight is answered before the client's requests are counted. Refused, it would hide the refusal of the request
    behind it, which is counted, and it costs no more than a refusal does.
  * Max-Forwards counts for OPTIONS: at 0 relay is the final recipient, else one less goes on (RFC 9110 §7.6.2). TRACE,
    for which it counts too, is refused everywhere (http/targets.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from relay.exchange import cors, refusal
from relay.exchange.worker import TOKEN, RouteState
from relay.http.bodies import Fields
from relay.http.fault import bad_request
from relay.http.heads import RequestHead
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.table import Ambiguous, Found, MethodNotAllowed, RouteTable
from relay.sources.reply import Reply

MOST_FORWARDS: Final = 255  # hops; RFC 9110 lets each hop bound the number (arbitrary)
_NUMBER: Final = re.compile(rb"[0-9]+")
_NONE: dict[str, bytes] = {}


class Asked(NamedTuple):
    """What a request asks for: a route's source, or what relay says itself (`reply`)."""

    head: RequestHead
    state: RouteState | None = None  # the route; of a 405 and an ambiguous path that of the path
    params: dict[str, bytes] = _NONE
    reply: Reply | None = None


def look(
    head: RequestHead, table: RouteTable[RouteState], shed: Callable[[], Reply | None]
) -> Asked:
    """Find the route of a request, or the answer that it gets without one.

    Args:
        shed: counts the request against its client; a refusal where that was one too many.
    """
    if head.via and TOKEN in head.via:
        of_path = table.find_path(head.path)
        state = of_path.value if isinstance(of_path, Found) else None
        return Asked(head, state, reply=shed() or refusal.loop_detected())
    if head.path == b"*":  # about the server, not a resource of it (RFC 9110 §9.3.7)
        return Asked(head, reply=shed() or allow_reply(table.methods()))
    found = table.find(head.method, head.path)
    if head.method == b"OPTIONS":
        preflight = _preflight(head, table)
        if preflight is not None:
            return preflight
    if isinstance(found, Found):
        refused = shed()
        if refused is None and head.method == b"OPTIONS":
            return _options(head, found, table)
        return Asked(head, found.value, found.params, refused)
    if isinstance(found, MethodNotAllowed | Ambiguous):
        of_path = table.find_path(head.path)
        state = of_path.value if isinstance(of_path, Found) else None
        if isinstance(found, Ambiguous):
            return Asked(head, state, reply=shed() or refusal.ambiguous_path())
        return Asked(head, state, reply=shed() or refusal.method_not_allowed(found.allow))
    return Asked(head, reply=shed() or refusal.not_found())


def allow_reply(methods: tuple[bytes, ...]) -> Reply:
    """The answer to an OPTIONS of which relay is the final recipient."""
    ending = Ending(Side.RELAY, Phase.ROUTE, Cause.COMPLETE, "options")
    return Reply(204, [(b"allow", b", ".join(methods))], ending=ending)


def _preflight(head: RequestHead, table: RouteTable[RouteState]) -> Asked | None:
    """The answer to a preflight, by the route that the request behind it would take: a route that takes OPTIONS as
    well, or a catch-all beneath it, must not send it to an upstream."""
    asked = cors.asked_method(head)
    if asked is None:
        return None
    found = table.find(asked, head.path)
    if not isinstance(found, Found):
        found = table.find_path(head.path)
    if not isinstance(found, Found):
        return None
    state = found.value
    methods = state.methods if state.methods is not None else frozenset((asked,))
    reply = cors.preflight(state.route, methods, head)
    return None if reply is None else Asked(head, found.value, reply=reply)


def _options(head: RequestHead, found: Found[RouteState], table: RouteTable[RouteState]) -> Asked:
    """An OPTIONS for a route that takes it, which may have no further hop."""
    asked = Asked(head, found.value, found.params)
    values = [value for name, value in head.fields if name == b"max-forwards"]
    if not values or not found.value.route.source.upstreams:
        return asked
    if len(values) > 1 or _NUMBER.fullmatch(values[0]) is None:
        fault = bad_request("Max-Forwards is not one decimal number")
        return asked._replace(reply=refusal.of_fault(fault, Phase.ROUTE))
    digits = values[0].lstrip(b"0")
    if not digits:
        return asked._replace(reply=allow_reply(table.allowed(head.path)))
    left = MOST_FORWARDS if len(digits) > 3 else min(int(digits) - 1, MOST_FORWARDS)
    fields = [field for field in head.fields if field[0] != b"max-forwards"]
    fields.append((b"max-forwards", b"%d" % left))
    return asked._replace(head=replace(head, fields=fields))


def cors_of(path: bytes, request: Fields, table: RouteTable[RouteState]) -> Fields:
    """The CORS fields of an answer on `path`, where the request was not read as a head."""
    found = table.find_path(path)
    policy = found.value.route.cors if isinstance(found, Found) else None
    return cors.fields_for(policy, request) if policy is not None else []
