"""Before anything is decided: who may, and what the request's body says (for a key, a principal, an auth path)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.exchange.upload import BodyReading
from relay.http.bodies import body_reader
from relay.http.fault import Fault
from relay.http.serialise import response_bytes
from relay.sources.authorize import authorize
from relay.sources.json_body import read_json, without_mark
from relay.sources.reply import Reply
from relay.sse.json_line import NotJSON

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange


async def refused(exchange: Exchange) -> Reply | None:
    """Ask who may, where the route says so; a Reply where the answer is no. Raises: Failure, Fault."""
    plan = exchange.route.auth
    if plan is None:
        return None
    body = None
    if any(name.startswith("body.") for name in plan.path.names):
        payload = await look(exchange, plan.max_body)
        if payload is None:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        body = await json_in(exchange, payload)
    found = await authorize(plan, exchange, body)
    if isinstance(found, Reply):
        return found
    exchange.granted = found
    return None


async def look(exchange: Exchange, limit: int) -> bytes | None:
    """The payload of the request's body, which stays there for whoever sends it on.

    Returns: None if it is longer than `limit` bytes; then a part of it may still be to come.
    Raises: Fault (415 for a coded body: what is in it cannot be told).
    """
    body, head = exchange.body, exchange.head
    if body is None:
        return b""
    if any(
        name == b"content-encoding" and value.lower() != b"identity" for name, value in head.fields
    ):
        raise Fault("client", 415, "coded_body", "the body of this request must not be compressed")
    if head.framing > limit:
        return None
    if not body.done and head.expects_continue and not body.received:
        await exchange.say(response_bytes(100, b"", []))
    reading = BodyReading(exchange)
    while not body.done and body.size <= limit:
        body.take(await reading.next())
    if body.size > limit:
        return None
    return body.opening() if body.bare else body_reader(head.framing, "client").feed(body.opening())


async def json_in(exchange: Exchange, payload: bytes | None) -> object:
    """The JSON value in a body that was looked at; None where it is none."""
    if not payload:
        return None
    try:
        return await read_json(without_mark(payload), _as_it_is, exchange.threads.json)
    except NotJSON:
        return None


def _as_it_is(value: object) -> object:
    return value
