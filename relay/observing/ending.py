"""How an exchange ended: a closed set of values `(side, phase, cause)`.

Rules: whoever ends first records the Ending and nobody overwrites it; an expected ending is a value, never an
exception; a `Cause` says what happened, the `Side` who caused it, the `Phase` how far the exchange had come.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Side(StrEnum):
    CLIENT = "client"
    UPSTREAM = "upstream"
    RELAY = "relay"


class Phase(StrEnum):
    """How far an exchange has come. The order is the order of the way of the data."""

    HEAD = "head"  # reading the request head
    ROUTE = "route"  # choosing a route; nothing has been sent anywhere
    QUEUED = "queued"  # waiting for its turn (`order_by`)
    DIAL = "dial"  # connecting, TLS handshake
    REQUEST = "request"  # the request is out (or going out), no response head yet
    RESPONSE = "response"  # the response head is in, no body byte was sent
    BODY = "body"  # the body is under way
    TUNNEL = "tunnel"  # after a 101
    DONE = "done"


class Cause(StrEnum):
    """What ended it; the value stands as `ending` in the access log and in `relay_exchanges_total`."""

    COMPLETE = "complete"
    LEFT = "client_left"  # the client closed or reset: normal, never an error
    STALLED = "client_stalled"  # the client stopped reading, or sending, past its deadline
    BAD_REQUEST = "bad_request"  # the client's bytes are not HTTP/1.1 as we accept it
    REFUSED = "refused"  # no route, wrong method, over a limit: answered by relay
    UNREACHABLE = "upstream_unreachable"  # no connection to any url
    BROKE = "upstream_broke"  # closed or reset before the body was whole
    NONSENSE = "upstream_nonsense"  # not HTTP, or framing that contradicts itself
    SILENT = "upstream_silent"  # a clock ran out: head, first event, idle, event idle
    TRUNCATED = "upstream_truncated"  # a clean end without the completion marker of the route
    TOO_LARGE = "event_too_large"  # an event over `max_event` where it cannot pass in parts
    FAILED = "upstream_failed"  # an error answer a source could not use (enqueue, answer)
    MAX_AGE = "max_age"  # the route's age limit
    SHED = "shed"  # over a limit of connections, streams or rate
    STOPPED = "stopped"  # an operator ended it (DELETE /streams/{id})
    DRAINED = "drained"  # ended by shutdown
    UNWATCHED = "unwatched"  # a resumable run that nobody watched for too long
    LOST = "lost"  # a resumable run whose process ended before it did
    FAULT = "fault"  # a bug of ours, logged with its traceback


class Ending(NamedTuple):
    side: Side
    phase: Phase
    cause: Cause
    detail: str = ""  # for the log: what exactly, never a secret, never bytes of a body

    @property
    def clean(self) -> bool:
        """Whether the client received all there was to receive."""
        return self.cause is Cause.COMPLETE


COMPLETE = Ending(Side.UPSTREAM, Phase.BODY, Cause.COMPLETE)  # of a body: whole, and passed on
