"""Before anything is decided: who may, and what the request's body says (for a key, a principal, an auth path)."""

from __future__ import annotations

from typing import Protocol

import trio

from relay.exchange.upload import BodyReading
from relay.http.bodies import body_reader
from relay.http.fault import Fault
from relay.sources.authorize import Grant, authorize
from relay.sources.context import Context
from relay.sources.json_body import read_json, without_mark
from relay.sources.reply import Reply
from relay.sse.json_line import NotJSON


class Looked(Context, Protocol):
    """A request whose body is looked at before its source is asked."""

    async def reading(self) -> BodyReading:
        """Reads of its body; a client that waits for a 100 gets it."""


async def granted(asked: Looked) -> Grant | Reply | None:
    """Ask who may, where the route says so; a Reply where the answer is no. Raises: Failure, Fault."""
    plan = asked.route.auth
    if plan is None:
        return None
    body = None
    if any(name.startswith("body.") for name in plan.path.names):
        payload = await look(asked, plan.max_body)
        if payload is None:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        body = await json_in(payload, asked.threads.json)
    return await authorize(plan, asked, body)


async def look(asked: Looked, limit: int) -> bytes | None:
    """The payload of the request's body, which stays there for whoever sends it on.

    Returns: None if it is longer than `limit` bytes; then a part of it may still be to come.
    Raises: Fault (415 for a coded body: what is in it cannot be told).
    """
    body, head = asked.body, asked.head
    if body is None:
        return b""
    if any(
        name == b"content-encoding" and value.lower() != b"identity" for name, value in head.fields
    ):
        raise Fault("client", 415, "coded_body", "the body of this request must not be compressed")
    if head.framing > limit:
        return None
    reading = await asked.reading()
    while not body.done and body.size <= limit:
        body.take(await reading.next())
    if body.size > limit:
        return None
    return body.opening() if body.bare else body_reader(head.framing, "client").feed(body.opening())


async def json_in(payload: bytes | None, limiter: trio.CapacityLimiter) -> object:
    """The JSON value in a body that was looked at; None where it is none."""
    if not payload:
        return None
    try:
        return await read_json(without_mark(payload), _as_it_is, limiter)
    except NotJSON:
        return None


def _as_it_is(value: object) -> object:
    return value
