"""One request to one origin, up to the head of its response.

    take an idle wire or dial ─► head (+ what there is of the body) ─► 1xx passed on ─► final head

Who can cancel: the client's leaving (the exchange's scope), at every await. The wire is closed on every way out but the
return; a dial that is cancelled leaves nothing open.
"""

from __future__ import annotations

from math import inf

import trio

from relay.http.fault import Fault
from relay.http.heads import ResponseHead, parse_response
from relay.http.serialise import request_bytes
from relay.observing.ending import Cause, Phase, Side
from relay.sources.ask import Ask
from relay.sources.reply import Failure, Outgoing, UpstreamBody
from relay.sources.request_body import RequestBody
from relay.upstreams.dial import DialError, dial
from relay.upstreams.origin import Origin
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired, Gone


class Stale(Exception):
    """A kept-alive connection had died before any response byte.

    What was sent on it may have been processed all the same, so only an idempotent request is repeated (RFC 9110
    §9.2.2; docs/decisions/0004).
    """


async def attempt(
    ask: Ask, origin: Origin, out: Outgoing, within: float
) -> tuple[ResponseHead, UpstreamBody]:
    """Send `out` to `origin` and wait for the final response head.

    Args:
        within: seconds from the request's last byte of head to the response head (absolute deadline).

    Raises:
        Failure: with whether another attempt is allowed.
    """
    target = origin.url.base_path.encode("ascii") + out.target
    request = request_bytes(out.method, target, out.fields(origin))
    if out.payload is not None:
        request += out.payload
    body = ask.body if out.payload is None else None
    wire = origin.take()
    if wire is not None:
        try:
            return await _converse(
                ask, origin, wire, request, body, out.method, within, reused=True
            )
        except Stale:
            if not out.resent_safely or not (body is None or body.resendable):
                raise _broke("the upstream closed a kept-alive connection") from None
    wire = await _dial(ask, origin)
    return await _converse(ask, origin, wire, request, body, out.method, within, reused=False)


async def _dial(ask: Ask, origin: Origin) -> SocketWire:
    ask.phase = Phase.DIAL
    seconds = ask.route.timeouts.connect
    with trio.move_on_after(seconds):
        try:
            return await dial(origin.url, origin.upstream, ask.engine, ask.alarms)
        except DialError as error:
            origin.failed(error.cause)
            if error.cause == "exhausted":
                raise _exhausted(error) from None
            raise Failure(
                502,
                Cause.UNREACHABLE,
                f"no connection to the upstream ({error.cause})",
                detail=str(error),
            ) from None
    origin.failed("timeout")
    raise Failure(504, Cause.UNREACHABLE, f"no connection to the upstream within {seconds:g} s")


def _exhausted(error: DialError) -> Failure:
    """Our own lack, not the upstream's: the client may come back."""
    return Failure(
        503,
        Cause.UNREACHABLE,
        "no connection to the upstream (exhausted)",
        side=Side.RELAY,
        code="overloaded",
        detail=str(error),
    )


async def _converse(
    ask: Ask,
    origin: Origin,
    wire: SocketWire,
    request: bytes,
    body: RequestBody | None,
    method: bytes,
    within: float,
    *,
    reused: bool,
) -> tuple[ResponseHead, UpstreamBody]:
    """Write the request, read the response head. The wire is closed unless this returns."""
    ask.phase = Phase.REQUEST
    kept = False
    try:
        wire.write_within = ask.route.timeouts.write
        try:
            await wire.send(request if body is None else request + body.opening())
        except Gone:
            raise _NoAnswer(False) from None
        if body is not None:
            body.sent()
        if body is None or body.done:
            wire.read_by = trio.current_time() + within
        else:
            ask.upload(wire, within)
        head, rest = await _response_head(ask, wire, method)
        wire.read_by = inf
        kept = True
        ask.phase = Phase.RESPONSE
        origin.worked()
        return head, UpstreamBody(wire, origin, head.framing, rest, head.keep_alive)
    except _NoAnswer as silence:
        if reused and not silence.started:
            raise Stale from None
        origin.failed("broke")
        raise _broke("the upstream closed before it answered") from None
    except Expired as expired:
        if expired.side is not wire.side:
            raise  # the client took nothing of an interim response
        origin.failed("timeout")
        raise Failure(504, Cause.SILENT, f"no response head within {within:g} s") from None
    except Fault as fault:
        raise Failure(502, Cause.NONSENSE, fault.message) from None
    finally:
        if not kept:
            wire.close()
            await ask.stop_upload()


class _NoAnswer(Exception):
    """The upstream closed; `started` tells whether part of a head had come."""

    def __init__(self, started: bool) -> None:
        super().__init__()
        self.started = started


async def _response_head(ask: Ask, wire: SocketWire, method: bytes) -> tuple[ResponseHead, bytes]:
    data = b""
    limit = ask.route.limits.response_head
    interim = 0  # bytes of 1xx heads. How many there are is the upstream's affair: 102 says "still at work"
    while True:
        parsed = parse_response(data, method, limit) if data else None
        if parsed is not None:
            head, used = parsed
            data = data[used:]
            if head.status >= 200 or head.status == 101:
                return head, data
            interim += used
            if interim > limit:
                raise Fault("upstream", 502, "bad_response", "too many interim responses")
            due, began = wire.read_by, trio.current_time()
            await ask.interim(head)
            if wire.read_by == due:  # the time a client takes to read is not the upstream's
                wire.read_by = due + trio.current_time() - began
            continue
        try:
            more = await wire.receive()
        except Gone:
            raise _NoAnswer(bool(data) or interim > 0) from None
        if not more:
            raise _NoAnswer(bool(data) or interim > 0)
        data = data + more if data else more


def _broke(message: str) -> Failure:
    return Failure(502, Cause.BROKE, message)
