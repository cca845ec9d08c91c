"""One request to one origin, up to the head of its response.

    take an idle wire or dial ─► head (+ what there is of the body) ─► 1xx passed on ─► final head

Who can cancel: the client's leaving (the exchange's scope), at every await. The wire is closed on every way out but the
return; a dial that is cancelled leaves nothing open.
"""

from __future__ import annotations

from math import inf

import trio

from relay.http.fault import Fault
from relay.http.head_rules import connection_tokens
from relay.http.heads import ResponseHead, parse_response
from relay.http.serialise import request_bytes
from relay.observing.ending import Cause, Phase, Side
from relay.sources.context import Context
from relay.sources.reply import Failure, Outgoing, UpstreamBody
from relay.sources.request_body import RequestBody
from relay.upstreams.dial import DialError, dial
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.connecting import Connecting
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired, Gone


class Stale(Exception):
    """A kept-alive connection had died before any response byte.

    What was sent on it may have been processed all the same, so only an idempotent request is repeated (RFC 9110
    §9.2.2; docs/decisions/0004).
    """


class Begun:
    """An attempt whose first half was done elsewhere: the url is chosen and counted, and the request is out where there is a
    lease.

    Resource handling: owns the count, the lease and the dial until it is `taken`; `give_up` is for whoever has it then.
    """

    __slots__ = ("came", "dial", "dial_by", "lease", "origin", "taken")

    def __init__(
        self,
        origin: Origin,
        lease: Lease | None,
        came: bytes = b"",
        dial: Connecting | None = None,
        dial_by: float = inf,
    ) -> None:
        self.origin = origin
        self.lease = lease  # None: there is no idle connection
        self.came = came  # of the answer
        self.dial = dial  # a connection on its way; None: it is still to be begun
        self.dial_by = dial_by  # absolute seconds
        self.taken = False

    def give_up(self) -> None:
        """Close the connection, unless somebody goes on with it. Idempotent."""
        if not self.taken:
            self.taken = True
            self.origin.streams -= 1
            if self.lease is not None:
                self.lease.release()
            if self.dial is not None:
                self.dial.close()


def request_to(out: Outgoing, origin: Origin) -> bytes:
    """The head of a request to one url."""
    target = origin.url.base_path.encode("ascii") + out.target
    return request_bytes(out.method, target, out.fields(origin))


def send_whole(lease: Lease, request: bytes, write: float) -> None:
    """Send a request whose body, if it has one, is all there. The response head is due from now on.

    Args:
        write: seconds a write may stay without progress.
    """
    lease.wire.write_within = write
    lease.wire.post(request)
    lease.request_sent()


async def attempt(
    context: Context, origin: Origin, out: Outgoing, within: float, begun: Begun | None = None
) -> tuple[ResponseHead, UpstreamBody]:
    """Send `out` to `origin` and wait for the final response head.

    Args:
        within: seconds from the request's last byte of head to the response head (absolute deadline).
        begun: what was done of it already.

    Raises:
        Failure: with whether another attempt is allowed.
    """
    request = request_to(out, origin)
    if out.payload is not None:
        request += out.payload
    body = context.body if out.payload is None else None
    again = out.resent_safely and (body is None or body.resendable)
    if begun is not None:
        held = begun.lease
    else:
        wire = origin.take(again=again)
        held = None if wire is None else Lease(origin, wire, reused=True)
    if held is not None:
        try:
            return await _converse(context, held, out, request, body, within, begun)
        except Stale:
            if not again:
                raise _broke("the upstream closed a kept-alive connection") from None
        begun = None
    lease = Lease(origin, await _dial(context, origin, begun), reused=False)
    return await _converse(context, lease, out, request, body, within)


