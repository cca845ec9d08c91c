"""A small request of relay's own, and its whole answer.

    reach: a url of the upstream ─► response head ─► read_whole: bounded body ─► back to the pool

What a caller may rely on
  * Everything that goes wrong on the upstream's side is a Failure.
  * However it ends, cancellation included, the connection is given back or closed, and the url's
    count is right.
  * Where the url cannot be reached, the next one is tried: nothing was sent, so nothing is done
    twice.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.config.values import Upstream
from relay.http.bodies import Fields, body_reader
from relay.http.fault import Fault
from relay.http.heads import ResponseHead
from relay.observing.ending import Cause
from relay.sources.attempt import attempt
from relay.sources.context import Context
from relay.sources.reply import Failure, Outgoing, UpstreamBody
from relay.upstreams.origin import Origin
from relay.wires.wire import Gone


class CallResult(NamedTuple):
    """A whole response: its body is decoded from its framing."""

    status: int
    fields: Fields
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is a success (RFC 9110 §15.3)."""
        return 200 <= self.status < 300


async def call(
    context: Context,
    upstream: Upstream,
    method: bytes,
    target: bytes,
    *,
    body: bytes = b"",
    content_type: bytes = b"",
    along: tuple[bytes, ...] = (),
    within: float,
    max_answer: int,
) -> CallResult:
    """Send one request of relay's own and read its whole answer.

    Args:
        along: the client's fields that go along, in lower case.
        within: seconds for all of it: dialling, the head, the last byte of the body.
        max_answer: bytes of the decoded body.

    Raises: Failure (SILENT past the deadline, FAILED for an answer that is too large, and what
        `reach` raises).
    """
    out = context.own_request(upstream, method, target, content_type, body, along)
    with context.alarms.within(within):
        head, answer = await reach(context, upstream, out)
        return CallResult(head.status, head.fields, await read_whole(answer, max_answer))
    raise silent(within)


def silent(within: float) -> Failure:
    """The upstream took too long."""
    return Failure(504, Cause.SILENT, f"no answer from the upstream within {within:g} s")


async def reach(
    context: Context, upstream: Upstream, out: Outgoing
) -> tuple[ResponseHead, UpstreamBody]:
    """The head of the response to `out`, from the first url that can be reached.

    The caller owns the deadline.

    Raises: Failure.
    Resource handling: the caller owns the body, to `read_whole`, to `release`, or to hand on
        in a Reply.
    """
    group = context.group(upstream)
    tried: list[Origin] = []
    while True:  # noqa: ASYNC913 # a turn for each url
        origin = group.choose(tried)
        assert origin is not None, "a group has at least one origin"
        tried.append(origin)
        context.reached(origin.name)
        try:
            return await _counted(context, origin, out)
        except Failure as failure:
            if failure.cause is not Cause.UNREACHABLE or len(tried) == len(group.origins):
                raise


async def _counted(
    context: Context, origin: Origin, out: Outgoing
) -> tuple[ResponseHead, UpstreamBody]:
    origin.streams += 1
    reached = False
    try:
        # Who called has the deadline: no second clock beside it.
        head, body = await attempt(context, origin, out, float("inf"))
        reached = True
    finally:
        if not reached:
            origin.streams -= 1
    return head, body


async def read_whole(body: UpstreamBody, limit: int) -> bytes:
    """The decoded body, of at most `limit` bytes. The caller owns the deadline. Raises: Failure."""
    pieces: list[bytes] = []
    left = limit
    try:
        if body.framing > limit:
            raise _too_large(limit)
        reader = body_reader(body.framing, "upstream")
        fresh = body.first
        while not reader.done:
            if fresh:
                payload = reader.feed(fresh)
                pieces.append(payload)
                left -= len(payload)
                if left < 0:
                    raise _too_large(limit)
                if reader.done:
                    break
            fresh = await body.wire.receive()
            if not fresh and not reader.eof():
                raise Gone
        # Bytes behind the body answer a question nobody put: such a connection serves no more.
        surplus = fresh if body.framing == 0 else reader.surplus
        if not surplus:
            body.lease.answer_whole()
        return b"".join(pieces)
    except Gone:
        body.origin.failed("broke")
        raise Failure(502, Cause.BROKE, "the upstream closed before its answer was whole") from None
    except Fault as fault:
        raise Failure(502, Cause.NONSENSE, fault.message) from None
    finally:
        body.release()


def _too_large(limit: int) -> Failure:
    return Failure(
        502,
        Cause.FAILED,
        f"the upstream's answer is over the limit of {limit} bytes",
        code="answer_too_large",
        retryable=False,
    )