async def _dial(context: Context, origin: Origin, begun: Begun | None) -> SocketWire:
    context.phase = Phase.DIAL
    seconds = context.route.timeouts.connect
    under_way, left = None, seconds
    if begun is not None and begun.dial is not None:
        under_way, left = begun.dial, max(0.0, begun.dial_by - trio.current_time())
    with context.alarms.within(left):
        try:
            return await dial(
                origin.url, origin.upstream, context.engine, context.alarms, under_way
            )
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
    context: Context,
    lease: Lease,
    out: Outgoing,
    request: bytes,
    body: RequestBody | None,
    within: float,
    begun: Begun | None = None,
) -> tuple[ResponseHead, UpstreamBody]:
    """Write the request (unless that was done), read the response head. The lease is released unless this returns.

    Only the read side tells what became of the request: a write that fails may follow an answer that says why.
    """
    wire, origin = lease.wire, lease.origin
    context.phase = Phase.REQUEST
    kept = False
    try:
        await trio.lowlevel.checkpoint_if_cancelled()  # nothing is sent for a client that has left
        # Where an attempt was begun, the request is out.
        came = begun.came if begun else _write(context, lease, request, body, within)
        head, rest = await _response_head(context, lease, out, came)
        wire.read_by = inf
        context.phase = Phase.RESPONSE
        if head.status == 101:
            _check_switch(head, out, lease)
        kept = True
        origin.worked()
        return head, UpstreamBody(lease, head.framing, rest)
    except _Ended:
        if lease.reused and not lease.heard:
            raise Stale from None
        origin.failed("broke")
        raise _broke("the upstream closed before it answered", answered=lease.heard) from None
    except Expired as expired:
        if expired.side is not wire.side:
            raise  # the client took nothing of an interim response
        origin.failed("timeout")
        message = f"no response head within {within:g} s"
        raise Failure(504, Cause.SILENT, message, answered=lease.heard) from None
    except Fault as fault:
        raise Failure(502, Cause.NONSENSE, fault.message, answered=True) from None
    finally:
        if not kept:
            lease.release()
            await context.stop_upload()  # noqa: ASYNC102 # cancelled, it returns at once, and so does the upload


def _write(
    context: Context, lease: Lease, request: bytes, body: RequestBody | None, within: float
) -> bytes:
    """Write the request, as far as it is there; a child of the exchange has the rest of its body. Returns: what a new
    connection had brought before it was asked."""
    wire, write = lease.wire, context.route.timeouts.write
    early = b"" if lease.reused else lease.unasked()
    if body is None:
        send_whole(lease, request, write)
    else:
        wire.write_within = write
        wire.post(request + body.opening())
        body.sent()
        if not body.done:
            context.upload(lease, within)
            return early
        lease.request_sent()
    wire.read_by = trio.current_time() + within
    return early


class _Ended(Exception):
    """The upstream closed or broke before the final head was whole."""


async def _response_head(
    context: Context, lease: Lease, out: Outgoing, data: bytes
) -> tuple[ResponseHead, bytes]:
    """The final head, and what came behind it; `data` is what there is already.

    Raises: _Ended, Expired (of either side), Fault; Gone is the client's, from passing on an interim head.
    """
    wire = lease.wire
    limit = context.route.limits.response_head
    interim = 0  # bytes of 1xx heads. Their number is not bounded: 102 says "still at work", again and again
    while True:
        parsed = parse_response(data, out.method, limit) if data else None
        if parsed is not None:
            head, used = parsed
            data = data[used:]
            if head.status >= 200 or head.status == 101:
                lease.answered(head)
                context.answered(head.status)
                return head, data
            interim += used
            if interim > limit:
                raise _nonsense("too many interim responses")
            due, began = wire.read_by, trio.current_time()
            await context.interim(head)
            if wire.read_by == due:  # the time a client takes to read is not the upstream's
                wire.read_by = due + trio.current_time() - began
            continue
        try:
            more = await wire.receive()
        except Gone:
            raise _Ended from None
        if not more:
            raise _Ended
        lease.heard = True
        data = data + more if data else more


def _check_switch(head: ResponseHead, out: Outgoing, lease: Lease) -> None:
    """A 101 must name what the request offered, and come behind all of it (RFC 9110 §7.8). Raises: Fault.

    Otherwise a tunnel would be opened past every rule for messages.
    """
    if head.upgrade is None or out.upgrade is None:
        offered = False
    else:
        offered = connection_tokens(head.upgrade) <= connection_tokens(out.upgrade)
    if not offered:
        raise _nonsense("the upstream switched to a protocol nobody asked for")
    if not lease.request_taken:
        raise _nonsense("the upstream switched protocols in the middle of the request")


def _nonsense(message: str) -> Fault:
    return Fault("upstream", 502, "bad_response", message)


def _broke(message: str, *, answered: bool = False) -> Failure:
    return Failure(502, Cause.BROKE, message, answered=answered)
